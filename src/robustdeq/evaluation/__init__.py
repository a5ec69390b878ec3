"""Honest robust accuracy: which attacks, how they are counted, and the record that is kept."""

from .evaluate import Evaluation, evaluate
from .record import environment
from .statistics import Share
from .suite import SUITES, Entry, bare, quick, standard, suite

__all__ = [
    "SUITES",
    "Entry",
    "Evaluation",
    "Share",
    "bare",
    "environment",
    "evaluate",
    "quick",
    "standard",
    "suite",
]
