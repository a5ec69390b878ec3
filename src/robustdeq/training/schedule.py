"""What changes over a run: the attack and the solver by phases, the learning rate by step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ..checks import Count, Natural, NonNegative, Number, PositiveShare, Share
from ..dynamics import SOLVERS
from ..gradients import GRADIENTS
from ..options import Registry, checked


@checked
@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs with one attack.

    attack_steps: 0 trains on clean images, 1 is FGSM with a random start. step_size: in pixel units of [0, 1].
    solver_steps: N in this phase; None takes the model's. solver: of this phase; None takes the model's. gradient: of
    this phase, in attack and update; None takes the config's. The papers warm up on clean images with the network
    unrolled: ``Phase(attack_steps=0, solver="picard", gradient="unrolled")``.
    """

    epochs: Count
    attack_steps: Natural
    step_size: NonNegative = 2 / 255
    solver_steps: Count | None = None
    solver: Annotated[Any, SOLVERS] | None = None
    gradient: Annotated[Any, GRADIENTS] | None = None


class Schedule(ABC):
    """The learning rate of every step, as a share of its peak."""

    name: ClassVar[str]

    @abstractmethod
    def share(self, done: float) -> float:
        """In [0, 1]; done: the share of the run that is over after this step, in (0, 1]."""


SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule)


@SCHEDULES.register
@dataclass(frozen=True)
class OneCycle(Schedule):
    """Linear to the peak over the first ``warmup`` of the run, then a cosine to 0."""

    name: ClassVar[str] = "one-cycle"
    warmup: Annotated[float, Number(0, 1, low_open=True, high_open=True)] = 0.3

    def share(self, done: float) -> float:
        if done <= self.warmup:
            return done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


@SCHEDULES.register
@dataclass(frozen=True)
class Cosine(Schedule):
    """From the peak along a cosine to ``floor`` of it (the papers: lr 1e-3 to 1e-6)."""

    name: ClassVar[str] = "cosine"
    floor: Share = 1e-3

    def share(self, done: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULES.register
@dataclass(frozen=True)
class MultiStep(Schedule):
    """The peak, times ``factor`` at each of the ``milestones``, which are shares of the run."""

    name: ClassVar[str] = "multi-step"
    milestones: Sequence[PositiveShare] = (0.5, 0.75)
    factor: PositiveShare = 0.1

    def share(self, done: float) -> float:
        return self.factor ** sum(done > milestone for milestone in self.milestones)
