"""The charts of a page: how a training went, and what happens along the states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation import Compared, Share
from .charts import Chart, Series
from .runs import Trained

HELD = ("validation", "validation_ema")
"""What the watch wrote down on held-out images: of the weights, and of their moving average."""

ALONG = "t, of z[t]"


def training_charts(trained: Trained) -> list[Chart]:
    """Loss, accuracy, the two gradients of the watch, residual and learning rate; what was not logged is left out."""
    epochs = [number(row, "epoch") or 0.0 for row in trained.epochs]
    per_epoch = _steps_per_epoch(trained)
    fine = [number(row, "step") / per_epoch for row in trained.steps]  # type: ignore[operator]

    def of(*path: str) -> list[float | None]:
        return [number(row, *path) for row in trained.epochs]

    def along(*path: str) -> list[float | None]:
        return [number(row, "train", *path) for row in trained.steps]

    def line(name: str, style: str, *path: str) -> Series:
        return Series(name, epochs, of(*path), style)

    percent = "accuracy (share)"
    charts = [
        Chart("Loss", "epoch", "loss (nats)", (
            Series("every tenth step", fine, along("loss"), "muted", faint=True),
            line("mean of the epoch", "clean", "loss"),
        )),
        Chart("Accuracy on training images", "epoch", percent, (
            line("clean", "clean", "accuracy_clean"), line("attacked", "attacked", "accuracy_adv"),
        ), floor=0.0, ceiling=1.0),
        *(_watched(key, epochs, of, percent) for key in HELD),
        Chart("Relative residual of the last state", "epoch", "residual (median)", (
            line("residual", "clean", "residual"),), log=True),
        Chart("Learning rate", "epoch", "learning rate", (
            Series("learning rate", fine, along("learning_rate"), "clean", faint=True),), floor=0.0),
    ]  # fmt: skip
    return [chart for chart in charts if not chart.empty]


def _watched(key: str, epochs: list[float], of: Any, label: str) -> Chart:
    """Where the two gradients part, one of them is masked."""
    names = {"clean": "clean", "unrolled": "attacked", "phantom": "third", "exact": "attacked", "robust": "muted"}
    words = {"clean": "clean", "unrolled": "PGD, unrolled gradient", "phantom": "PGD, phantom gradient",
             "exact": "PGD, exact gradient", "robust": "stands all attacks"}  # fmt: skip
    lines = [Series(words[name], epochs, of(key, name), style) for name, style in names.items()]
    lines = [line for line in lines if any(y is not None for y in line.y)]
    average = ", average of the weights" if key == "validation_ema" else ""
    return Chart(f"Held-out images, two gradients{average}", "epoch", label, tuple(lines), floor=0.0, ceiling=1.0)


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
        lines = [_quartiles(f"{kind} images", entropy[kind], kind) for kind in ("clean", "attacked")]
        charts.append(Chart("Prediction entropy", ALONG, "entropy (nats), quartiles", tuple(lines), floor=0.0))
    if distance := analysis.get("distance"):
        line = _quartiles("attacked images", distance, "attacked")
        label = "relative distance, quartiles"
        charts.append(Chart("Distance to the clean trajectory", ALONG, label, (line,), floor=0.0))
    if states := (analysis.get("readouts") or {}).get("states"):
        charts.append(_states_chart(states))
    if residuals := analysis.get("residuals"):
        values = [value if isinstance(value, int | float) else None for value in residuals]
        line = Series("clean images", list(range(len(values))), values)
        charts.append(Chart("Relative residual", ALONG, "residual (median)", (line,), log=True))
    return [chart for chart in charts if not chart.empty]


def _quartiles(name: str, values: Sequence[Sequence[float]], style: str) -> Series:
    """The median over the samples, in a band of the quartiles. values: (T, B)."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{name} of shape {table.shape}; allowed: (T, B)")
    low, middle, high = np.percentile(table, [25, 50, 75], axis=1).tolist()
    return Series(name, list(range(1, len(table) + 1)), middle, style, low, high)


def _states_chart(states: Sequence[Mapping[str, Any]]) -> Chart:
    kinds = {"clean": ("clean", "clean"), "transfer": ("attacked at z[N]", "muted")}
    kinds["own"] = ("attacked at z[t]", "attacked")
    lines, t = [], list(range(1, len(states) + 1))
    for key, (name, style) in kinds.items():
        shares = [Share(int(row[key]["count"]), int(row[key]["total"])) for row in states]
        low, high = zip(*(share.interval for share in shares))
        lines.append(Series(name, t, [share.percent for share in shares], style, low, high))
    return Chart("Accuracy of every state", ALONG, "accuracy (%), 95% bands", tuple(lines), floor=0.0, ceiling=100.0)


def certified_chart(compared: Compared) -> Chart:
    """Certified accuracy by radius, and what stands under attacks of that size, on the samples of each."""
    rows, lines = compared.to_dict()["rows"], []
    for key, style in {"certified": "clean", "attacked": "attacked"}.items():
        shares = {row["radius"]: row[key] for row in rows if row[key] is not None}
        if shares:
            low, high = zip(*(share["interval95"] for share in shares.values()))
            values = [share["percent"] for share in shares.values()]
            lines.append(Series(key, list(shares), values, style, low, high))
    label = "accuracy (%), 95% bands"
    return Chart("Certified accuracy", "L2 radius", label, tuple(lines), floor=0.0, ceiling=100.0, fine=True)


def number(row: Any, *path: str) -> float | None:
    """The number at the end of a path through nested JSON; None where there is none, or it is not finite."""
    for name in path:
        row = row.get(name) if isinstance(row, Mapping) else None
    return float(row) if isinstance(row, int | float) and not isinstance(row, bool) and math.isfinite(row) else None
