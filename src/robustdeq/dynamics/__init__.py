"""How a state moves. Knows tensors only."""

from ..options import registry
from .anderson import Anderson
from .broyden import Broyden
from .drive import drive
from .picard import Picard
from .reversible import Reversible
from .solver import Map, Solver, SolverState, residual
from .trajectory import SolveError, Status, Trajectory

SOLVERS = registry(Picard, Anderson, Broyden, Reversible)

__all__ = [
    "SOLVERS",
    "Anderson",
    "Broyden",
    "Map",
    "Picard",
    "Reversible",
    "SolveError",
    "Solver",
    "SolverState",
    "Status",
    "Trajectory",
    "drive",
    "residual",
]
