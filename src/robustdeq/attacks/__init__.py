"""Threat models, attacks, and the views an attack looks through."""

from .autoattack import AutoAttack
from .losses import LOSSES, predictions
from .pgd import PGD, check_labels
from .threat import L2, THREATS, Linf, Threat
from .views import EarlyState, EndToEnd, Frozen, IntermediateState, ThroughGradient, Unrolled, View

__all__ = [
    "L2",
    "LOSSES",
    "PGD",
    "THREATS",
    "AutoAttack",
    "EarlyState",
    "EndToEnd",
    "Frozen",
    "IntermediateState",
    "Linf",
    "Threat",
    "ThroughGradient",
    "Unrolled",
    "View",
    "check_labels",
    "predictions",
]
