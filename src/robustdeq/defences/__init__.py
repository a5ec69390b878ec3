"""What stands between image and label at inference: input entropy reduction (P23), the readouts of P22, and randomised
smoothing."""

from ..models.structure import Defended
from .entropy_reduction import EntropyReduction, RegulatedClassifier, SmoothSign, entropy
from .readouts import EarlyState, Ensemble, Readout
from .smoothing import SmoothedClassifier, Smoothing

__all__ = [
    "Defended", "EarlyState", "Ensemble", "EntropyReduction", "Readout", "RegulatedClassifier", "SmoothSign",
    "SmoothedClassifier", "Smoothing", "entropy",
]  # fmt: skip

METHODS = {RegulatedClassifier.__name__: EntropyReduction}
"""By the class that a record names: the method that puts the defence on again, made of its settings there. Only of what
has a ``trajectory``."""
