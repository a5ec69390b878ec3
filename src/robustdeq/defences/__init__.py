"""What stands between image and label at inference: input entropy reduction (P23) and the readouts of P22."""

from ..models.structure import Defended as Defended
from .entropy_reduction import EntropyReduction as EntropyReduction
from .entropy_reduction import RegulatedClassifier as RegulatedClassifier
from .entropy_reduction import SmoothSign as SmoothSign
from .entropy_reduction import entropy as entropy
from .readouts import EarlyState as EarlyState
from .readouts import Ensemble as Ensemble
from .readouts import Readout as Readout
