"""Everything that decides a training run but the model and the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..attacks import THREATS, Threat
from ..dynamics.solver import check_count, check_number
from ..gradients import GRADIENTS, Gradient
from ..options import build, check_options, checked, choose, describe
from ..regulation import STATE_SAMPLERS, StateSampler
from .objectives import OBJECTIVES, Objective
from .optimizers import OPTIMIZERS, Optimizer
from .regularise import JacobianPenalty
from .schedule import SCHEDULES, Phase, Schedule

PRECISIONS = {"float32": None, "bfloat16": None}


@dataclass(frozen=True)
class Parts:
    """The objects that the names of a config stand for."""

    objective: Objective
    states: StateSampler
    gradient: Gradient
    attack_gradient: Gradient
    threat: Threat
    optimizer: Optimizer
    schedule: Schedule


@checked
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Where a name stands, ``{"name": ..., option: value}`` and an object are accepted too.

    phases: see ``Phase``. objective: ``pgd-at | trades``. states: ``final | random``, the z^[t] of every forward.
    gradient, attack_gradient: of the update and of its attack, ``unrolled | phantom | implicit | simultaneous``.
    threat, eps: ``Linf | L2``, in pixel units of [0, 1].
    batch_size: of an update; accumulate: it is computed in so many equal pieces. optimizer: ``adam | adamw | sgd``.
    schedule: ``one-cycle | cosine | multi-step`` of the learning rate. clip: largest gradient norm.
    ema: decay of the moving average of the weights, 0 for none. awp: size of the adversarial weight perturbation
    relative to each weight, 0 for none. jacobian: see ``JacobianPenalty``. precision: ``float32``, or ``bfloat16`` by
    autocast.
    pad: of the random crop, in pixels; flip: horizontally.
    validation_points, validation_steps, validation_every: every so many epochs, PGD with so many steps and with both
    gradients on the first so many validation images; 0 points turn it off.
    checkpoint_seconds: a checkpoint is written when the last one is older than this, and after every epoch.
    """

    phases: Sequence[Phase]
    objective: Any = "pgd-at"
    states: Any = "final"
    gradient: Any = "unrolled"
    attack_gradient: Any = "unrolled"
    threat: str = "Linf"
    eps: float = 8 / 255
    batch_size: int = 96
    accumulate: int = 1
    optimizer: Any = "adamw"
    schedule: Any = "one-cycle"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    awp: float = 0.0
    jacobian: JacobianPenalty = field(default_factory=JacobianPenalty)
    precision: str = "float32"
    pad: int = 0
    flip: bool = False
    validation_points: int = 0
    validation_steps: int = 20
    validation_every: int = 1
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        owner = "TrainConfig"
        check_number(owner, "eps", self.eps, 0, 1)
        for name in ("learning_rate", "clip"):
            check_number(owner, name, getattr(self, name), 0, low_open=True)
        for name in ("weight_decay", "awp", "checkpoint_seconds"):
            check_number(owner, name, getattr(self, name), 0)
        check_number(owner, "ema", self.ema, 0, 1, high_open=True)
        for name in ("batch_size", "accumulate", "validation_steps", "validation_every"):
            check_count(owner, name, getattr(self, name))
        for name in ("pad", "seed", "validation_points"):
            check_count(owner, name, getattr(self, name), 0)
        choose("precision", self.precision, PRECISIONS)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"{owner}: accumulate={self.accumulate}; allowed: a divisor of batch_size={self.batch_size}."
            )
        if not self.phases or not all(isinstance(phase, Phase) for phase in self.phases):
            raise ValueError(f"{owner}: phases={self.phases!r}; allowed: at least one Phase.")
        self.parts()

    def parts(self) -> Parts:
        """The objects that the names stand for."""
        return Parts(
            objective=build("objective", self.objective, OBJECTIVES),
            states=build("state sampler", self.states, STATE_SAMPLERS),
            gradient=build("gradient", self.gradient, GRADIENTS),
            attack_gradient=build("gradient", self.attack_gradient, GRADIENTS),
            threat=build("threat", {"name": self.threat, "eps": self.eps}, THREATS),
            optimizer=build("optimizer", self.optimizer, OPTIMIZERS),
            schedule=build("schedule", self.schedule, SCHEDULES),
        )

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch, from 0."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase
            epoch -= phase.epochs
        raise ValueError(f"TrainConfig: epoch {epoch} lies beyond the last phase.")

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> TrainConfig:
        """The config of ``to_dict``'s JSON, or of part of it; a ValueError names an unknown option."""
        check_options("TrainConfig", options, [f.name for f in dataclasses.fields(cls)])
        made = dict(options)
        if "phases" in made:
            made["phases"] = tuple(_nested("phases", Phase, phase) for phase in made["phases"])
        if "jacobian" in made:
            made["jacobian"] = _nested("jacobian", JacobianPenalty, made["jacobian"])
        return cls(**made)

    def to_dict(self) -> dict[str, Any]:
        """The resolved config as JSON: every name with its options."""
        parts = self.parts()
        named = {name: describe(getattr(parts, name)) for name in NAMED}
        return {**dataclasses.asdict(self), **named, "phases": [phase.to_dict() for phase in self.phases]}


def _nested(name: str, cls: type, given: Any) -> Any:
    """An object of ``cls`` from itself or from its fields."""
    if isinstance(given, cls):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"TrainConfig: {name} holds {given!r}; allowed: the fields of {cls.__name__} by name.")
    check_options(cls.__name__, given, [f.name for f in dataclasses.fields(cls)])
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"TrainConfig: {name} holds {dict(given)!r}: {error}.") from error


NAMED = ("objective", "states", "gradient", "attack_gradient", "optimizer", "schedule")
