"""Joint inference and input optimisation (Gurumurthy, Bai, Manchester, Kolter 2021): an attack on a DEQ as one fixed
point of its state, its adjoint state and the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from ..checks import Count, Natural, Positive, PositiveShare, Seed, check_labels
from ..dynamics import SOLVERS, Map, Picard, Solver, SolverState, drive
from ..gradients import Unrolled
from ..models.cell import CellMap
from ..models.deq import DEQClassifier
from ..models.structure import structure
from ..options import OneOf, checked
from .calls import Calls, aims, looks
from .door import at_the_door, logits_of
from .losses import LOSSES, Goal, predictions
from .pgd import PGD
from .starts import ORDERS, goals, numbered
from .threat import OfThreat, Threat
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

    threat: Annotated[Threat, OfThreat()]
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

    @at_the_door
    def __call__(self, model: Any, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W) of x in [0, 1] and labels y (B,) int64. indices: see ``PGD``."""
        kind = structure(model)
        if not kind.states or kind.deq is None or kind.defence is not None:
            raise ValueError(f"JointOptimisation: the model is a {type(model).__name__}; allowed: a DEQ, undefended.")
        with torch.no_grad():
            check_labels(x, y, len(kind.deq.readout(kind.deq.zeros(x[:1]))[0]))
        jobs = [(restart, goal) for restart in range(self.restarts) for goal in goals(self, model, x, y)]
        best, best_loss, aims = x.clone(), x.new_full((len(x),), -torch.inf), jobs[0][1]
        for first in range(0, len(jobs), self.stack):
            rows = torch.nonzero(best_loss < torch.inf).flatten()
            if not len(rows):
                break
            some = jobs[first : first + self.stack]
            starts = [self.threat.spread(x, numbered(x, self.seed, restart, indices))[rows] for restart, _ in some]
            goal = Goal.stacked([goal.rows(rows) for _, goal in some])
            x_adv, _, _ = self.run(kind.deq, x[rows].repeat(len(some), 1, 1, 1), goal, torch.cat(starts))
            with torch.no_grad():
                logits = model(x_adv)
                loss = LOSSES[self.loss](logits, goal).to(x.dtype).nan_to_num(-torch.inf)
            loss = loss.masked_fill(predictions(logits) != goal.y, torch.inf)
            for (_, aim), own, images in zip(some, loss.split(len(rows)), x_adv.split(len(rows))):
                better = own > best_loss[rows]
                best[rows[better]], best_loss[rows[better]] = images[better], own[better]
                aims = aims.replaced(rows[better], aim)
        rows = torch.nonzero(best_loss < torch.inf).flatten()
        if self.finish and len(rows):
            pgd = PGD(self.threat, self.threat.eps / 20, self.finish, loss=self.loss)
            best[rows] = pgd.run(ThroughGradient(kind.deq, "unrolled"), x[rows], aims.rows(rows), best[rows])[0]
        return best

    def run(
        self, deq: DEQClassifier, x: Tensor, goal: Goal, start: Tensor, pair: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run from the images ``start``: the last images (B, C, H, W), and z and mu there, each (B, D).

        pair: z and mu to begin with, default 0.
        """
        zeros = deq.zeros(x)
        z, mu = (zeros, zeros) if pair is None else pair
        f = _Joint(self, deq, x, goal, self._eta(0))
        solver = Partly(self.solver, 2 * zeros.shape[1])
        packed = torch.cat([z, mu, start.flatten(1)], dim=1)
        moved = drive(solver, f, packed, self.iterations, regulate=lambda state: f.at(self._eta(state.t))).z
        z, mu, images = moved.split([zeros.shape[1], zeros.shape[1], start[0].numel()], dim=1)
        return images.reshape(start.shape), z, mu

    def calls(self, model: nn.Module, classes: int) -> list[Calls]:
        """What it asks at most, for each image; see ``Calls``. An iteration is a solve of one step and its gradient."""
        deq: Any = structure(model).deq

        def iteration(x: Tensor) -> Tensor:
            return deq(x, steps=1, start=deq.zeros(x).clone(), solver=Picard(), gradient=Unrolled())

        goals, chosen = aims(self, model, classes)
        runs = self.restarts * goals  # every restart chooses its goals anew
        moved = [Calls(iteration, gradients=runs * self.iterations), Calls(model, forwards=runs)]
        finish = looks(ThroughGradient(deq, "unrolled"), self.finish, 1) if self.finish else []
        return [*self.restarts * chosen, *moved, *finish]

    def _eta(self, iteration: int) -> float:
        share = iteration / max(self.iterations - 1, 1)
        return self.threat.eps * self.step * (self.last_step / self.step) ** share


class _Joint:
    """The map of the packed (z, mu, x'), (B, 2 D + CHW), with the step eta of x'."""

    def __init__(self, attack: JointOptimisation, deq: DEQClassifier, x: Tensor, goal: Goal, eta: float) -> None:
        self.attack, self.deq, self.x, self.goal, self.eta = attack, deq, x, goal, eta
        self.constants = deq.cell.constants(deq.zeros(x))

    def at(self, eta: float) -> _Joint:
        """The same map with another step."""
        other = object.__new__(_Joint)
        other.__dict__ = {**self.__dict__, "eta": eta}
        return other

    def __call__(self, packed: Tensor) -> Tensor:
        attack, deq, size = self.attack, self.deq, self.deq.layout.size
        z, mu, images = packed.detach().split([size, size, packed.shape[1] - 2 * size], dim=1)
        x = images.reshape(self.x.shape)
        with torch.enable_grad():
            at, x_at = z.requires_grad_(), x.requires_grad_()
            f_z = CellMap(deq.cell, deq.inject(x_at), self.constants, deq.tally)(at)
            loss = LOSSES[attack.loss](deq.readout(at), self.goal).sum()
            adjoint, slope = self._slopes([(f_z, mu), (loss, torch.ones_like(loss))], at, x_at)
        z, x, f_z = z.detach(), x.detach(), f_z.detach()
        moved = attack.threat.project(self.x, attack.threat.ascend(x, slope.nan_to_num(0, 0, 0), self.eta))
        z, mu = z + attack.state_damping * (f_z - z), mu + attack.adjoint_damping * (adjoint - mu)
        return torch.cat([z, mu, moved.flatten(1)], dim=1)

    def _slopes(self, terms: list[tuple[Tensor, Tensor]], z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the terms, (value, what comes back to it), towards z and x: zeros where none follows them, and a
        ValueError if the logits of the deployed forward do not either."""
        followed = [term for term in terms if term[0].requires_grad]
        found: Any = (None, None)
        if followed:
            values, backs = zip(*followed)
            found = torch.autograd.grad(values, (z, x), backs, allow_unused=True)
        if found[1] is None or len(followed) < len(terms):
            logits_of(self.attack, self.deq, x)  # which says so
        adjoint, slope = (torch.zeros_like(at) if of is None else of for at, of in zip((z, x), found))
        return adjoint, slope


@dataclass(frozen=True, kw_only=True)
class PartlyState(SolverState):
    """inner: the state of the solver that moves the first columns."""

    inner: SolverState


@dataclass(frozen=True)
class Partly(Solver[PartlyState]):
    """``solver`` moves the first ``size`` columns of a state; the others take what the map gives them."""

    name: ClassVar[str] = "partly"
    solver: Solver
    size: int

    def init(self, z: Tensor) -> PartlyState:
        return PartlyState(super().init(z).z, inner=self.solver.init(z[:, : self.size]))

    def step(self, f: Map, state: PartlyState) -> PartlyState:
        rest, given = state.z[:, self.size :], []

        def part(z: Tensor) -> Tensor:
            given.append(f(torch.cat([z, rest], dim=1)))
            return given[-1][:, : self.size]

        inner = self.solver.step(part, replace(state.inner, z=state.z[:, : self.size]))
        moved = torch.cat([inner.z, given[-1][:, self.size :]], dim=1)
        return PartlyState(moved, state.t + 1, state.z, given[-1], inner=inner)
