"""Adversarial training: configs, objectives, schedules, the loop and its checkpoints."""

from .config import TrainConfig as TrainConfig
from .objectives import OBJECTIVES as OBJECTIVES
from .objectives import PGDAT as PGDAT
from .objectives import TRADES as TRADES
from .objectives import Losses as Losses
from .objectives import Objective as Objective
from .optimizers import OPTIMIZERS as OPTIMIZERS
from .regularise import JacobianPenalty as JacobianPenalty
from .schedule import SCHEDULES as SCHEDULES
from .schedule import Phase as Phase
from .schedule import Schedule as Schedule
from .states import STATE_SAMPLERS as STATE_SAMPLERS
from .states import FinalState as FinalState
from .states import RandomState as RandomState
from .states import StateSampler as StateSampler
from .trainer import CHECKPOINT as CHECKPOINT
from .trainer import Trainer as Trainer
from .watch import summary as summary
