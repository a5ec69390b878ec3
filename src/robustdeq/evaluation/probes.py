"""Cheap measurements on the first few samples. What they mean is said in ``flags``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, Calls, Linf, ThroughGradient
from ..dynamics.trajectory import monitored
from ..models.modes import evaluating, images_only
from ..models.structure import Structure, structure
from .entries import exact
from .flags import comparable
from .images import batches
from .record import Checks, Cost
from .recordfile import Spent
from .run import Run, connected, spending

FEWER, MORE = 3, 10
"""Steps of PGD."""
HUGE = 0.5
"""L-inf, half of the range of pixels: any image can be made grey."""
QUERIES = 200
"""Of Square."""
COST_POINTS, COST_REPEATS = 100, 3
Check = tuple[list[int], float | None]
"""An outcome a sample, and a value, as ``Checks`` has them."""


class Probe(NamedTuple):
    """measure: does it. view, calls: what it looks through, and which calls it makes at most for each image."""

    measure: Callable[[], Check]
    view: nn.Module
    calls: list[Calls]


def probe(run: Run, points: int, seed: int) -> None:
    """Measure on the first ``points`` samples, and of a defence, what the record does not hold yet."""
    if run.model.defence is not None and run.record.cost is None:
        run.record.cost = cost(run.model, run.batch(batches(len(run.points), run.batch_size)[0])[0])
    points, checks = min(points, len(run.points)), run.record.checks
    if checks is None or (points and checks.points != points):
        checks = run.record.checks = Checks(points=points, done=not points)
    if not points:
        return
    probes = _probes(run, points, seed)
    for done, (name, one) in enumerate(probes.items(), start=1):
        if name not in checks.outcomes:
            checks.outcomes[name], checks.values[name] = one.measure()
            run.file.save()
        run.progress(done, len(probes), f"check {name}")
    checks.done = True


def foreseen(run: Run, points: int, seed: int) -> list[tuple[str, int, nn.Module, list[Calls]]]:
    """What ``probe`` asks at most: for what, of how many images, through what view, which calls for each."""
    points, checks, wanted = min(points, len(run.points)), run.record.checks, []
    if run.model.defence is not None and run.record.cost is None:
        forwards = [Calls(module, forwards=COST_REPEATS) for module in (run.model.bare, run.model.deployed)]
        images = min(len(run.points), run.batch_size, COST_POINTS)
        wanted.append(("cost of the defence", images, run.model.deployed, forwards))
    if points and (checks is None or checks.points != points or not checks.done):
        wanted += [("checks", points, one.view, one.calls) for one in _probes(run, points, seed).values()]
    return wanted


def _probes(run: Run, points: int, seed: int) -> dict[str, Probe]:
    """Of the first ``points`` samples, by name."""
    model, threat, rows = run.model, run.threat, batches(points, run.batch_size)
    view, deployed = exact(model.deployed), model.deployed

    def alone(x: Tensor) -> Tensor:
        """Each image without the others of its batch: rounding is another, and a defence that takes signs adds."""
        return torch.cat([run.logits(one) for one in x.split(1)])

    probes = {
        "gradients": Probe(partial(_gradients, run, rows, view), view, [Calls(view, gradients=1)]),
        "repeated": Probe(partial(_alike, run, rows, run.logits), view, [Calls(deployed, forwards=2)]),
        "alone": Probe(partial(_alike, run, rows, alone, 1e-2), view, [Calls(deployed, forwards=2)]),
        "with gradient": Probe(partial(_seen, run, rows, view), view, [Calls(deployed, 1), Calls(view, 1)]),
    }
    if model.states:  # a step more than one forward
        probes["residual"] = Probe(partial(_residual, run, rows), view, [Calls(model.bare, forwards=2)])
    limit = 1.0 if isinstance(threat, Linf) else float("inf")

    def pgd(scale: float = 1.0, steps: int = MORE) -> PGD:
        ball = replace(threat, eps=min(scale * threat.eps, limit))
        return PGD(ball, ball.eps / 4, steps, seed=seed, keep="last")

    trials: dict[str, tuple[PGD | AutoAttack, nn.Module]] = {
        "more steps": (pgd(), view),
        "fewer steps": (pgd(steps=FEWER), view),
        "half eps": (pgd(0.5), view),
        "double eps": (pgd(2.0), view),
        "huge eps": (PGD(Linf(HUGE), HUGE / 4, MORE, seed=seed), view),
    }
    # Where two columns compare these gradients on all points, the first few say nothing more.
    if model.states and model.defence is None and comparable(run.record) is None:
        trials["phantom"] = (pgd(), ThroughGradient(deployed, "phantom"))
    x, _ = run.batch(slice(0, 1))
    # The reference computes in float32, and its Square needs windows under L2.
    if x.dtype == torch.float32 and (isinstance(threat, Linf) or min(x.shape[2:]) >= 5):
        square = AutoAttack(threat, attacks=("square",), seed=seed, batch_size=run.batch_size, queries=QUERIES)
        trials["square"] = (square, deployed)
    for name, (attack, through) in trials.items():
        calls = [*attack.calls(through, len(run.record.identity.logits)), Calls(deployed, forwards=2)]
        probes[name] = Probe(partial(_trial, run, rows, attack, through), through, calls)
    return probes


def _trial(run: Run, rows: list[slice], attack: PGD | AutoAttack, view: nn.Module) -> Check:
    run = replace(run, threat=attack.threat)
    outcomes, losses = [], []
    for x, y, indices in _correct(run, rows):
        x_adv, _, stands = run.attacked(attack, view, x, y, indices)
        outcomes += stands.int().tolist()
        loss = F.cross_entropy(run.logits(x_adv), y, reduction="none")
        losses.append(loss.double().nan_to_num(0, 1e6, 0))  # their mean must be finite, and higher for an infinite one
    return outcomes, float(torch.cat(losses).mean()) if losses else None


def _gradients(run: Run, rows: list[slice], view: nn.Module) -> Check:
    """Whether the loss of a correctly classified sample has a gradient that is finite and not zero."""
    outcomes = []
    for x, y, _ in _correct(run, rows):
        with images_only(view), connected(view):
            at = x.clone().requires_grad_()
            slope = torch.autograd.grad(F.cross_entropy(view(at), y, reduction="sum"), at)[0].flatten(1)
        outcomes += (slope.isfinite().all(1) & (slope != 0).any(1)).int().tolist()
    return outcomes, None


def _correct(run: Run, rows: list[slice]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels and numbers of the samples of each batch that are classified correctly, where there are any."""
    for batch in rows:
        x, y = run.batch(batch)
        correct = run.correct(batch).to(x.device)
        if correct.any():
            yield x[correct], y[correct], torch.arange(batch.start, batch.stop, device=x.device)[correct]


def _seen(run: Run, rows: list[slice], view: nn.Module) -> Check:
    """Whether the logits are the same where a gradient is asked for, as attacks see them."""

    def seen(x: Tensor) -> Tensor:
        with images_only(view), connected(view), torch.enable_grad():
            return view(x.clone().requires_grad_()).detach()

    return _alike(run, rows, seen)


def _alike(run: Run, rows: list[slice], other: Callable[[Tensor], Tensor], slack: float = 1e-3) -> Check:
    """Whether ``other`` gives a sample the deployed logits, up to ``slack`` times the largest of them."""
    outcomes = []
    for batch in rows:
        x, _ = run.batch(batch)
        one, two = run.logits(x), other(x)
        size = one.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True)
        same = ((one - two).abs() <= slack * size) | (one == two) | (one.isnan() & two.isnan())
        outcomes += same.all(1).int().tolist()
    return outcomes, None


@torch.no_grad()
def _residual(run: Run, rows: list[slice]) -> Check:
    """The median relative residual at z^[N], of the model without a defence."""
    bare: Any = run.model.bare
    residuals = []
    for batch in rows:
        x, _ = run.batch(batch)
        with evaluating(bare):
            residuals.append(monitored(bare.trajectory(x, bare.steps + 1).residuals)[-1])
    median = float(torch.cat(residuals).nan_to_num(torch.inf).median())
    return [], median if median < float("inf") else None


@torch.no_grad()
def cost(defended: nn.Module | Structure, x: Tensor) -> Cost:
    """What a defence costs: its forward against the bare one, on the first images of x (B, C, H, W).

    seconds: paired and interleaved, the best of each.
    """
    x, model = x[:COST_POINTS], structure(defended)
    runs: tuple[list[Spent], list[Spent]] = ([], [])  # of the bare model, and of the defended one
    logits = [x, x]
    with evaluating(model.deployed):
        for _ in range(COST_REPEATS):
            for which, module in enumerate((model.bare, model.deployed)):
                with spending(model.tally) as now:
                    logits[which] = module(x.clone())
                runs[which].append(now)
    bare, whole = (min(spent, key=lambda one: one.seconds) for spent in runs)
    evaluations = whole.evaluations / bare.evaluations if bare.evaluations else None
    same = (logits[0] == logits[1]).all(1).double().mean().item()
    return Cost(len(x), whole.seconds / bare.seconds, evaluations, whole.updates / len(x), same)
