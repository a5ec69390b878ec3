"""What changes over a run: the attack and the solver by phases, the learning rate by step."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..dynamics import SOLVERS
from ..dynamics.solver import check_count, check_number
from ..gradients import GRADIENTS
from ..options import build, checked, describe, registry


@checked
@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs with one attack.

    attack_steps: 0 trains on clean images, 1 is FGSM with a random start. step_size: in pixel units of [0, 1].
    solver_steps: N in this phase; None takes the model's. solver: of this phase; None takes the model's. gradient: of
    this phase, in attack and update; None takes the config's. The papers warm up on clean images with the network
    unrolled: ``Phase(attack_steps=0, solver="picard", gradient="unrolled")``.
    """

    epochs: int
    attack_steps: int
    step_size: float = 2 / 255
    solver_steps: int | None = None
    solver: Any = None
    gradient: Any = None

    def __post_init__(self) -> None:
        if self.gradient is not None:
            build("gradient", self.gradient, GRADIENTS)
        check_count("Phase", "epochs", self.epochs)
        check_count("Phase", "attack_steps", self.attack_steps, 0)
        check_number("Phase", "step_size", self.step_size, 0)
        if self.solver_steps is not None:
            check_count("Phase", "solver_steps", self.solver_steps)
        if self.solver is not None:
            build("solver", self.solver, SOLVERS)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, objects by their names and options."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, table in (("solver", SOLVERS), ("gradient", GRADIENTS)):
            if found[name] is not None:
                found[name] = describe(build(name, found[name], table))
        return found


class Schedule(ABC):
    """The learning rate of every step, as a share of its peak."""

    name: ClassVar[str]

    @abstractmethod
    def share(self, done: float) -> float:
        """In [0, 1]; done: the share of the run that is over after this step, in (0, 1]."""


@checked
@dataclass(frozen=True)
class OneCycle(Schedule):
    """Linear to the peak over the first ``warmup`` of the run, then a cosine to 0."""

    name: ClassVar[str] = "one-cycle"
    warmup: float = 0.3

    def __post_init__(self) -> None:
        check_number("OneCycle", "warmup", self.warmup, 0, 1, low_open=True, high_open=True)

    def share(self, done: float) -> float:
        if done <= self.warmup:
            return done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


@checked
@dataclass(frozen=True)
class Cosine(Schedule):
    """From the peak along a cosine to ``floor`` of it (the papers: lr 1e-3 to 1e-6)."""

    name: ClassVar[str] = "cosine"
    floor: float = 1e-3

    def __post_init__(self) -> None:
        check_number("Cosine", "floor", self.floor, 0, 1)

    def share(self, done: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@checked
@dataclass(frozen=True)
class MultiStep(Schedule):
    """The peak, times ``factor`` at each of the ``milestones``, which are shares of the run."""

    name: ClassVar[str] = "multi-step"
    milestones: Sequence[float] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_number("MultiStep", "factor", self.factor, 0, 1, low_open=True)
        for milestone in self.milestones:
            check_number("MultiStep", "milestones", milestone, 0, 1, low_open=True)

    def share(self, done: float) -> float:
        return self.factor ** sum(done > milestone for milestone in self.milestones)


SCHEDULES = registry(OneCycle, Cosine, MultiStep)
