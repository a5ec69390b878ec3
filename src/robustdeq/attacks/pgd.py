"""Projected gradient descent (Madry et al. 2018): the losses, starts and restarts of evaluation and of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ..checks import Count, Natural, Seed, StepSize, set_step_size
from ..options import OneOf, checked
from .calls import Calls, goal_calls, slope_calls
from .door import at_the_door
from .losses import LOSSES, Goal
from .starts import ORDERS, check_order, fallen, goals, numbered, slope_of
from .threat import OfThreat
from .views import ThroughGradient, Warm

STARTS = {"uniform": "see Threat.spread", "gaussian": "x + 0.001 N(0, 1), as TRADES", "clean": "the image itself"}
KEEPS = {
    "worst": "a misclassified iterate where one was met, else the one of highest loss",
    "highest": "the iterate of highest loss, misclassified or not",
    "last": "the last iterate of one run",
}


@checked
@dataclass(frozen=True)
class PGD:
    """x_adv = attack(model, x, y): ``steps`` ascents of length ``step_size`` on a loss, projected to the threat model.

    threat: ``Linf(eps)`` or ``L2(eps)``. step_size: in pixel units, default eps / 4. loss: in ``LOSSES``. targets,
    order: a targeted loss aims at this many wrong classes one after the other, in an order of ``ORDERS``. start: in
    ``STARTS``. keep: in ``KEEPS``.
    ``worst`` works no more on a sample that is broken. ``highest`` takes every step of every restart and target, for
    images that must hold elsewhere: with ``ce-targeted`` one of a confident wrong class. ``last`` is for training.
    warm: of a bare DEQ, every solve of a run but the first begins at the state of the one before and takes so many
    steps; the cold, deployed forward still says who is broken. None: every solve is the deployed one.

    The gradient is taken through whatever module is given. A view (see ``attacks.views``) names the model that is
    really deployed, and that model alone decides what counts as misclassified.
    """

    threat: OfThreat
    step_size: StepSize = None  # type: ignore[assignment]
    steps: Natural = 10
    restarts: Count = 1
    seed: Seed = 0
    loss: Annotated[str, OneOf("loss", LOSSES)] = "ce"
    targets: Count = 9
    start: Annotated[str, OneOf("start", STARTS)] = "uniform"
    keep: Annotated[str, OneOf("keep", KEEPS)] = "worst"
    order: Annotated[str, OneOf("order", ORDERS)] = "likeliest"
    warm: Count | None = None

    def __post_init__(self) -> None:
        set_step_size(self, self.threat.eps)
        check_order(self)
        if self.start == "clean" and self.restarts > 1:
            given = f"start='clean', restarts={self.restarts}, all of them the same run"
            raise ValueError(f"PGD: {given}; allowed: one, or another start.")
        if self.keep == "last" and self.warm is not None:
            raise ValueError(f"PGD: keep='last', warm={self.warm}; allowed: 'worst' or 'highest', or warm=None.")
        if self.keep == "last" and (self.restarts > 1 or self.loss.endswith("targeted")):
            wanted = "'worst', 'highest', or one restart of an untargeted loss"
            raise ValueError(f"PGD: keep='last', restarts={self.restarts}, loss={self.loss!r}; allowed: {wanted}.")

    @at_the_door
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W) for images x in [0, 1] and labels y (B,) int64; no gradient is left behind.
        indices: (B,) the samples' numbers in their data set. The random start of a sample depends on the seed and on
        its number alone, so it is the same in any batch; without numbers it depends on its place in the batch."""
        aims = goals(self, model, x, y)
        if self.keep == "last":  # no look at who is broken, which would synchronise in every step of a training
            x_adv = self._start(x, 0, indices)
            for step in range(self.steps):
                slope = slope_of(self, model, x_adv, aims[0], first=step == 0, wanted=True)[2]
                x_adv = self.threat.project(x, self.threat.ascend(x_adv, slope, self.step_size))
            return x_adv
        best, best_loss = x.clone(), x.new_full((len(x),), -torch.inf)
        for restart in range(self.restarts):
            start = self._start(x, restart, indices)
            for goal in aims:
                rows = torch.nonzero(best_loss < torch.inf).flatten()
                if not len(rows):
                    return best
                x_adv, loss = self.run(model, x[rows], goal.rows(rows), start[rows])
                better = loss > best_loss[rows]
                best[rows[better]], best_loss[rows[better]] = x_adv[better], loss[better]
        return best

    def run(self, model: nn.Module, x: Tensor, goal: Goal, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """One run from ``x_adv``: the kept images and their losses (B,), infinite where the sample is broken."""
        kept, kept_loss = x_adv.clone(), x.new_full((len(x),), -torch.inf)
        rows = torch.arange(len(x), device=x.device)
        model = model if self.warm is None else Warm(model, self.warm)
        for step in range(self.steps + 1):
            logits, loss, slope = slope_of(self, model, x_adv, goal, first=step == 0, wanted=step < self.steps)
            broken = torch.zeros_like(goal.y, dtype=torch.bool)
            if self.keep == "worst":  # "highest" is never done with a sample
                broken = fallen(self, model, x_adv, logits, goal.y)
            loss = loss.nan_to_num(-torch.inf).masked_fill(broken, torch.inf)
            better = loss > kept_loss[rows]
            kept[rows[better]], kept_loss[rows[better]] = x_adv[better], loss[better]
            if broken.any():
                stands = ~broken
                rows, x, x_adv, goal, slope = rows[stands], x[stands], x_adv[stands], goal.rows(stands), slope[stands]
                if isinstance(model, Warm):
                    model.keep(stands)
            if not len(rows) or step == self.steps:
                break
            x_adv = self.threat.project(x, self.threat.ascend(x_adv, slope, self.step_size))
        return kept, kept_loss

    def calls(self, model: nn.Module, classes: int) -> list[Calls]:
        """What it asks at most, for each image; see ``Calls``."""
        count, aiming = goal_calls(self, model, classes)
        if self.keep == "last":
            return [*aiming, *slope_calls(model, gradients=self.steps, forwards=0)]
        runs, judged = self.restarts * count, (self.steps + 1) * (self.keep == "worst")
        if (warm := self.warm) is None:
            return [*aiming, *slope_calls(model, runs * self.steps, runs, runs * judged)]
        deq, later = Warm(model, warm).deployed, max(0, self.steps - 1)

        def begun(x: Tensor) -> Tensor:
            solve = Warm(deq, warm)
            solve.z = deq.zeros(x)
            return solve(x)

        first = Calls(ThroughGradient(deq, "unrolled"), runs * (not self.steps), runs * bool(self.steps))
        return [*aiming, first, Calls(begun, runs * bool(self.steps), runs * later), Calls(deq, runs * judged)]

    def _start(self, x: Tensor, restart: int, indices: Tensor | None) -> Tensor:
        if self.start == "clean":
            return x.clone()
        if self.start == "gaussian":
            return self.threat.project(x, x + 0.001 * numbered(x, self.seed, restart, indices, torch.randn))
        return self.threat.spread(x, numbered(x, self.seed, restart, indices))
