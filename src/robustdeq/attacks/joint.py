"""Joint inference and input optimisation (Gurumurthy, Bai, Manchester, Kolter 2021): an attack on a DEQ as one fixed
point of its state, its adjoint state and the image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..checks import Count, Natural, Positive, PositiveShare, Seed, check_labels
from ..dynamics import SOLVERS, Picard, drive
from ..gradients import Unrolled
from ..models.cell import CellMap
from ..models.deq import DEQClassifier
from ..models.structure import structure
from ..options import OneOf, checked
from .calls import Calls, goal_calls, slope_calls
from .door import at_the_door, logits_of
from .losses import LOSSES, Goal, predictions
from .pgd import PGD
from .starts import ORDERS, check_order, goals, numbered
from .threat import OfThreat
from .views import ThroughGradient


@checked
@dataclass(frozen=True)
class JointOptimisation:
    """x_adv = attack(deq, x, y): maximise L(readout(z)) subject to z = f(z; x'), x' in the threat model, by moving

        z  <- z  + state_damping ( f(z; x') - z )
        mu <- mu + adjoint_damping ( J_z^T mu + dL/dz - mu )
        x' <- project( x' + eta ascend(J_x^T mu) )

    together. An iteration costs one evaluation of f, one readout and one reverse pass through both, however long the
    solve is that it stands for. mu becomes the implicit adjoint: where z^[N] is far from a fixed point this attack is
    masked, as every gradient that assumes one, and unrolled PGD beside it shows that.

    step, last_step: eta of the first and of the last iteration in multiples of eps, geometric between them. solver: of
    (z, mu), a name, options or a Solver; the image takes plain steps, since its sign is not smooth. loss, targets,
    order, restarts, seed: as of ``PGD``; every run starts at a random point of the ball, from z = mu = 0. stack: how
    many of them are moved at once. finish: of all runs' last images a sample keeps the one of highest loss under the
    deployed forward, and moves it on by so many steps of PGD, of eps / 20, with the exact gradient: near a boundary the
    difference between z^[N] and the fixed point decides. A sample that has fallen is left alone.
    """

    threat: OfThreat
    iterations: Count = 40
    step: Positive = 2.0
    last_step: Positive = 0.02
    loss: Annotated[str, OneOf("loss", LOSSES)] = "cw"
    targets: Count = 9
    restarts: Count = 1
    seed: Seed = 0
    solver: Annotated[Any, SOLVERS] = Picard()  # noqa: RUF009 - immutable
    state_damping: PositiveShare = 0.8
    adjoint_damping: PositiveShare = 0.8
    stack: Count = 3
    order: Annotated[str, OneOf("order", ORDERS)] = "likeliest"
    finish: Natural = 10

    def __post_init__(self) -> None:
        check_order(self)

    @at_the_door
    def __call__(self, model: Any, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W) of x in [0, 1] and labels y (B,) int64. indices: see ``PGD``."""
        kind = structure(model)
        if not kind.states or kind.deq is None or kind.defence is not None:
            raise ValueError(f"JointOptimisation: the model is a {type(model).__name__}; allowed: a DEQ, undefended.")
        with torch.no_grad():
            check_labels(x, y, len(kind.deq.readout(kind.deq.zeros(x[:1]))[0]))
        aims = goals(self, model, x, y)
        runs = [(restart, goal) for restart in range(self.restarts) for goal in aims]
        every_goal = Goal.stacked([goal for _, goal in runs])  # of run r and sample i in row r B + i
        best, best_loss, best_run = x.clone(), x.new_full((len(x),), -torch.inf), torch.zeros_like(y)
        for first in range(0, len(runs), self.stack):
            rows = torch.nonzero(best_loss < torch.inf).flatten()
            if not len(rows):
                break
            some = range(first, min(first + self.stack, len(runs)))
            goal = every_goal.rows(torch.cat([run * len(x) + rows for run in some]))
            starts = [self.threat.spread(x, numbered(x, self.seed, runs[run][0], indices))[rows] for run in some]
            x_adv, _, _ = self.run(kind.deq, x[rows].repeat(len(some), 1, 1, 1), goal, torch.cat(starts))
            with torch.no_grad():
                logits = model(x_adv)
                loss = LOSSES[self.loss](logits, goal).to(x.dtype).nan_to_num(-torch.inf)
            loss = loss.masked_fill(predictions(logits) != goal.y, torch.inf)
            for run, its_loss, images in zip(some, loss.split(len(rows)), x_adv.split(len(rows))):
                better = its_loss > best_loss[rows]
                risen = rows[better]
                best[risen], best_loss[risen], best_run[risen] = images[better], its_loss[better], run
        rows = torch.nonzero(best_loss < torch.inf).flatten()
        if self.finish and len(rows):
            pgd = PGD(self.threat, self.threat.eps / 20, self.finish, loss=self.loss)
            view, goal = ThroughGradient(kind.deq, "unrolled"), every_goal.rows(best_run[rows] * len(x) + rows)
            best[rows] = pgd.run(view, x[rows], goal, best[rows])[0]
        return best

    def run(self, deq: DEQClassifier, x: Tensor, goal: Goal, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One run from the images ``start`` and z = mu = 0: the last images (B, C, H, W), z and mu there, (B, D)."""
        images, zeros = start, deq.zeros(x)
        constants, iteration, last = deq.cell.constants(zeros), itertools.count(), max(self.iterations - 1, 1)

        def f(pair: Tensor) -> Tensor:
            """The map of (z, mu), packed in (B, 2 D), at the images of now, which take a step of their own."""
            nonlocal images
            z, mu = pair.detach().chunk(2, dim=1)
            at, x_at = z.requires_grad_(), images.detach().requires_grad_()
            with torch.enable_grad():
                f_z = CellMap(deq.cell, deq.inject(x_at), constants, deq.tally)(at)
                loss = LOSSES[self.loss](deq.readout(at), goal).sum()
                lagrangian = (f_z * mu).sum() + loss  # one reverse pass gives J_z^T mu + dL/dz and J_x^T mu
            adjoint = slope = None
            if lagrangian.requires_grad:
                adjoint, slope = torch.autograd.grad(lagrangian, (at, x_at), allow_unused=True)
            if slope is None or not (f_z.requires_grad and loss.requires_grad):
                logits_of(self, deq, x_at)  # a ValueError, unless the deployed forward has a gradient of its own
            adjoint, slope = (torch.zeros_like(of) if d is None else d for d, of in ((adjoint, at), (slope, x_at)))
            eta = self.threat.eps * self.step * (self.last_step / self.step) ** (next(iteration) / last)
            moved = self.threat.ascend(x_at.detach(), slope.nan_to_num(0, 0, 0), eta)
            z, f_z, images = z.detach(), f_z.detach(), self.threat.project(x, moved)
            return torch.cat([z + self.state_damping * (f_z - z), mu + self.adjoint_damping * (adjoint - mu)], dim=1)

        # The solver sees (z, mu) alone: the sign of a slope is not smooth, and an extrapolated image would be noise.
        z, mu = drive(self.solver, f, torch.cat([zeros, zeros], dim=1), self.iterations).z.chunk(2, dim=1)
        return images, z, mu

    def calls(self, model: nn.Module, classes: int) -> list[Calls]:
        """What it asks at most, for each image; see ``Calls``. An iteration is a solve of one step and its gradient."""
        deq: Any = structure(model).deq

        def iteration(x: Tensor) -> Tensor:
            return deq(x, steps=1, start=deq.zeros(x).clone(), solver=Picard(), gradient=Unrolled())

        count, aiming = goal_calls(self, model, classes)
        runs = self.restarts * count
        moved = [Calls(iteration, gradients=runs * self.iterations), Calls(model, forwards=runs)]
        finish = slope_calls(ThroughGradient(deq, "unrolled"), self.finish, 1) if self.finish else []
        return [*aiming, *moved, *finish]
