"""Honest robust accuracy: which attacks, how they are counted, and the record that is kept."""

from ..environment import environment
from .checks import Flag, flags
from .cost import cost
from .entry import Entry, bare
from .evaluate import evaluate
from .images import KeptImages
from .readouts import Readouts, readouts
from .result import Evaluation
from .statistics import Share
from .suite import SUITES, adaptive, paper, quick, standard, suite

__all__ = [
    "SUITES",
    "Entry",
    "Evaluation",
    "Flag",
    "KeptImages",
    "Readouts",
    "Share",
    "adaptive",
    "bare",
    "cost",
    "environment",
    "evaluate",
    "flags",
    "paper",
    "quick",
    "readouts",
    "standard",
    "suite",
]
