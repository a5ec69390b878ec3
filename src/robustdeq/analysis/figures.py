"""Figures from plain numbers: each function takes data and a path, and writes a PNG."""

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

from ..files import write_bytes

CLEAN, ATTACKED, MUTED = "#1b6ca8", "#c8553d", "#8a8d91"


def entropy_figure(path: Path, rows: Mapping[str, tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]]]) -> None:
    """Median and quartiles of the prediction entropy along t. rows: name -> (clean, attacked), each (T, B) in nats."""
    figure, axes = _axes(rows)
    for axis, (name, (clean, attacked)) in zip(axes[0], rows.items()):
        for values, colour, label in ((clean, CLEAN, "clean images"), (attacked, ATTACKED, "attacked images")):
            if (table := np.asarray(values)).ndim != 2 or not table.size:
                raise ValueError(f"entropy_figure: {name} has {label} of shape {table.shape}; allowed: (T, B) numbers.")
            low, middle, high = np.percentile(table, [25, 50, 75], axis=1)
            t = np.arange(1, len(middle) + 1)
            axis.fill_between(t, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(t, middle, color=colour, marker="o", markersize=3.5, label=label)
        _states_axis(axis, name, len(clean))
    axes[0, 0].set_ylabel("prediction entropy (nats)\nmedian and quartiles")
    axes[0, 0].legend(frameon=False, fontsize=9)
    _write(figure, path)


def state_figure(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Accuracy of every z^[t]. rows: name -> ``Readouts.to_dict()`` of ``evaluation.readouts``."""
    figure, axes = _axes(rows)
    curves = (
        ("clean", CLEAN, "-", "clean"),
        ("transfer", MUTED, "--", "attacked at z$^{[N]}$"),
        ("own", ATTACKED, "-", "attacked at z$^{[t]}$ itself"),
    )
    for axis, (name, row) in zip(axes[0], rows.items()):
        if not isinstance(row, Mapping) or not row.get("states"):
            raise ValueError(f"state_figure: {name} is a {type(row).__name__}; allowed: the to_dict() of a Readouts.")
        for key, colour, line, label in curves:
            share = np.asarray([100 * shares[key]["count"] / shares[key]["total"] for shares in row["states"]])
            axis.plot(np.arange(1, len(share) + 1), share, line, color=colour, marker="o", markersize=3.5, label=label)
        _states_axis(axis, name, len(row["states"]))
        axis.set_ylim(0, 102)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="lower right")
    _write(figure, path)


def _axes(rows: Any) -> tuple[Figure, Any]:
    """A figure with one axis for each row."""
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError(f"a figure of {rows!r:.80}; allowed: one or more rows by name.")
    return plt.subplots(1, len(rows), figsize=(3.6 * len(rows) + 0.8, 3.4), sharey=True, squeeze=False)


def _states_axis(axis, name: str, steps: int) -> None:
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("state z$^{[t]}$, t =")
    axis.set_xticks(range(1, steps + 1))
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _write(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, buffer.getvalue())
