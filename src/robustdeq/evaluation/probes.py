"""Cheap measurements on the first few samples. What they mean is said in ``checks``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, Linf, Phantom
from ..dynamics.trajectory import known
from ..models.classifier import DEQClassifier
from ..models.modes import evaluating, images_only
from .entry import Attack, bare, exact
from .images import batches
from .run import Run, connected

FEWER, MORE = 3, 10
"""Steps of PGD."""
HUGE = 0.5
"""L-inf, half of the range of pixels: any image can be made grey."""
QUERIES = 200
"""Of Square."""


def probe(run: Run, points: int, seed: int, *, compared: bool) -> None:
    """Measure on the first ``points`` samples what the record does not hold yet.

    compared: the unrolled and the phantom gradient have been compared on all points already.
    """
    data = run.record.data
    points = min(points, len(run.points))
    if data.get("checks", {}).get("points") != points:
        data["checks"] = {"points": points, "measures": {}}
    measures = data["checks"]["measures"]
    wanted = _measures(run, seed, compared)
    for done, (name, measure) in enumerate(wanted.items(), start=1):
        if name not in measures:
            measures[name] = measure(run, batches(points, run.batch_size))
            run.record.save()
        if run.progress is not None:
            run.progress(done, len(wanted), f"check {name}")
    data["checks"]["done"] = True


Measure = Callable[[Run, list[slice]], Any]


def _measures(run: Run, seed: int, compared: bool) -> dict[str, Measure]:
    model, threat = run.model, run.threat
    white = exact(model)
    limit = 1.0 if isinstance(threat, Linf) else float("inf")

    def pgd(scale: float = 1.0, steps: int = MORE) -> PGD:
        ball = replace(threat, eps=min(scale * threat.eps, limit))
        return PGD(ball, ball.eps / 4, steps, seed=seed, keep="last")

    wide = PGD(Linf(HUGE), HUGE / 4, MORE, seed=seed)
    square = AutoAttack(threat, attacks=("square",), seed=seed, batch_size=run.batch_size, queries=QUERIES)
    attacks: dict[str, tuple[Attack, nn.Module]] = {
        "more steps": (pgd(), white),
        "fewer steps": (pgd(steps=FEWER), white),
        "half eps": (pgd(0.5), white),
        "double eps": (pgd(2.0), white),
        "huge eps": (wide, white),
    }
    if isinstance(model, DEQClassifier) and not compared:
        attacks["phantom"] = (pgd(), Phantom(model))
    if _square_can(run):
        attacks["square"] = (square, model)
    measures: dict[str, Measure] = {"gradients": _gradients, "repeated": _repeated}
    if isinstance(bare(model), DEQClassifier):
        measures["residual"] = _residual
    return measures | {name: partial(_attacked, attack=attack, view=view) for name, (attack, view) in attacks.items()}


def _square_can(run: Run) -> bool:
    """The reference computes in float32, and its Square needs windows under L2."""
    x, _ = run.batch(slice(0, 1))
    return x.dtype == torch.float32 and (isinstance(run.threat, Linf) or min(x.shape[2:]) >= 5)


def _attacked(run: Run, rows: list[slice], *, attack: Any, view: nn.Module) -> dict[str, Any]:
    """Which of the correctly classified samples stand, 1 or 0, and the mean cross-entropy of the attacked images."""
    run = replace(run, threat=attack.threat)
    outcomes, losses = [], []
    for batch in rows:
        x, y, indices = _correct(run, batch)
        if len(x):
            x_adv, _, stands = run.attacked(attack, view, x, y, indices)
            outcomes += stands.int().tolist()
            loss = F.cross_entropy(run.logits(x_adv), y, reduction="none")
            losses.append(loss.double().nan_to_num(0, 1e6, 0))
    return {"outcomes": outcomes, "loss": float(torch.cat(losses).mean()) if losses else None}


def _gradients(run: Run, rows: list[slice]) -> dict[str, int]:
    """Of how many correctly classified samples the loss has a gradient that is zero or not finite."""
    bad = total = 0
    view = exact(run.model)
    for batch in rows:
        x, y, _ = _correct(run, batch)
        if len(x):
            with images_only(view), connected(view):
                at = x.clone().requires_grad_()
                slope = torch.autograd.grad(F.cross_entropy(view(at), y, reduction="sum"), at)[0].flatten(1)
            bad += int((~slope.isfinite().all(1) | (slope == 0).all(1)).sum())
            total += len(x)
    return {"count": bad, "total": total}


def _repeated(run: Run, rows: list[slice]) -> dict[str, int]:
    """Of how many samples a second forward gives other logits, beyond rounding."""
    other = 0
    for batch in rows:
        x, _ = run.batch(batch)
        one, two = run.logits(x), run.logits(x)
        size = one.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True)
        same = ((one - two).abs() <= 1e-3 * size) | (one == two) | (one.isnan() & two.isnan())
        other += int((~same.all(1)).sum())
    return {"count": other, "total": rows[-1].stop}


@torch.no_grad()
def _residual(run: Run, rows: list[slice]) -> float | None:
    """The median relative residual at z^[N], of the model without a defence."""
    inner: Any = bare(run.model)
    found = []
    for batch in rows:
        x, _ = run.batch(batch)
        with evaluating(inner):
            found.append(known(inner.trajectory(x, inner.steps + 1).residuals)[-1])
    middle = float(torch.cat(found).nan_to_num(torch.inf).median())
    return middle if middle < float("inf") else None


def _correct(run: Run, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and numbers of the samples of a batch that are classified correctly."""
    x, y = run.batch(rows)
    correct = run.correct(rows).to(x.device)
    return x[correct], y[correct], torch.arange(rows.start, rows.stop, device=x.device)[correct]
