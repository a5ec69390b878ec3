"""Adversarial training: configs, objectives, schedules, the loop and its checkpoints."""

from .attacks import TRAINING_ATTACKS, TrainingAttack
from .config import Phase, TrainConfig
from .objectives import MART, OBJECTIVES, PGDAT, TRADES, Losses, Objective
from .optim import OPTIMIZERS, SCHEDULES, Schedule
from .regularise import JacobianPenalty
from .states import STATE_SAMPLERS, FinalState, RandomState, SeveralStates, StateSampler
from .trainer import CHECKPOINT, Trainer
from .words import summary

__all__ = [
    "CHECKPOINT", "MART", "OBJECTIVES", "OPTIMIZERS", "PGDAT", "SCHEDULES", "STATE_SAMPLERS", "TRADES",
    "TRAINING_ATTACKS", "FinalState", "JacobianPenalty", "Losses", "Objective", "Phase", "RandomState", "Schedule",
    "SeveralStates", "StateSampler", "TrainConfig", "Trainer", "TrainingAttack", "summary",
]  # fmt: skip
