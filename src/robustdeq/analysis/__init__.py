"""A look into the dynamics, as tensors and data frames: no picture is made here."""

from .convergence import PathIndependence, SpectralRadius, path_independence, spectral_radius
from .detector import Association, Detector, Evading, association, detector
from .dynamics import Deviation, States, deviation, entropy_along, probabilities_along, states_along, variant
from .measure import Measure, Measured
from .sweep import Row, Setting, Sweep, sweep

__all__ = [
    "Association", "Detector", "Deviation", "Evading", "Measure", "Measured", "PathIndependence", "Row", "Setting",
    "SpectralRadius", "States", "Sweep", "association", "detector", "deviation", "entropy_along", "path_independence",
    "probabilities_along", "spectral_radius", "states_along", "sweep", "variant",
]  # fmt: skip
