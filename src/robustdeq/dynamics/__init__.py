"""How a state moves. Knows tensors only."""

from .anderson import Anderson
from .broyden import Broyden
from .drive import drive
from .picard import Picard
from .reversible import Reversible
from .solver import SOLVERS, Map, Solver, SolverState, residual
from .trajectory import SolveError, Status, Trajectory

__all__ = [
    "SOLVERS", "Anderson", "Broyden", "Map", "Picard", "Reversible", "SolveError", "Solver", "SolverState", "Status",
    "Trajectory", "drive", "residual",
]  # fmt: skip
