"""Adversarial training: configs, objectives, schedules, the loop and its checkpoints."""

from .attacks import TRAINING_ATTACKS as TRAINING_ATTACKS
from .attacks import TrainingAttack as TrainingAttack
from .config import Phase as Phase
from .config import TrainConfig as TrainConfig
from .objectives import MART as MART
from .objectives import OBJECTIVES as OBJECTIVES
from .objectives import PGDAT as PGDAT
from .objectives import TRADES as TRADES
from .objectives import JacobianPenalty as JacobianPenalty
from .objectives import Losses as Losses
from .objectives import Objective as Objective
from .optim import OPTIMIZERS as OPTIMIZERS
from .optim import SCHEDULES as SCHEDULES
from .optim import Schedule as Schedule
from .states import STATE_SAMPLERS as STATE_SAMPLERS
from .states import FinalState as FinalState
from .states import RandomState as RandomState
from .states import SeveralStates as SeveralStates
from .states import StateSampler as StateSampler
from .trainer import CHECKPOINT as CHECKPOINT
from .trainer import Trainer as Trainer
from .watch import summary as summary
