"""Figures for papers: each function takes data and a path, and writes a PNG and, beside it, an SVG.

The colours are those of Okabe and Ito, which the colour-blind tell apart; lines differ in their dashes and marks, too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot is there: no window, so a machine without a screen draws as well

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from ..charts import Series
from ..evaluation import Compared, Share
from ..files import write_bytes
from .curves import BANDS, WATCHED, certified_lines, quartiles, state_lines

STYLES = {"clean": ("#0072b2", "-o"), "attacked": ("#d55e00", "--s"), "third": ("#009e73", ":^"),
          "muted": ("#7a7f85", "-.d")}  # fmt: skip
"""Of a ``Series``: colour, dashes and mark."""
HELD_OUT = {key: (f"held out, {label}", style) for key, (label, style) in WATCHED.items()}
TRAINING = {
    "accuracy_clean": ("training images, clean", "clean"), "accuracy_adv": ("training images, attacked", "attacked"),
}  # fmt: skip

Table = Sequence[Sequence[float]]
"""(T, B) numbers."""


def entropy_figure(path: Path, rows: Mapping[str, tuple[Table, Table]]) -> None:
    """Median of the prediction entropy along t with its exact 95% band, and the quartiles. rows: name -> (clean,
    attacked), each (T, B) in nats."""

    def draw(axis: Any, name: str, tables: tuple[Table, Table]) -> None:
        for values, style in zip(tables, ("clean", "attacked")):
            line = quartiles(f"{style} images", values, style, f"entropy_figure: {name} has ")
            _curve(axis, line, 0.12)
            axis.fill_between(line.x, *median_band(np.asarray(values)), color=STYLES[style][0], alpha=0.28, linewidth=0)
        _along_states(axis, len(tables[0]))

    _panels(path, rows, draw, "prediction entropy (nats)\nmedian, 95% band, quartiles")


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
    names = "clean", "attacked at z$^{[N]}$", "attacked at z$^{[t]}$ itself"

    def draw(axis: Any, name: str, row: Mapping[str, Any]) -> None:
        if not isinstance(row, Mapping) or not row.get("states"):
            raise ValueError(f"state_figure: {name} is a {type(row).__name__}; allowed: the to_dict() of a Readouts.")
        for line in state_lines(row["states"], names):
            _curve(axis, line)
        _along_states(axis, len(row["states"]))
        axis.set_ylim(0, 102)

    _panels(path, rows, draw, BANDS, loc="lower right")


def certified_figure(path: Path, rows: Mapping[str, Compared]) -> None:
    """Certified accuracy by L2 radius with exact 95% bands, and what stands under attacks of that size."""

    def draw(axis: Any, name: str, compared: Compared) -> None:
        for line in certified_lines(compared, ("certified", "attacked, stands")):
            _curve(axis, line)
        axis.set_xlabel("L2 radius, pixels in [0, 1]")
        axis.set_ylim(0, 102)

    _panels(path, rows, draw, BANDS)


def accuracy_figure(path: Path, rows: Mapping[str, Mapping[str, Share]]) -> None:
    """Clean, every column and All as points with exact 95% intervals. rows: name -> ``Evaluation.shares()``."""
    _check_rows(rows)
    lines: list[tuple[str, Share | None]] = []
    for name, shares in rows.items():
        lines += [(f"{_text(name)} ", None)] if len(rows) > 1 else []
        lines += [(_text(column), share) for column, share in shares.items() if share.total]
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.25 * len(lines)))
    for place, (column, share) in enumerate(lines):
        if share is None:
            axis.axhline(place, color=STYLES["muted"][0], linewidth=0.4)
            continue
        colour, dashed = STYLES[{"clean": "clean", "All": "attacked"}.get(column, "muted")]
        axis.plot(share.interval, (place, place), color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
        axis.plot(share.percent, place, dashed[-1], color=colour, markersize=5, clip_on=False)
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
        _curve(loss, Series("", [row["epoch"] for row in history], [row["loss"] for row in history]))
        loss.set_title(_text(name), fontsize=10)
        judged = {row["epoch"]: row["validation"] for row in history if isinstance(row.get("validation"), Mapping)}
        shares, curves = (judged, HELD_OUT) if judged else ({row["epoch"]: row for row in history}, TRAINING)
        for key, (label, style) in curves.items():
            if percents := {epoch: 100 * row[key] for epoch, row in shares.items() if key in row}:
                _curve(accuracy, Series(label, list(percents), list(percents.values()), style))
        accuracy.set_ylim(0, 102)
        accuracy.set_xlabel("epoch")
        accuracy.legend(frameon=False, fontsize=7.5)
        for axis in (loss, accuracy):
            axis.xaxis.get_major_locator().set_params(integer=True)
            _bare(axis)
    axes[0, 0].set_ylabel("loss (nats)")
    axes[1, 0].set_ylabel("accuracy (%)")
    _write(figure, path)


def _panels(
    path: Path, rows: Mapping[str, Any], draw: Callable[[Any, str, Any], None], label: str, loc: str = "best"
) -> None:  # fmt: skip
    """A panel for each row, under its name. label: of the y axis that they share."""
    figure, axes = _axes(rows)
    for axis, (name, row) in zip(axes[0], rows.items()):
        draw(axis, name, row)
        axis.set_title(_text(name), fontsize=10)
        _bare(axis)
    axes[0, 0].set_ylabel(label)
    axes[0, 0].legend(frameon=False, fontsize=9, loc=loc)
    _write(figure, path)


def _check_rows(rows: Any) -> None:
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError(f"a figure of {rows!r:.80}; allowed: one or more rows by name.")


def _axes(rows: Any, lines: int = 1) -> tuple[Figure, Any]:
    """A figure with a column of axes for each row."""
    _check_rows(rows)
    size = (3.6 * len(rows) + 0.8, 2.6 * lines + 0.8)
    return plt.subplots(lines, len(rows), figsize=size, sharex="col", sharey="row", squeeze=False)


def _curve(axis: Any, series: Series, alpha: float = 0.14) -> None:
    """A line with its band. alpha: of the band."""
    colour, dashed = STYLES[series.style]
    if series.low is not None and series.high is not None:
        axis.fill_between(series.x, series.low, series.high, color=colour, alpha=alpha, linewidth=0)
    axis.plot(series.x, series.y, dashed, color=colour, label=series.name, markersize=3.5, linewidth=1.6)


def _along_states(axis: Any, steps: int) -> None:
    axis.set_xlabel("state z$^{[t]}$, t =")
    axis.set_xticks(range(1, steps + 1, max(1, steps // 10)))


def _bare(axis: Any, grid: str = "both") -> None:
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
