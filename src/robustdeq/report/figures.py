"""Figures for papers: each function takes data and a path, and writes a PNG and, beside it, an SVG.

The colours are those of Okabe and Ito, which the colour-blind tell apart; lines differ in their dashes and marks, too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from ..evaluation import Compared, Share
from ..files import write_bytes

CLEAN, ATTACKED, THIRD, MUTED = "#0072b2", "#d55e00", "#009e73", "#7a7f85"
LINE = {"markersize": 3.5, "linewidth": 1.6}
HELD_OUT = (
    ("clean", CLEAN, "-o", "held out, clean"),
    ("unrolled", ATTACKED, "--s", "held out, PGD unrolled"),
    ("phantom", THIRD, ":^", "held out, PGD phantom"),
    ("robust", MUTED, "-.d", "held out, every attack"),
)
TRAINING = (
    ("accuracy_clean", CLEAN, "-o", "training images, clean"),
    ("accuracy_adv", ATTACKED, "--s", "training images, attacked"),
)

Table = Sequence[Sequence[float]]
"""(T, B) numbers."""


def entropy_figure(path: Path, rows: Mapping[str, tuple[Table, Table]]) -> None:
    """Median of the prediction entropy along t with its exact 95% band, and the quartiles. rows: name -> (clean,
    attacked), each (T, B) in nats."""
    figure, axes = _axes(rows)
    kinds = (CLEAN, "-o", "clean images"), (ATTACKED, "--s", "attacked images")
    for axis, (name, tables) in zip(axes[0], rows.items()):
        for values, (colour, style, label) in zip(tables, kinds):
            if (table := np.asarray(values)).ndim != 2 or not table.size:
                raise ValueError(f"entropy_figure: {name} has {label} of shape {table.shape}; allowed: (T, B) numbers.")
            low, middle, high = np.percentile(table, [25, 50, 75], axis=1)
            t = np.arange(1, len(middle) + 1)
            axis.fill_between(t, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.fill_between(t, *median_band(table), color=colour, alpha=0.28, linewidth=0)
            axis.plot(t, middle, style, color=colour, label=label, **LINE)
        _states_axis(axis, name, len(tables[0]))
    axes[0, 0].set_ylabel("prediction entropy (nats)\nmedian, 95% band, quartiles")
    axes[0, 0].legend(frameon=False, fontsize=9)
    _write(figure, path)


def median_band(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends, two of (T,), of a 95% interval of the median over the samples of (T, B) numbers, whatever their law: the
    order statistics between which it lies, since how many samples lie below it is binomial. Of fewer than six samples
    no two have that much between them; the ends are then the extremes."""
    count = table.shape[1]
    rank = int(binom.ppf(0.025, count, 0.5))
    ordered = np.sort(table, axis=1)
    return ordered[:, max(rank - 1, 0)], ordered[:, min(count - rank, count - 1)]


def state_figure(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Accuracy of every z^[t] with exact 95% bands. rows: name -> ``Readouts.to_dict()`` of ``evaluation.readouts``."""
    figure, axes = _axes(rows)
    curves = (
        ("clean", CLEAN, "-o", "clean"),
        ("transfer", MUTED, "-.d", "attacked at z$^{[N]}$"),
        ("own", ATTACKED, "--s", "attacked at z$^{[t]}$ itself"),
    )
    for axis, (name, row) in zip(axes[0], rows.items()):
        if not isinstance(row, Mapping) or not row.get("states"):
            raise ValueError(f"state_figure: {name} is a {type(row).__name__}; allowed: the to_dict() of a Readouts.")
        t = np.arange(1, len(row["states"]) + 1)
        for key, colour, style, label in curves:
            shares = [Share(of[key]["count"], of[key]["total"]) for of in row["states"]]
            low, high = zip(*(share.interval for share in shares))
            axis.fill_between(t, low, high, color=colour, alpha=0.14, linewidth=0)
            axis.plot(t, [share.percent for share in shares], style, color=colour, label=label, **LINE)
        _states_axis(axis, name, len(row["states"]))
        axis.set_ylim(0, 102)
    axes[0, 0].set_ylabel("accuracy (%), 95% bands")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="lower right")
    _write(figure, path)


def certified_figure(path: Path, rows: Mapping[str, Compared]) -> None:
    """Certified accuracy by L2 radius with exact 95% bands, and what stands under attacks of that size."""
    figure, axes = _axes(rows)
    curves = ("certified", CLEAN, "-o", "certified"), ("attacked", ATTACKED, "--s", "attacked, stands")
    for axis, (name, compared) in zip(axes[0], rows.items()):
        for key, colour, style, label in curves:
            shares = {row["radius"]: row[key] for row in compared.to_dict()["rows"] if row[key] is not None}
            if shares:
                low, high = zip(*(share["interval95"] for share in shares.values()))
                axis.fill_between(list(shares), low, high, color=colour, alpha=0.14, linewidth=0)
                percent = [share["percent"] for share in shares.values()]
                axis.plot(list(shares), percent, style, color=colour, label=label, **LINE)
        axis.set_title(_text(name), fontsize=10)
        axis.set_xlabel("L2 radius, pixels in [0, 1]")
        axis.set_ylim(0, 102)
        _bare(axis)
    axes[0, 0].set_ylabel("accuracy (%), 95% bands")
    axes[0, 0].legend(frameon=False, fontsize=9)
    _write(figure, path)


def accuracy_figure(path: Path, rows: Mapping[str, Mapping[str, Share]]) -> None:
    """Clean, every column and All as points with exact 95% intervals. rows: name -> ``Evaluation.shares()``."""
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError(f"a figure of {rows!r:.80}; allowed: one or more rows by name.")
    lines: list[tuple[str, Share | None]] = []
    for name, shares in rows.items():
        lines += [(f"{_text(name)} ", None)] if len(rows) > 1 else []
        lines += [(_text(column), share) for column, share in shares.items() if share.total]
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.25 * len(lines)))
    for place, (column, share) in enumerate(lines):
        if share is None:
            axis.axhline(place, color=MUTED, linewidth=0.4)
            continue
        colour, mark = {"clean": (CLEAN, "o"), "All": (ATTACKED, "s")}.get(column, (MUTED, "d"))
        axis.plot(share.interval, (place, place), color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
        axis.plot(share.percent, place, mark, color=colour, markersize=5, clip_on=False)
    axis.set_yticks(range(len(lines)), [label for label, _ in lines], fontsize=9)
    for label, (_, share) in zip(axis.get_yticklabels(), lines):
        label.set_fontweight("bold" if share is None else "normal")
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set_xlim(0, 100)
    axis.set_xlabel("accuracy (%), exact 95% intervals")
    _bare(axis, "x")
    _write(figure, path)


def training_figure(path: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Loss, and accuracy on held-out images under two gradients, by epoch. rows: name -> the history of a training, a
    dict an epoch, as ``robustdeq train`` logs it. Where nothing was held out, accuracy on training images stands."""
    figure, axes = _axes(rows, 2)
    for (loss, accuracy), (name, history) in zip(axes.T, rows.items()):
        epochs = [row["epoch"] for row in history]
        loss.plot(epochs, [row["loss"] for row in history], "-o", color=CLEAN, **LINE)
        loss.set_title(_text(name), fontsize=10)
        judged = {row["epoch"]: row["validation"] for row in history if isinstance(row.get("validation"), Mapping)}
        of_training = {row["epoch"]: row for row in history}
        shares, curves = (judged, HELD_OUT) if judged else (of_training, TRAINING)
        for key, colour, style, label in curves:
            if known := [(epoch, 100 * row[key]) for epoch, row in shares.items() if key in row]:
                accuracy.plot(*zip(*known), style, color=colour, label=label, **LINE)
        accuracy.set_ylim(0, 102)
        accuracy.set_xlabel("epoch")
        accuracy.legend(frameon=False, fontsize=7.5)
        for axis in (loss, accuracy):
            axis.xaxis.get_major_locator().set_params(integer=True)
            _bare(axis)
    axes[0, 0].set_ylabel("loss (nats)")
    axes[1, 0].set_ylabel("accuracy (%)")
    _write(figure, path)


def _axes(rows: Any, lines: int = 1) -> tuple[Figure, Any]:
    """A figure with a column of axes for each row."""
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError(f"a figure of {rows!r:.80}; allowed: one or more rows by name.")
    size = (3.6 * len(rows) + 0.8, 2.6 * lines + 0.8)
    return plt.subplots(lines, len(rows), figsize=size, sharex="col", sharey="row", squeeze=False)


def _states_axis(axis, name: str, steps: int) -> None:
    axis.set_title(_text(name), fontsize=10)
    axis.set_xlabel("state z$^{[t]}$, t =")
    axis.set_xticks(range(1, steps + 1, max(1, steps // 10)))
    _bare(axis)


def _bare(axis, grid: str = "both") -> None:
    axis.grid(alpha=0.25, axis=grid)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _text(name: str) -> str:
    """A name as it is: matplotlib takes what stands between two dollars for mathematics."""
    return name.replace("$", r"\$")


def _write(figure: Figure, path: Path) -> None:
    """As PNG and as SVG; the same data give the same files."""
    figure.tight_layout()
    pictures = {}
    with matplotlib.rc_context({"svg.hashsalt": "robustdeq"}):
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            figure.savefig(buffer := io.BytesIO(), format=suffix, dpi=150, metadata=metadata)
            pictures[suffix] = buffer.getvalue()
    plt.close(figure)
    for suffix, data in pictures.items():
        write_bytes(path.with_suffix(f".{suffix}"), data)
