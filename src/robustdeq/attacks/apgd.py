"""Auto-PGD (Croce and Hein 2020, algorithm 1): projected ascent with momentum that finds its step sizes by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..checks import Count, Seed, Share
from ..options import OneOf, checked
from .calls import Calls, goal_calls, slope_calls
from .door import at_the_door
from .losses import LOSSES, Goal
from .starts import ORDERS, check_order, fallen, goals, numbered, slope_of
from .threat import OfThreat, Threat


class Runs(NamedTuple):
    """The runs of every sample, one for each restart and target, side by side; a row for each run of each sample.

    Ordered by restart, target, sample. Legend of shapes: P rows. rows: (P,) the row's sample. at, before: (P, C, H, W)
    this point and the last. best: that of the highest loss so far. rises: (P,) steps that raised the loss since the
    last check. checked, halved: (P,) at that check the highest loss, and whether the step size was halved.
    """

    rows: Tensor
    x: Tensor
    goal: Goal
    at: Tensor
    before: Tensor
    slope: Tensor
    loss: Tensor
    best: Tensor
    best_slope: Tensor
    best_loss: Tensor
    size: Tensor
    rises: Tensor
    checked: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, x: Tensor, starts: list[Tensor], aims: list[Goal], size: float) -> Runs:
        """``size``: of the first step."""
        count = len(starts) * len(aims)
        at = torch.cat([start for start in starts for _ in aims])
        low, high = at.new_full((len(at),), -torch.inf), at.new_full((len(at),), torch.inf)
        # loss high and halved true: the start raises nothing, and the first check asks for the number of rises alone.
        return cls(
            rows=torch.arange(len(x), device=x.device).repeat(count), x=x.repeat(count, 1, 1, 1),
            goal=Goal.stacked(aims * len(starts)), at=at, before=at, slope=torch.zeros_like(at), loss=high,
            best=at, best_slope=torch.zeros_like(at), best_loss=low, size=torch.full_like(at[:, :1, :1, :1], size),
            rises=torch.zeros_like(low, dtype=torch.int64), checked=low, halved=torch.ones_like(low, dtype=torch.bool),
        )  # fmt: skip

    def only(self, keep: Tensor) -> Runs:
        """The kept rows."""
        return tree_map_only(Tensor, lambda column: column[keep], self)

    def moved(self, threat: Threat, share: float) -> Runs:
        """Moved by ``share`` of a projected step up the slope, and by the rest of the last move again."""
        up = threat.ascend(torch.zeros_like(self.at), self.slope, 1.0)
        aim = threat.project(self.x, self.at + self.size * up)
        at = self.at + (aim - self.at) * share + (self.at - self.before) * (1 - share)
        return self._replace(at=threat.project(self.x, at), before=self.at)

    def seen(self, loss: Tensor, slope: Tensor) -> Runs:
        """With the loss and the slope at this point. A NaN loss never becomes the best, and counts as no rise."""
        better = loss > self.best_loss
        return self._replace(
            loss=loss, slope=slope, rises=self.rises + (loss > self.loss),
            best=_choose(better, self.at, self.best), best_slope=_choose(better, slope, self.best_slope),
            best_loss=torch.where(better, loss, self.best_loss),
        )  # fmt: skip

    def adjusted(self, enough: float) -> Runs:
        """Back to the best point with half the step where at most ``enough`` steps have raised the loss, or where after
        a whole stretch at the same step size none was better than all before."""
        halve = (self.rises <= enough) | (~self.halved & (self.best_loss <= self.checked))
        return self._replace(
            at=_choose(halve, self.best, self.at), slope=_choose(halve, self.best_slope, self.slope),
            size=_choose(halve, self.size / 2, self.size), rises=torch.zeros_like(self.rises), checked=self.best_loss,
            halved=halve,
        )  # fmt: skip

    def first(self, chosen: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """The first chosen row of each sample that has one: (samples,) bool whether it has, and the rows."""
        places = torch.arange(len(self.rows), device=self.rows.device)
        none = places.new_full((samples,), len(places))
        first = none.scatter_reduce(0, self.rows[chosen], places[chosen], "amin")
        return first < none, first[first < none]


@checked
@dataclass(frozen=True)
class APGD:
    """x_adv = attack(model, x, y): ``iterations`` ascents of a loss by Auto-PGD from each of ``restarts`` starts.

    threat: ``Linf(eps)`` or ``L2(eps)``. loss: in ``LOSSES``. targets, order: a targeted loss aims at this many wrong
    classes all at once, the first in an order of ``ORDERS``. rho: the share of the steps that must raise the loss, or
    the step is halved.
    stack: how many times as many images as it is given the model sees at once; more is faster where the device is not
    busy, takes more memory, and gives the same images.

    All runs of all samples take their steps side by side, and a sample leaves with all of its runs where the first one
    breaks it. One that stands has the image of the highest loss. The start is that of ``PGD``; from there the steps are
    those of the authors' implementation, except that the first look at the step size compares the first loss with the
    start's, as the paper says, and not with 0. The gradient is taken through whatever module is given; of a view the
    deployed model alone decides what counts as misclassified.
    """

    threat: OfThreat
    iterations: Count = 100
    restarts: Count = 1
    seed: Seed = 0
    loss: Annotated[str, OneOf("loss", LOSSES)] = "ce"
    targets: Count = 9
    rho: Share = 0.75
    stack: Count = 1
    order: Annotated[str, OneOf("order", ORDERS)] = "likeliest"

    def __post_init__(self) -> None:
        check_order(self)

    @at_the_door
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """As of ``PGD``."""
        starts = [self.threat.spread(x, numbered(x, self.seed, r, indices)) for r in range(self.restarts)]
        runs = Runs.begin(x, starts, goals(self, model, x, y), 2 * self.threat.eps)
        best, checks = x.clone(), self._checks()
        for step in range(self.iterations + 1):
            if step:  # the paper's alpha, 0.75: the rest is the last move again, of which the first step has none
                runs = runs.moved(self.threat, 1.0 if step == 1 else 0.75)
            wrong, loss, slope = self._look(model, runs, len(x), first=step == 0, wanted=step < self.iterations)
            runs = runs.seen(loss, slope)
            if wrong.any():
                broken, rows = runs.first(wrong, len(x))
                best[broken] = runs.at[rows]
                runs = runs.only(~broken[runs.rows])
                if not len(runs.rows):
                    return best
            if step in checks:
                runs = runs.adjusted(self.rho * checks[step])
        highest = torch.full_like(best[:, 0, 0, 0], -torch.inf).scatter_reduce(0, runs.rows, runs.best_loss, "amax")
        standing, rows = runs.first((runs.best_loss == highest[runs.rows]) & (runs.best_loss > -torch.inf), len(x))
        best[standing] = runs.best[rows]
        return best

    def calls(self, model: nn.Module, classes: int) -> list[Calls]:
        """What it asks at most, for each image; see ``Calls``."""
        count, aiming = goal_calls(self, model, classes)
        runs = self.restarts * count
        return [*aiming, *slope_calls(model, runs * self.iterations, runs, runs * (self.iterations + 1))]

    def _look(self, model: nn.Module, runs: Runs, batch: int, first: bool, wanted: bool) -> tuple[Tensor, ...]:
        """Of every row whether it is misclassified, its loss and its slope; at most ``stack * batch`` at a time."""
        looks = []
        for some in torch.arange(len(runs.rows), device=runs.rows.device).split(self.stack * batch):
            x_adv, goal = runs.at[some], runs.goal.rows(some)
            logits, loss, slope = slope_of(self, model, x_adv, goal, first, wanted)
            looks.append((fallen(self, model, x_adv, logits, goal.y), loss, slope))
        return tuple(map(torch.cat, zip(*looks)))

    def _checks(self) -> dict[int, int]:
        """The iterations after which the step size is looked at, each with the number since the look before. Shares of
        0.22, then 0.03 less each time, 0.06 at least, of all; in whole iterations, as the authors' code rounds them."""
        span, less, least = (max(int(share * self.iterations), 1) for share in (0.22, 0.03, 0.06))
        checks, at = {}, span
        while at <= self.iterations:
            checks[at] = span
            span = max(span - less, least)
            at += span
        return checks


def _choose(rows: Tensor, this: Tensor, other: Tensor) -> Tensor:
    """``this`` in the rows (P,) that are true, ``other`` in the rest."""
    return torch.where(rows.view(-1, 1, 1, 1), this, other)
