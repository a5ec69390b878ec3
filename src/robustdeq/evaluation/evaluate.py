"""Robust accuracy that believes no attack: every adversarial image is re-verified by the deployed forward."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import AutoAttack, Linf, Readout, Threat, check_labels
from ..dynamics.solver import check_count
from ..models.classifier import DEQClassifier
from ..models.modes import evaluating
from ..options import check_options, describe
from ..processes import ALONE, Processes
from ..regulation import RegulatedClassifier
from .checks import comparable
from .cost import cost
from .entry import Entry, bare, innermost
from .images import Points, Rows, loaded, points_of
from .probes import probe
from .record import Record
from .result import Evaluation
from .run import Given, Progress, Run
from .suite import suite


def evaluate(
    model: nn.Module,
    x: Tensor | Points,
    y: Tensor | None = None,
    *,
    suite: str | Sequence[Entry] = "standard",
    threat: Threat | None = None,
    step_size: float | None = None,
    batch_size: int = 250,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    images: bool = False,
    transfers: Mapping[str, Rows] | None = None,
    checks: int = 50,
    chosen: str | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
    **options: Any,
) -> Evaluation:
    """Attack a classifier and count what stands.

    model: any module with logits = module(images); DEQs and defended DEQs are attacked through their views.
    x: (N, C, H, W) in [0, 1], with y: (N,) int64; or an ``ImageSet`` or ``StreamedSet``, of which no more than a batch
    is made floating-point at a time. A batch is moved to where the model is.
    suite: ``quick | paper | standard | adaptive``, or a list of ``Entry``. threat: default Linf(8/255). step_size: of
    PGD, default a quarter of eps. seed: of every attack. options: further options of the suite.
    out: folder for evaluation.json, written after every batch; with resume=True a finished batch is not repeated.
    images: keep the adversarial images there, too. processes: each takes its share of the batches.
    transfers: adversarial images (points, C, H, W) from elsewhere, a tensor or another evaluation's ``images``, by name
    "COLUMN/NAME", verified like any other attack.
    checks: look for red flags on the first so many samples, 0 for none. chosen: how the samples were chosen, in words.
    """
    threat = Linf(8 / 255) if threat is None else threat
    points = points_of(x, y)
    check_count("evaluate", "batch_size", batch_size)
    check_count("evaluate", "checks", checks, 0)
    folder = None if out is None else Path(out)
    if images and folder is None:
        raise ValueError("evaluate: images=True without out; allowed: a folder to keep them in.")
    step_size = threat.eps / 4 if step_size is None else step_size
    entries = [*_given(transfers or {}), *_entries(model, suite, threat, step_size, seed, batch_size, options)]
    _check_names(entries)
    identity = _identity(model, points, threat, seed, batch_size, _first_logits(model, points, entries))
    record = Record(folder, identity, resume=resume, processes=processes)
    record.data |= {
        "chosen": chosen or f"the first {len(points)} of the given images",
        "images": images,
        "columns": {entry.name: entry.column for entry in entries},
    }
    run = Run(model, points, threat, batch_size, record, images, progress)
    for entry in entries:
        run.facts(entry)
    run.clean()
    for entry in entries:
        run.attack(entry)
    record.gather(lambda: _look_closer(run, checks, seed))
    return Evaluation(record.data, folder)


def _look_closer(run: Run, checks: int, seed: int) -> None:
    """Red flags, and what a defence costs."""
    data = run.record.data
    if checks:
        probe(run, checks, seed, compared=comparable(data) is not None)
    data.setdefault("checks", {"points": 0, "measures": {}, "done": True})
    if isinstance(run.model, RegulatedClassifier) and "cost" not in data:
        data["cost"] = cost(run.model, run.batch(slice(min(run.batch_size, len(run.points))))[0])


def _given(transfers: Mapping[str, Rows]) -> list[Entry]:
    parts = {name: name.partition("/") for name in transfers}
    return [
        Entry(short or name, column, Given(transfers[name]), points=len(transfers[name]))
        for name, (column, _, short) in parts.items()
    ]


def _entries(
    model, chosen, threat: Threat, step_size: float, seed: int, batch_size: int, options: dict[str, Any]
) -> list[Entry]:
    if isinstance(chosen, str):
        return suite(chosen, model, threat, step_size=step_size, seed=seed, batch_size=batch_size, **options)
    check_options("evaluate with a list of entries", options, [])
    return list(chosen)


def _check_names(entries: list[Entry]) -> None:
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluate: suite with names {names}; allowed: every name once.")


def _first_logits(model: nn.Module, points: Points, entries: list[Entry]) -> list[float]:
    """Of the first image, without a defence of ours: that flips signs of almost nothing from machine to machine.

    Raises a ValueError before anything is written if images, labels, a view or an attack do not fit the model.
    """
    x, y = loaded(points, slice(0, 1), model)
    labels = getattr(points, "labels", y)
    with torch.no_grad(), evaluating(model):
        logits = bare(model)(x)[0]
    check_labels(labels, labels, len(logits))
    for entry in entries:
        entry.view(model)
        if isinstance(entry.attack, AutoAttack):
            entry.attack.fitting(len(logits))
    return logits.double().nan_to_num(0, 0, 0).tolist()


def _identity(
    model: nn.Module, points: Points, threat: Threat, seed: int, batch_size: int, logits: list[float]
) -> dict[str, Any]:
    """What must be the same for a record to be continued. logits: they tell models of the same weights apart."""
    weights = hashlib.sha256()
    for key, value in model.state_dict().items():
        weights.update(key.encode())
        value = value.detach().cpu().contiguous()
        weights.update(value.view(torch.uint8).numpy().data if value.dim() else repr(value.item()).encode())
    inner = innermost(model)
    dynamics = {"solver": describe(inner.solver), "steps": inner.steps} if isinstance(inner, DEQClassifier) else None
    return {
        "model": getattr(inner, "config", None) or type(inner).__name__,
        "dynamics": dynamics,
        "readout": {"name": type(model).__name__, **model.options} if isinstance(model, Readout) else None,
        "weights": weights.hexdigest(),
        "logits": logits,
        "defence": asdict(model.method) if isinstance(model, RegulatedClassifier) else None,
        "points": {"count": len(points), "sha256": points.digest()},
        "threat": {"norm": threat.name, "eps": threat.eps},
        "seed": seed,
        "batch_size": batch_size,
    }
