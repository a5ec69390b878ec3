"""How a phase of training makes its images, and what of that work its update can go on from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from ..attacks import PGD, JointOptimisation
from ..attacks.starts import goals, numbered, slope_of
from ..checks import Count, Positive, PositiveShare
from ..dynamics import SOLVERS, Picard
from ..models.deq import DEQClassifier
from ..models.modes import images_only
from ..options import Registry, describe
from ..text import shown
from .states import FinalState, StateSampler


@dataclass(frozen=True)
class Attacked:
    """images (B, C, H, W). z, mu: packed state and adjoint state there, (B, D), for the update to begin with."""

    images: Tensor
    z: Tensor | None = None
    mu: Tensor | None = None


class TrainingAttack(ABC):
    """How a phase makes its images. most: of how many steps, or None for any number. bare: it looks at the DEQ itself,
    and not at ``model``. solver_steps: N of its solves; None takes the phase's."""

    name: ClassVar[str]
    most: ClassVar[int | None] = None
    bare: ClassVar[bool] = False
    solver_steps: int | None = None

    @abstractmethod
    def __call__(
        self, pgd: PGD, model: nn.Module, deq: DEQClassifier | None, x: Tensor, y: Tensor, indices: Tensor
    ) -> Attacked:
        """Images in [0, 1] near x (B, C, H, W), whose labels are y (B,) int64.

        pgd: the objective's own attack, with the run's threat, the phase's steps and step size, and the loss that is
        climbed. model: as the forwards of training see it; deq: the DEQ in it, or None. indices: (B,) the samples'
        numbers, by which they draw.
        """

    def check(self, step_size: float, eps: float, states: StateSampler) -> None:
        """Raise a ValueError if the attack cannot be made with these: of its phase, of the threat, of the update."""
        return  # any will do


TRAINING_ATTACKS: Registry[TrainingAttack] = Registry("training attack", TrainingAttack)
"""The attacks of a training phase by name."""


@TRAINING_ATTACKS.register
@dataclass(frozen=True)
class Projected(TrainingAttack):
    """PGD; one step is FGSM with a random start.

    solver_steps: N of its solves, instead of the phase's. carried: every solve but the first begins at the state that
    the one before it reached, of an image close by, so that a few steps stand for many.
    """

    name: ClassVar[str] = "pgd"
    solver_steps: Count | None = None
    carried: bool = False

    def __call__(
        self, pgd: PGD, model: nn.Module, deq: DEQClassifier | None, x: Tensor, y: Tensor, indices: Tensor
    ) -> Attacked:
        reader: Any = model
        with reader.carrying(deq) if self.carried else nullcontext():
            return Attacked(pgd(model, x, y, indices=indices))


@TRAINING_ATTACKS.register
@dataclass(frozen=True)
class NoiseFGSM(TrainingAttack):
    """N-FGSM (de Jorge et al. 2022, arXiv 2202.01181): one step from noise, and nothing is cut to the ball of eps.

    noise: radius of the ball that the start is drawn from, in multiples of eps.
    """

    name: ClassVar[str] = "n-fgsm"
    most: ClassVar[int | None] = 1
    noise: Positive = 2.0

    def __call__(
        self, pgd: PGD, model: nn.Module, deq: DEQClassifier | None, x: Tensor, y: Tensor, indices: Tensor
    ) -> Attacked:
        wide = replace(pgd.threat, eps=self.noise * pgd.threat.eps)
        start = wide.spread(x, numbered(x, pgd.seed, 0, indices))
        with images_only(model):
            (goal,) = goals(pgd, model, x, y)
            slope = slope_of(pgd, model, start, goal, first=False, wanted=True)[2]
        # Not projected: cut back to the ball, one step from so far away would be shortened by the noise.
        return Attacked(pgd.threat.ascend(start, slope, pgd.step_size).clamp(0, 1))


@TRAINING_ATTACKS.register
@dataclass(frozen=True)
class Joint(TrainingAttack):
    """``attacks.JointOptimisation``, one run of the phase's steps, on the dynamics as they are deployed.

    last_step: step size of the last iteration, relative to the phase's. solver, state_damping, adjoint_damping: see
    there. warm: the update begins at the attack's z and takes so many solver steps, and an implicit gradient begins its
    adjoint solve at mu; None: the update solves from zero like any other.
    """

    name: ClassVar[str] = "joint"
    bare: ClassVar[bool] = True
    last_step: PositiveShare = 0.4
    solver: Annotated[Any, SOLVERS] = Picard()  # noqa: RUF009 - immutable
    state_damping: PositiveShare = 0.8
    adjoint_damping: PositiveShare = 0.8
    warm: Count | None = None

    def check(self, step_size: float, eps: float, states: StateSampler) -> None:
        for name, size in (("step_size", step_size), ("eps", eps)):  # the one is taken in units of the other
            if not size:
                raise ValueError(f"TrainConfig: {name}=0 with attack='joint'; allowed: a number > 0.")
        if self.warm is not None and not isinstance(states, FinalState):  # the update reads the state it ends at
            given = f"states={shown(describe(states))} with warm={self.warm} of attack='joint'"
            raise ValueError(f"TrainConfig: {given}; allowed: states='final', or warm=None.")

    def __call__(
        self, pgd: PGD, model: nn.Module, deq: DEQClassifier | None, x: Tensor, y: Tensor, indices: Tensor
    ) -> Attacked:
        if deq is None:
            raise ValueError("training attack 'joint' of a model without states; allowed: pgd or n-fgsm.")
        step = pgd.step_size / pgd.threat.eps
        attack = JointOptimisation(
            pgd.threat, pgd.steps, step, step * self.last_step, pgd.loss, solver=self.solver,
            state_damping=self.state_damping, adjoint_damping=self.adjoint_damping,
        )  # fmt: skip
        start = pgd.threat.spread(x, numbered(x, pgd.seed, 0, indices))
        with images_only(deq):
            (goal,) = goals(pgd, model, x, y)
            images, z, mu = attack.run(deq, x, goal, start)
        return Attacked(images) if self.warm is None else Attacked(images, z, mu)
