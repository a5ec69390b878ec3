"""What was measured, told in few numbers: medians along t, the detector, and what goes with being right.

Legend of shapes: B batch, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..evaluation.share import Share
from ..text import markdown
from ..text import table as markdown_table
from .detector import Detector, association, detector
from .dynamics import frame, stacked
from .measure import ATTACKED, BESIDE, CLEAN, EVADING, REGULATED, REGULATED_CLEAN, Measured

if TYPE_CHECKING:
    from pandas import DataFrame


def entropy_detector(measured: Measured, inputs: str = ATTACKED, t: int | None = None) -> Detector:
    """The entropy at z^[t], by default the last, as a detector of the attacks that succeed: all clean images, right or
    not, against what is misclassified there of those that were right. inputs: attacked, evading, regulated attacked.

    A sample whose entropy is not a number has no say.
    """
    row = -1 if t is None else t - 1
    clean, attacked = (measured.states[kind].entropy[row] for kind in (BESIDE[inputs], inputs))
    finite = clean.isfinite()
    fallen = measured.right(BESIDE[inputs]) & ~measured.right(inputs) & attacked.isfinite() & finite
    place = finite.cumsum(0) - 1  # of a sample among those that have a say
    return detector(clean[finite], attacked[fallen], pairs=place[fallen])


def summary(measured: Measured) -> dict[str, Any]:
    """JSON: medians over the samples, along t as lists from t = 1; shares with exact 95% intervals; None for NaN."""
    every_t = range(1, len(measured.states[CLEAN].entropy) + 1)
    detectors, paths = {}, {}
    for name in [name for name in BESIDE if name in measured.states]:
        roc = entropy_detector(measured, name)
        detectors[name] = {
            "auc": _plain(roc.auc), "interval95": list(roc.interval), "hits_at_5_percent": _plain(roc.hits_at(0.05)),
            "auc_along": [_plain(entropy_detector(measured, name, t).auc) for t in every_t],
        }  # fmt: skip
    for name, path in measured.paths.items():
        ended = association(path.ended, measured.right(name))
        paths[name] = {
            "started": _median(path.started), "ended": _median(path.ended), "agree": _plain(float(path.agree.mean())),
            "rho_with_right": _plain(ended.rho), "auc_of_wrong": _plain(ended.wrong.auc),
            "interval95": list(ended.wrong.interval),
        }  # fmt: skip
    return {
        "samples": len(measured.labels),
        "steps": len(every_t),
        "accuracy": {name: [Share.of(measured.right(name, t)).to_dict() for t in every_t] for name in measured.states},
        "states": {
            name: {"entropy": _medians(states.entropy), "residual": _medians(states.residual)}
            for name, states in measured.states.items()
        },
        "deviation": {
            name: {term: _medians(values) for term, values in vars(terms).items()}
            for name, terms in measured.deviations.items()
        },
        "detector": detectors,
        "radius": {
            name: {
                "median": _median(of.radius), "largest": _plain(float(of.radius.nan_to_num(torch.inf).max())),
                "below_one": Share.of(of.radius < 1).to_dict(), "drift": _median(of.drift),
            }
            for name, of in measured.radii.items()
        },
        "paths": paths,
    }  # fmt: skip


def samples_frame(measured: Measured) -> DataFrame:
    """A row for each sample of the clean and the attacked images: inputs, sample, label, right, radius, drift, started,
    ended, agree."""
    tables = []
    for name, path in measured.paths.items():
        columns = {"label": measured.labels, "right": measured.right(name), **vars(measured.radii[name])}
        columns |= {"started": path.started, "ended": path.ended, "agree": path.agree}
        tables.append((name, frame(columns)))
    return stacked(tables, "inputs")


COLUMNS = (
    "solver", "clean", "attacked", "entropy", "AUC", "AUC, evading", "residual", "deviation", "radius", "ends apart",
)  # fmt: skip


def table(seen: Mapping[str, Measured]) -> str:
    """Markdown, a line for each solver and one for its regulated images, where there are some; of pairs the first is of
    clean images, the second of attacked ones. seen: by the solver's name."""
    rows = []
    for name, of in seen.items():
        rows.append([markdown(name), *_cells(of, CLEAN, ATTACKED)])
        if REGULATED in of.states:
            rows.append([f"{markdown(name)}, regulated", *_cells(of, REGULATED_CLEAN, REGULATED)])
    return markdown_table(COLUMNS, rows)


def _cells(of: Measured, clean: str, attacked: str) -> list[str]:
    """One line of the table but its name, for a pair of inputs: medians at z^[N]."""
    states, moved = [of.states[inputs] for inputs in (clean, attacked)], of.deviations[attacked]
    radii = [of.radii[inputs].radius if inputs in of.radii else None for inputs in (clean, attacked)]
    ends = [of.paths[inputs].ended if inputs in of.paths else None for inputs in (clean, attacked)]
    total, perturbation, accumulation = map(_short, (moved.total[-1], moved.perturbation[-1], moved.accumulation[-1]))
    return [
        *(str(Share.of(of.right(inputs))) for inputs in (clean, attacked)),
        " / ".join(_short(each.entropy[-1]) for each in states),
        _area(entropy_detector(of, attacked)),
        _area(entropy_detector(of, EVADING)) if clean == CLEAN else "-",
        " / ".join(_short(each.residual[-1]) for each in states),
        f"{total} <= {perturbation} + {accumulation}",
        " / ".join(map(_short, radii)),
        " / ".join(map(_short, ends)),
    ]


def _area(roc: Detector) -> str:
    return str(roc) if isfinite(roc.auc) else "-"


def _short(values: Tensor | None) -> str:
    """The median of the samples' values (B,); a dash where there are none."""
    median = None if values is None else _median(values)
    return "-" if median is None else f"{median:.2g}"


def _medians(values: Tensor) -> list[float | None]:
    """(T, B) to T medians; of an even number the mean of the middle two, NaN has no say."""
    return [_median(row) for row in values]


def _median(values: Tensor) -> float | None:
    return _plain(float(values.double().nanquantile(0.5)))


def _plain(value: float) -> float | None:
    return value if isfinite(value) else None
