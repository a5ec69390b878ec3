"""Train, attack, defend, evaluate and look into deep equilibrium models (DEQs)."""

from . import analysis as analysis
from . import attacks as attacks
from . import data as data
from . import defences as defences
from . import dynamics as dynamics
from . import gradients as gradients
from . import models as models
from . import training as training
from .attacks import L2 as L2
from .attacks import Linf as Linf
from .defences import EntropyReduction as EntropyReduction
from .defences import Smoothing as Smoothing
from .dynamics import Anderson as Anderson
from .dynamics import Broyden as Broyden
from .dynamics import Picard as Picard
from .dynamics import Reversible as Reversible
from .dynamics import SolveError as SolveError
from .dynamics import Status as Status
from .dynamics import Trajectory as Trajectory
from .evaluation import Certificate as Certificate
from .evaluation import Evaluation as Evaluation
from .evaluation import certify as certify
from .evaluation import evaluate as evaluate
from .gradients import Implicit as Implicit
from .gradients import Phantom as Phantom
from .gradients import SimultaneousAdjoint as SimultaneousAdjoint
from .gradients import Unrolled as Unrolled
from .models import Cell as Cell
from .models import DEQClassifier as DEQClassifier
from .models import create_model as create_model
from .models import load_model as load_model
from .models import load_official as load_official
from .models import save_model as save_model
from .training import RandomState as RandomState

__version__ = "0.1.0"
