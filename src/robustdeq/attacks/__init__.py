"""Threat models, attacks, and the views an attack looks through."""

from .apgd import APGD
from .autoattack import AutoAttack
from .calls import Calls
from .joint import JointOptimisation
from .libraries import ART, Foolbox
from .losses import LOSSES, predictions
from .pgd import PGD
from .threat import L2, THREATS, Linf, Threat
from .views import EndToEnd, Exact, Frozen, IntermediateState, Static, Summed, ThroughGradient, View

__all__ = [
    "APGD", "ART", "L2", "LOSSES", "PGD", "THREATS", "AutoAttack", "Calls", "EndToEnd", "Exact", "Foolbox", "Frozen",
    "IntermediateState", "JointOptimisation", "Linf", "Static", "Summed", "Threat", "ThroughGradient", "View",
    "predictions",
]  # fmt: skip
