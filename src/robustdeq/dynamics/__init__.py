"""How a state moves. Knows tensors only."""

from .anderson import Anderson as Anderson
from .broyden import Broyden as Broyden
from .drive import drive as drive
from .picard import Picard as Picard
from .reversible import Reversible as Reversible
from .solver import SOLVERS as SOLVERS
from .solver import Map as Map
from .solver import Solver as Solver
from .solver import SolverState as SolverState
from .solver import residual as residual
from .trajectory import SolveError as SolveError
from .trajectory import Status as Status
from .trajectory import Trajectory as Trajectory
