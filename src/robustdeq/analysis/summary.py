"""What was measured, in few numbers: medians along t, the detector, and what goes with being right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..evaluation.result import Share
from ..text import markdown
from .detector import Detector, detector
from .measure import ATTACKED, CLEAN, EVADING, REGULATED, REGULATED_CLEAN, Measured

if TYPE_CHECKING:
    from pandas import DataFrame

BESIDE = {ATTACKED: CLEAN, EVADING: CLEAN, REGULATED: REGULATED_CLEAN}
"""Beside which images a detector sees the attacked ones."""


def entropy_detector(measured: Measured, inputs: str = ATTACKED, t: int | None = None) -> Detector:
    """The entropy at z^[t], by default the last, as a detector of the attacks that succeed: images that the model gets
    right at z^[N] against what of theirs is then misclassified there. inputs: attacked, evading, regulated attacked.

    A sample whose entropy is not a number has no say.
    """
    clean, attacked = measured.states[BESIDE[inputs]], measured.states[inputs]
    row = len(clean.entropy) - 1 if t is None else t - 1
    scores, scores_attacked = clean.entropy[row], attacked.entropy[row]
    told = scores.isfinite()
    fallen = measured.right(BESIDE[inputs]) & ~measured.right(inputs) & scores_attacked.isfinite() & told
    place = told.cumsum(0) - 1  # of a sample among those that have a say
    return detector(scores[told], scores_attacked[fallen], pairs=place[fallen])


@dataclass(frozen=True)
class Association:
    """How a number a sample goes with being right. rho: Spearman's rank correlation with right = 1, wrong = 0; NaN
    where all samples are right, or all wrong. wrong: the number as a detector of wrong predictions."""

    rho: float
    wrong: Detector


def association(values: Tensor, right: Tensor) -> Association:
    """values: (B,) numbers; those that are not finite have no say. right: (B,) bool."""
    told = values.isfinite()
    values, right = values[told].double().cpu(), right[told].cpu()
    constant = len(values) < 2 or right.all() or not right.any() or bool((values == values[0]).all())
    result: Any = None if constant else spearmanr(values.numpy(), right.double().numpy())
    return Association(float("nan") if constant else float(result.statistic), detector(values[right], values[~right]))


def summary(measured: Measured) -> dict[str, Any]:
    """JSON: medians over the samples, along t as lists from t = 1; shares with exact 95% intervals; None for NaN."""
    steps = len(measured.states[CLEAN].entropy)
    accuracy = {
        name: [_share(measured.right(name, t)).to_dict() for t in range(1, steps + 1)] for name in measured.states
    }
    along = {
        name: {"entropy": _medians(of.entropy), "residual": _medians(of.residual)}
        for name, of in measured.states.items()
    }
    return {
        "samples": len(measured.labels),
        "steps": steps,
        "accuracy": accuracy,
        "states": along,
        "deviation": {
            name: {term: _medians(values) for term, values in vars(of).items()}
            for name, of in measured.deviations.items()
        },
        "detector": {
            name: {**_told(entropy_detector(measured, name)),
                   "auc_along": [_plain(entropy_detector(measured, name, t).auc) for t in range(1, steps + 1)]}
            for name in BESIDE if name in measured.states
        },
        "radius": {
            name: {"median": _median(of.radius), "largest": _plain(float(of.radius.nan_to_num(torch.inf).max())),
                   "below_one": _share(of.radius < 1).to_dict(), "drift": _median(of.drift)}
            for name, of in measured.radii.items()
        },
        "paths": {
            name: {"started": _median(of.started), "ended": _median(of.ended), "agree": _plain(float(of.agree.mean())),
                   **_associated(association(of.ended, measured.right(name)))}
            for name, of in measured.paths.items()
        },
    }  # fmt: skip


def samples_frame(measured: Measured) -> DataFrame:
    """A row for each sample of the clean and the attacked images: inputs, sample, label, right, radius, drift, started,
    ended, agree."""
    from pandas import concat

    tables = []
    for name, paths in measured.paths.items():
        table = measured.radii[name].frame().merge(paths.frame().drop(columns="prediction"), on="sample")
        table.insert(1, "label", measured.labels.tolist())
        table.insert(2, "right", measured.right(name).tolist())
        table.insert(0, "inputs", name)
        tables.append(table)
    return concat(tables, ignore_index=True)


COLUMNS = (
    "solver", "clean", "attacked", "entropy", "AUC", "AUC, evading", "residual", "deviation", "radius", "ends apart",
)  # fmt: skip


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """Markdown, a line for each solver and one for its regulated images, where there are some; of pairs the first is of
    clean images, the second of attacked ones."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, of in summaries.items():
        lines.append(f"| {markdown(name)} | {' | '.join(_cells(of, (CLEAN, ATTACKED)))} |")
        if REGULATED in of["states"]:
            lines.append(f"| {markdown(name)}, regulated | {' | '.join(_cells(of, (REGULATED_CLEAN, REGULATED)))} |")
    return "\n".join(lines)


def _cells(of: dict[str, Any], pair: tuple[str, str]) -> list[str]:
    """One line of the table but its name. pair: clean and attacked inputs."""
    terms = {term: _short(values[-1]) for term, values in of["deviation"][pair[1]].items()}
    evading = of["detector"][EVADING] if pair[0] == CLEAN else None
    entropies, residuals = (
        " / ".join(_short(of["states"][inputs][term][-1]) for inputs in pair) for term in ("entropy", "residual")
    )
    radii, ends = (
        " / ".join(_short(of[kind][inputs][number]) if inputs in of[kind] else "-" for inputs in pair)
        for kind, number in (("radius", "median"), ("paths", "ended"))
    )
    return [
        *(_percent(of["accuracy"][inputs][-1]) for inputs in pair), entropies, _interval(of["detector"][pair[1]]),
        _interval(evading), residuals, f"{terms['total']} <= {terms['perturbation']} + {terms['accumulation']}",
        radii, ends,
    ]  # fmt: skip


def _percent(share: dict[str, Any]) -> str:
    return str(Share(share["count"], share["total"]))


def _interval(told: dict[str, Any] | None) -> str:
    if told is None or told["auc"] is None:
        return "-"
    low, high = told["interval95"]
    return f"{told['auc']:.3f} [{low:.3f}, {high:.3f}]"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _told(of: Detector) -> dict[str, Any]:
    return {"auc": _plain(of.auc), "interval95": list(of.interval), "hits_at_5_percent": of.hits_at(0.05)}


def _associated(of: Association) -> dict[str, Any]:
    interval = list(of.wrong.interval)
    return {"rho_with_right": _plain(of.rho), "auc_of_wrong": _plain(of.wrong.auc), "interval95": interval}


def _share(flags: Tensor) -> Share:
    return Share(int(flags.sum()), len(flags))


def _medians(values: Tensor) -> Sequence[float | None]:
    """(T, B) to T medians; of an even number the mean of the middle two, NaN has no say."""
    return [_median(row) for row in values]


def _median(values: Tensor) -> float | None:
    return _plain(float(values.double().nanquantile(0.5)))


def _plain(value: float) -> float | None:
    return value if isfinite(value) else None
