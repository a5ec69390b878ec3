"""Adversarial training: configs, objectives, schedules, the loop and its checkpoints."""

from .config import TrainConfig
from .loop import CHECKPOINT, Trainer
from .objectives import OBJECTIVES, PGDAT, TRADES
from .optimizers import OPTIMIZERS
from .regularise import JacobianPenalty
from .schedule import SCHEDULES, Phase
from .watch import summary

__all__ = [
    "CHECKPOINT",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PGDAT",
    "SCHEDULES",
    "TRADES",
    "JacobianPenalty",
    "Phase",
    "TrainConfig",
    "Trainer",
    "summary",
]
