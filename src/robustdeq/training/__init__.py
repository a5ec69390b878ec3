"""Adversarial training: objectives, schedules, the loop and its checkpoints."""

from .loop import TrainConfig, Trainer
from .objectives import OBJECTIVES, PGDAT, TRADES
from .schedule import Phase

__all__ = ["OBJECTIVES", "PGDAT", "TRADES", "Phase", "TrainConfig", "Trainer"]
