"""Cheap measurements on the first few samples. What they mean is said in ``flags``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, Linf, ThroughGradient
from ..dynamics.trajectory import monitored
from ..models.modes import evaluating, images_only
from ..models.structure import Structure, structure
from .images import batches
from .record import Checks, Cost, Count, Trial
from .run import Run, connected
from .suites import exact

FEWER, MORE = 3, 10
"""Steps of PGD."""
HUGE = 0.5
"""L-inf, half of the range of pixels: any image can be made grey."""
QUERIES = 200
"""Of Square."""
COST_POINTS, COST_REPEATS = 100, 3


def probe(run: Run, points: int, seed: int, *, compared: bool) -> None:
    """Measure on the first ``points`` samples what the record does not hold yet.

    compared: the unrolled and the phantom gradient have been compared on all points already.
    """
    points = min(points, len(run.points))
    checks = run.record.checks
    if checks is None or checks.points != points:
        checks = run.record.checks = Checks(points=points)
    rows, view = batches(points, run.batch_size), exact(run.model.deployed)
    wanted: list[tuple[Any, str, Callable[[], Any]]] = [
        (checks.counts, "gradients", lambda: _gradients(run, rows, view)),
        (checks.counts, "repeated", lambda: _repeated(run, rows)),
    ]
    if run.model.states:
        wanted.append((checks.medians, "residual", lambda: _residual(run, rows)))
    for name, (attack, seen) in _trials(run, view, seed, compared).items():
        wanted.append((checks.trials, name, lambda attack=attack, seen=seen: _trial(run, rows, attack, seen)))
    for done, (table, name, measure) in enumerate(wanted, start=1):
        if name not in table:
            table[name] = measure()
            run.file.save()
        if run.progress is not None:
            run.progress(done, len(wanted), f"check {name}")
    checks.done = True


def _trials(run: Run, view: nn.Module, seed: int, compared: bool) -> dict[str, tuple[PGD | AutoAttack, nn.Module]]:
    """Attacks, and what they look through."""
    model, threat = run.model, run.threat
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
    if model.states and model.defence is None and not compared:
        trials["phantom"] = (pgd(), ThroughGradient(model.deployed, "phantom"))
    x, _ = run.batch(slice(0, 1))
    # The reference computes in float32, and its Square needs windows under L2.
    if x.dtype == torch.float32 and (isinstance(threat, Linf) or min(x.shape[2:]) >= 5):
        square = AutoAttack(threat, attacks=("square",), seed=seed, batch_size=run.batch_size, queries=QUERIES)
        trials["square"] = (square, model.deployed)
    return trials


def _trial(run: Run, rows: list[slice], attack: PGD | AutoAttack, view: nn.Module) -> Trial:
    run = replace(run, threat=attack.threat)
    outcomes, losses = [], []
    for batch in rows:
        x, y, indices = _correct(run, batch)
        if len(x):
            x_adv, _, stands = run.attacked(attack, view, x, y, indices)
            outcomes += stands.int().tolist()
            loss = F.cross_entropy(run.logits(x_adv), y, reduction="none")
            losses.append(loss.double().nan_to_num(0, 1e6, 0))
    return Trial(outcomes=outcomes, loss=float(torch.cat(losses).mean()) if losses else None)


def _gradients(run: Run, rows: list[slice], view: nn.Module) -> Count:
    """Of how many correctly classified samples the loss has a gradient that is zero or not finite."""
    bad = total = 0
    for batch in rows:
        x, y, _ = _correct(run, batch)
        if len(x):
            with images_only(view), connected(view):
                at = x.clone().requires_grad_()
                slope = torch.autograd.grad(F.cross_entropy(view(at), y, reduction="sum"), at)[0].flatten(1)
            bad += int((~slope.isfinite().all(1) | (slope == 0).all(1)).sum())
            total += len(x)
    return Count(count=bad, total=total)


def _repeated(run: Run, rows: list[slice]) -> Count:
    """Of how many samples a second forward gives other logits, beyond rounding."""
    other = 0
    for batch in rows:
        x, _ = run.batch(batch)
        one, two = run.logits(x), run.logits(x)
        size = one.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True)
        same = ((one - two).abs() <= 1e-3 * size) | (one == two) | (one.isnan() & two.isnan())
        other += int((~same.all(1)).sum())
    return Count(count=other, total=rows[-1].stop)


@torch.no_grad()
def _residual(run: Run, rows: list[slice]) -> float | None:
    """The median relative residual at z^[N], of the model without a defence; None where it is infinite."""
    bare: Any = run.model.bare
    residuals = []
    for batch in rows:
        x, _ = run.batch(batch)
        with evaluating(bare):
            residuals.append(monitored(bare.trajectory(x, bare.steps + 1).residuals)[-1])
    median = float(torch.cat(residuals).nan_to_num(torch.inf).median())
    return median if median < float("inf") else None


def _correct(run: Run, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and numbers of the samples of a batch that are classified correctly."""
    x, y = run.batch(rows)
    correct = run.correct(rows).to(x.device)
    return x[correct], y[correct], torch.arange(rows.start, rows.stop, device=x.device)[correct]


@torch.no_grad()
def cost(defended: nn.Module | Structure, x: Tensor) -> Cost:
    """What a defence costs: its forward against the bare one, on the first images of x (B, C, H, W).

    seconds: paired and interleaved, the best of each.
    """
    x, model = x[:COST_POINTS], structure(defended)
    best, evaluations, updates = [float("inf")] * 2, [0, 0], [0, 0]
    tally = model.tally
    with evaluating(model.deployed):
        for _ in range(COST_REPEATS):
            for i, module in enumerate((model.bare, model.deployed)):
                before, began = (tally.evaluations, tally.updates), time.perf_counter()
                module(x).sum().item()  # waits for the device
                best[i] = min(best[i], time.perf_counter() - began)
                evaluations[i], updates[i] = tally.evaluations - before[0], tally.updates - before[1]
    return Cost(
        points=len(x),
        seconds=best[1] / best[0],
        evaluations=evaluations[1] / evaluations[0] if evaluations[0] else None,
        updates=updates[1] / len(x),
    )
