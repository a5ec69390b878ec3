"""Train, attack, defend, evaluate and look into deep equilibrium models (DEQs)."""

from . import analysis, attacks, data, dynamics, gradients, regulation, training
from .attacks import L2, Linf
from .dynamics import Anderson, Broyden, Picard, Reversible, SolveError, Status, Trajectory
from .evaluation import Evaluation, evaluate
from .gradients import Implicit, Phantom, SimultaneousAdjoint, Unrolled
from .models import Cell, DEQClassifier, create_model, load_model, load_official, save_model
from .regulation import EntropyReduction, RandomState

__version__ = "0.1.0"

__all__ = [
    "L2",
    "Anderson",
    "Broyden",
    "Cell",
    "DEQClassifier",
    "EntropyReduction",
    "Evaluation",
    "Implicit",
    "Linf",
    "Phantom",
    "Picard",
    "RandomState",
    "Reversible",
    "SimultaneousAdjoint",
    "SolveError",
    "Status",
    "Trajectory",
    "Unrolled",
    "analysis",
    "attacks",
    "create_model",
    "data",
    "dynamics",
    "evaluate",
    "gradients",
    "load_model",
    "load_official",
    "regulation",
    "save_model",
    "training",
]
