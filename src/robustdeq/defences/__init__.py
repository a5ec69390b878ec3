"""What stands between image and label at inference: input entropy reduction (P23), the readouts of P22, and randomised
smoothing."""

from ..models.structure import Defended as Defended
from .entropy_reduction import EntropyReduction as EntropyReduction
from .entropy_reduction import RegulatedClassifier as RegulatedClassifier
from .entropy_reduction import SmoothSign as SmoothSign
from .entropy_reduction import entropy as entropy
from .readouts import EarlyState as EarlyState
from .readouts import Ensemble as Ensemble
from .readouts import Readout as Readout
from .smoothing import SmoothedClassifier as SmoothedClassifier
from .smoothing import Smoothing as Smoothing

METHODS = {RegulatedClassifier.__name__: EntropyReduction}
"""By the class that a record names: the method that puts the defence on again, made of its settings there. Only of what
has a ``trajectory``."""
