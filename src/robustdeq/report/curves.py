"""The charts of a page: how a training went, and what happens along the states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ..charts import Chart, Series
from ..evaluation import Compared, Share
from .runs import Trained

WATCHED = {
    "clean": ("clean", "clean"), "unrolled": ("PGD, unrolled gradient", "attacked"),
    "phantom": ("PGD, phantom gradient", "third"), "exact": ("PGD, exact gradient", "attacked"),
    "robust": ("stands all attacks", "muted"),
}  # fmt: skip
"""What the watch wrote down on held-out images: name of the curve, style."""
ALONG, BANDS = "t, of z[t]", "accuracy (%), 95% bands"


def training_charts(trained: Trained) -> list[Chart]:
    """Loss, accuracy, the two gradients of the watch, the same by hours, residual and learning rate; what was not
    logged is left out."""
    epochs, per_epoch = [number(row, "epoch") or 0.0 for row in trained.epochs], _steps_per_epoch(trained)
    times = [number(row, "step") / per_epoch for row in trained.steps]  # type: ignore[operator]

    def line(name: str, style: str, *path: str) -> Series:
        return Series(name, epochs, [number(row, *path) for row in trained.epochs], style)

    def fine(name: str, style: str, key: str) -> Series:
        return Series(name, times, [number(row, "train", key) for row in trained.steps], style, faint=True)

    def shares(title: str, *lines: Series) -> Chart:
        return Chart(title, "epoch", "accuracy (share)", lines, floor=0.0, ceiling=1.0)

    def watched(key: str) -> list[Series]:
        rows = [row for row in trained.epochs if key in row]  # not every epoch is judged; those between are no gaps
        at = [number(row, "epoch") or 0.0 for row in rows]
        kinds = {kind: [number(row, key, kind) for row in rows] for kind in WATCHED}
        return [Series(WATCHED[of][0], at, ys, WATCHED[of][1]) for of, ys in kinds.items() if {*ys} - {None}]

    training = line("clean", "clean", "accuracy_clean"), line("attacked", "attacked", "accuracy_adv")
    losses = fine("every tenth step", "muted", "loss"), line("mean of the epoch", "clean", "loss")
    residual, rate = line("residual", "clean", "residual"), fine("learning rate", "clean", "learning_rate")
    held = "Held-out images, two gradients"  # where they part, one of them is masked
    charts = [
        Chart("Loss", "epoch", "loss (nats)", losses),
        shares("Accuracy on training images", *training),
        shares(held, *watched("validation")),
        shares(f"{held}, average of the weights", *watched("validation_ema")),
        _by_hours(trained.epochs),
        Chart("Relative residual of the last state", "epoch", "residual (median)", (residual,), log=True),
        Chart("Learning rate", "epoch", "learning rate", (rate,), floor=0.0),
    ]
    return [chart for chart in charts if not chart.empty]


def _by_hours(epochs: Sequence[Mapping[str, Any]]) -> Chart:
    """Clean and robust accuracy on held-out images against the hours that the updates took: what an hour more buys. Of
    the averaged weights, where they were judged. No chart where an epoch does not tell its seconds."""
    seconds = [number(row, "seconds") for row in epochs]
    if any(value is None for value in seconds):
        epochs = []
    hours = [total / 3600 for total in accumulate(value or 0.0 for value in seconds)]
    averaged = any("validation_ema" in row for row in epochs)
    kind, whose = ("validation_ema", ", average of the weights") if averaged else ("validation", "")
    judged = [(hour, row) for hour, row in zip(hours, epochs) if kind in row]
    lines = tuple(
        Series(name, [hour for hour, _ in judged], [number(row, kind, key) for _, row in judged], style)
        for name, style, key in (("clean", "clean", "clean"), ("stands all attacks", "attacked", "robust"))
    )
    title = f"Held-out images, by hours{whose}"
    return Chart(title, "hours of updates", "accuracy (share)", lines, floor=0.0, ceiling=1.0, fine=True)


def _steps_per_epoch(trained: Trained) -> float:
    for row in trained.epochs:
        step, epoch = number(row, "step"), number(row, "epoch")
        if step and epoch:
            return step / epoch
    return max((number(row, "step") or 1.0 for row in trained.steps), default=1.0)


def analysis_charts(analysis: Mapping[str, Any]) -> list[Chart]:
    """Of what was found along t: ``entropy`` (clean and attacked), ``distance``, each (T, B); ``readouts`` and
    ``residuals`` as ``reproduce`` writes them. A ValueError, TypeError or KeyError for what is not that."""
    charts = []
    if entropy := analysis.get("entropy"):
        lines = tuple(quartiles(f"{kind} images", entropy[kind], kind) for kind in ("clean", "attacked"))
        charts.append(Chart("Prediction entropy", ALONG, "entropy (nats), quartiles", lines, floor=0.0))
    if distance := analysis.get("distance"):
        lines = (quartiles("attacked images", distance, "attacked"),)
        label = "relative distance, quartiles"
        charts.append(Chart("Distance to the clean trajectory", ALONG, label, lines, floor=0.0))
    if states := (analysis.get("readouts") or {}).get("states"):
        lines = state_lines(states)
        charts.append(Chart("Accuracy of every state", ALONG, BANDS, lines, floor=0.0, ceiling=100.0))
    if residuals := analysis.get("residuals"):
        values = [value if isinstance(value, int | float) else None for value in residuals]
        lines = (Series("clean images", list(range(len(values))), values),)
        charts.append(Chart("Relative residual", ALONG, "residual (median)", lines, log=True))
    return [chart for chart in charts if not chart.empty]


def certified_chart(compared: Compared) -> Chart:
    """Certified accuracy by radius, and what stands under attacks of that size, on the samples of each."""
    lines = certified_lines(compared)
    return Chart("Certified accuracy", "L2 radius", BANDS, lines, floor=0.0, ceiling=100.0, fine=True)


def quartiles(name: str, values: Sequence[Sequence[float]], style: str, owner: str = "") -> Series:
    """The median over the samples along t, in a band of the quartiles. values: (T, B). owner: of the values, for the
    ValueError where they are not that."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{owner}{name} of shape {table.shape}; allowed: (T, B) numbers.")
    low, middle, high = np.percentile(table, [25, 50, 75], axis=1).tolist()
    return Series(name, list(range(1, len(table) + 1)), middle, style, low, high)


def state_lines(
    states: Sequence[Mapping[str, Any]], names: Sequence[str] = ("clean", "attacked at z[N]", "attacked at z[t]")
) -> tuple[Series, ...]:  # fmt: skip
    """Accuracy of every z[t]: clean, under the attack on the last state, and under its own."""
    lines = []
    for name, (key, style) in zip(names, (("clean", "clean"), ("transfer", "muted"), ("own", "attacked"))):
        shares = [Share(int(row[key]["count"]), int(row[key]["total"])) for row in states]
        lines.append(_accuracies(name, style, dict(enumerate(shares, start=1))))
    return tuple(lines)


def certified_lines(compared: Compared, names: Sequence[str] = ("certified", "attacked")) -> tuple[Series, ...]:
    """Certified accuracy by radius, and what stands there where it was attacked."""
    attacked = {radius: share for radius in compared.radii if (share := compared.standing_share(radius)) is not None}
    shares = {"clean": compared.certificate.shares(compared.radii), "attacked": attacked}
    return tuple(_accuracies(name, style, of) for name, (style, of) in zip(names, shares.items()) if of)


def _accuracies(name: str, style: str, shares: Mapping[float, Share]) -> Series:
    """Percent by x, in a band of the exact 95% intervals."""
    low, high = zip(*(share.interval for share in shares.values()))
    return Series(name, list(shares), [share.percent for share in shares.values()], style, low, high)


def number(row: Any, *path: str) -> float | None:
    """The number at the end of a path through nested JSON; None where there is none, or it is not finite."""
    for name in path:
        row = row.get(name) if isinstance(row, Mapping) else None
    return float(row) if isinstance(row, int | float) and not isinstance(row, bool) and math.isfinite(row) else None
