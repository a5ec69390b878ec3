"""Honest robust accuracy: which attacks, how they are counted, and the record that is kept."""

from .certificate import Certificate
from .compared import Compared, compare
from .entries import Entry
from .evaluate import evaluate
from .flags import Flag, flags
from .images import KeptImages
from .probes import cost
from .radii import certify
from .readouts import Readouts, readouts
from .record import Record
from .result import Evaluation
from .share import Share
from .suites import SUITES, adaptive, paper, quick, standard, suite

__all__ = [
    "SUITES", "Certificate", "Compared", "Entry", "Evaluation", "Flag", "KeptImages", "Readouts", "Record", "Share",
    "adaptive", "certify", "compare", "cost", "evaluate", "flags", "paper", "quick", "readouts",
    "standard", "suite",
]  # fmt: skip
