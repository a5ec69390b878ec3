"""Threat models, attacks, the views an attack looks through, and the readout defences."""

from .autoattack import AutoAttack
from .defended import EndToEnd, Frozen, Static
from .losses import LOSSES, predictions
from .pgd import PGD, check_labels
from .readouts import EarlyState, Ensemble, Readout
from .threat import L2, THREATS, Linf, Threat
from .views import (
    AtState,
    Implicit,
    IntermediateState,
    Phantom,
    SimultaneousAdjoint,
    Summed,
    ThroughGradient,
    Unrolled,
    View,
)

__all__ = [
    "L2",
    "LOSSES",
    "PGD",
    "THREATS",
    "AtState",
    "AutoAttack",
    "EarlyState",
    "EndToEnd",
    "Ensemble",
    "Frozen",
    "Implicit",
    "IntermediateState",
    "Linf",
    "Phantom",
    "Readout",
    "SimultaneousAdjoint",
    "Static",
    "Summed",
    "Threat",
    "ThroughGradient",
    "Unrolled",
    "View",
    "check_labels",
    "predictions",
]
