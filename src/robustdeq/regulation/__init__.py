"""The two methods of P23: input entropy reduction at inference, and the loss from a random state in training."""

from .entropy_reduction import EntropyReduction, RegulatedClassifier, SmoothSign, entropy
from .random_state import STATE_SAMPLERS, FinalState, RandomState, StateSampler

__all__ = [
    "STATE_SAMPLERS",
    "EntropyReduction",
    "FinalState",
    "RandomState",
    "RegulatedClassifier",
    "SmoothSign",
    "StateSampler",
    "entropy",
]
