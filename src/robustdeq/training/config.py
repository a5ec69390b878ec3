"""Everything that decides a training run but the model and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ..attacks import THREATS
from ..checks import (
    Count,
    Decay,
    Distance,
    Length,
    Natural,
    NonNegative,
    Pixels,
    Positive,
    Seed,
    StepSize,
    set_step_size,
)
from ..defences import EntropyReduction
from ..dynamics import SOLVERS
from ..gradients import GRADIENTS, Unrolled
from ..options import OneOf, checked, describe, make
from ..text import shown
from .attacks import TRAINING_ATTACKS
from .objectives import OBJECTIVES
from .optim import SCHEDULES, Optimizer
from .regularise import JacobianPenalty
from .states import STATE_SAMPLERS

PRECISIONS = {"float32": None, "bfloat16": None}


@checked
@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs with one attack.

    attack: in ``TRAINING_ATTACKS``. attack_steps: 0 trains on clean images. step_size: in pixel units of [0, 1]; None
    is a quarter of the config's eps. solver_steps: N in this phase; None takes the model's. solver: of this phase; None
    takes the model's. gradient: of this phase, in attack and update; None takes the config's. The papers warm up on
    clean images with the network unrolled: ``Phase(attack_steps=0, solver="picard", gradient="unrolled")``.
    """

    epochs: Count
    attack_steps: Natural
    step_size: StepSize = None  # type: ignore[assignment]
    attack: Annotated[Any, TRAINING_ATTACKS] = "pgd"
    solver_steps: Count | None = None
    solver: Annotated[Any, SOLVERS] | None = None
    gradient: Annotated[Any, GRADIENTS] | None = None

    def __post_init__(self) -> None:
        if self.attack.most is not None and self.attack_steps > self.attack.most:
            given = f"attack_steps={self.attack_steps} of attack={self.attack.name!r}"
            raise ValueError(f"Phase: {given}; allowed: at most {self.attack.most}.")


@checked
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Where a name stands, ``{"name": ..., option: value}`` and an object are accepted too, one of your
    own included; the config holds the object.

    phases: see ``Phase``. objective: in ``OBJECTIVES``. states: in ``STATE_SAMPLERS``, the z^[t] of every forward.
    noise: standard deviation of Gaussian noise on the images of an update and of its attack, the same of both, in pixel
    units; pixels are not clipped after it. Without an attack that is the training of Cohen et al. 2019 for smoothing,
    with one SmoothAdv of one draw (Salman et al. 2019, arXiv 1906.04584); the attack ``joint`` sees images without it.
    start_noise: standard deviation of z^[0], drawn for every sample of an update and its attack (path independence,
    Anil et al. 2022, arXiv 2211.09961); 0: z^[0] = 0, as it is deployed. The attack ``joint`` begins at 0, and where it
    is ``warm`` the update at its state.
    gradient, attack_gradient: of the update and of its attack, in ``GRADIENTS``; ``joint`` has one of its own.
    threat: ``Linf | L2`` with the radius ``eps`` in pixel units of [0, 1], default 8/255; or a Threat, which has one.
    batch_size: of an update; accumulate: it is computed in so many equal pieces. optimizer: in ``OPTIMIZERS``, or what
    makes a torch optimizer of (parameters, lr=, weight_decay=).
    schedule: in ``SCHEDULES``, of the learning rate. clip: largest gradient norm. ema: decay of the moving average of
    the weights, 0 for none. awp: size of the adversarial weight perturbation relative to each weight, 0 for none; every
    piece of a batch has its own.
    jacobian: see ``JacobianPenalty``. consistency: weight of ``regularise.state_deviation`` between the dynamics of the
    images and of the attacked ones, which costs two unrolled solves; 0 for none.
    entropy_reduction: the update sees every image as this defence, put on the model in eval mode, leaves it after its
    last step; attack_entropy_reduction: so does its attack, with x' - x held constant (BPDA).
    precision: ``float32``, or ``bfloat16`` by autocast. pad: of the random crop, in pixels; flip: horizontally.
    validation_points, validation_steps, validation_every: every so many epochs, PGD with so many steps and with both
    gradients on the first so many validation images, on all where there are fewer; 0 points turn it off.
    checkpoint_seconds: a checkpoint is written when the last one is older than this, and after every epoch.
    """

    phases: Annotated[Sequence[Phase], Length()]
    objective: Annotated[Any, OBJECTIVES] = "pgd-at"
    states: Annotated[Any, STATE_SAMPLERS] = "final"
    noise: Distance = 0.0
    start_noise: NonNegative = 0.0
    gradient: Annotated[Any, GRADIENTS] = "unrolled"
    attack_gradient: Annotated[Any, GRADIENTS] = "unrolled"
    threat: Any = "Linf"
    eps: Any = None
    batch_size: Count = 96
    accumulate: Count = 1
    optimizer: Any = "adamw"
    schedule: Annotated[Any, SCHEDULES] = "one-cycle"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    clip: Positive = 1.0
    ema: Decay = 0.0
    awp: NonNegative = 0.0
    jacobian: JacobianPenalty = field(default_factory=JacobianPenalty)
    consistency: NonNegative = 0.0
    entropy_reduction: EntropyReduction | None = None
    attack_entropy_reduction: EntropyReduction | None = None
    precision: Annotated[str, OneOf("precision", PRECISIONS)] = "float32"
    pad: Natural = 0
    flip: bool = False
    validation_points: Natural = 0
    validation_steps: Count = 20
    validation_every: Count = 1
    checkpoint_seconds: NonNegative = 60.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        size, pieces = self.batch_size, self.accumulate
        if size % pieces:
            raise ValueError(f"TrainConfig: accumulate={pieces}; allowed: a divisor of batch_size={size}.")
        attacks = [phase.attack for phase in self.phases if phase.attack_steps]
        bare = [attack.name for attack in attacks if attack.bare]
        if attacks and len(bare) == len(attacks) and not isinstance(self.attack_gradient, Unrolled):
            given = f"attack_gradient={self.attack_gradient} with attack={bare[0]!r} alone, which has one of its own"
            raise ValueError(f"TrainConfig: {given}; allowed: 'unrolled', or another attack.")
        if self.attack_entropy_reduction is not None and bare:
            given = f"attack_entropy_reduction with attack={bare[0]!r}, which looks at the bare dynamics"
            raise ValueError(f"TrainConfig: {given}; allowed: None, or another attack.")
        eps, threat = Pixels.read(self.eps), self.threat
        named = {"name": threat, "eps": 8 / 255 if eps is None else eps}
        threat = THREATS.resolve(named if isinstance(threat, str) else threat)
        if eps is not None and eps != threat.eps:
            raise ValueError(f"TrainConfig: eps={shown(eps)} with threat={threat}; allowed: one of them, or a name.")
        object.__setattr__(self, "threat", threat)
        object.__setattr__(self, "eps", threat.eps)
        object.__setattr__(self, "phases", tuple(replace(phase) for phase in self.phases))  # of this config alone
        for phase in self.phases:
            set_step_size(phase, self.eps)
            if phase.attack_steps:
                phase.attack.check(step_size=phase.step_size, eps=self.eps, states=self.states)
        object.__setattr__(self, "optimizer", Optimizer.resolve(self.optimizer))

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch, in 0..epochs-1."""
        return [phase for phase in self.phases for _ in range(phase.epochs)][epoch]

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> TrainConfig:
        """The config of ``to_dict``'s JSON, or of part of it; a ValueError names an unknown option."""
        return make(cls, options)

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON: every object by its name and options, one of a user's own by its class."""
        threat = describe(self.threat)
        named = {"threat": threat["name"], "eps": self.eps} if set(threat) == {"name", "eps"} else {"threat": threat}
        return {**describe(self), **named, "optimizer": self.optimizer.to_dict()}
