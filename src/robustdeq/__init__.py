"""Train, attack, defend, evaluate and look into deep equilibrium models (DEQs)."""

from . import analysis, attacks, data, defences, dynamics, gradients, models, training
from .attacks import L2, Linf
from .defences import EntropyReduction, Smoothing
from .dynamics import Anderson, Broyden, Picard, Reversible, SolveError, Status, Trajectory
from .evaluation import Certificate, Evaluation, certify, evaluate
from .gradients import Implicit, Phantom, SimultaneousAdjoint, Unrolled
from .models import Cell, DEQClassifier, create_model, load_model, load_official, save_model
from .training import RandomState

__all__ = [
    "L2", "Anderson", "Broyden", "Cell", "Certificate", "DEQClassifier", "EntropyReduction", "Evaluation",
    "Implicit", "Linf", "Phantom", "Picard", "RandomState", "Reversible", "SimultaneousAdjoint", "Smoothing",
    "SolveError", "Status", "Trajectory", "Unrolled", "analysis", "attacks", "certify", "create_model", "data",
    "defences", "dynamics", "evaluate", "gradients", "load_model", "load_official", "models", "save_model",
    "training",
]  # fmt: skip

__version__ = "0.1.0"
