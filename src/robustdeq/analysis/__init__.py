"""A look into the dynamics, as tensors and data frames: no picture is made here."""

from .convergence import PathIndependence as PathIndependence
from .convergence import SpectralRadius as SpectralRadius
from .convergence import path_independence as path_independence
from .convergence import spectral_radius as spectral_radius
from .detector import Detector as Detector
from .detector import detector as detector
from .deviation import Deviation as Deviation
from .deviation import deviation as deviation
from .dynamics import variant as variant
from .evading import Evading as Evading
from .measure import Measure as Measure
from .measure import Measured as Measured
from .states import States as States
from .states import entropy_along as entropy_along
from .states import probabilities_along as probabilities_along
from .states import states_along as states_along
from .summary import Association as Association
from .summary import association as association
from .sweep import Row as Row
from .sweep import Setting as Setting
from .sweep import Sweep as Sweep
from .sweep import sweep as sweep
