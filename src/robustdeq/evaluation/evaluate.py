"""Robust accuracy that believes no attack: every adversarial image is re-verified by the deployed forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import AutoAttack, Linf, Threat, ThroughGradient
from ..checks import check_count, check_images, check_labels, check_range
from ..distributed import SINGLE, Distributed
from ..files import plain
from ..gradients import Unrolled
from ..models.modes import evaluating
from ..models.structure import Structure, structure
from ..options import check_options, describe
from . import suites
from .flags import comparable
from .images import Points, Rows, digest, loaded, points_of
from .probes import cost, probe
from .record import AttackRecord, Checks, Described, Identity, Record, RecordFile
from .result import Evaluation
from .run import Progress, Run, Transfer
from .suites import Entry


@torch.inference_mode(False)
@torch.enable_grad()
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
    samples: str | None = None,
    opaque: bool = False,
    distributed: Distributed = SINGLE,
    progress: Progress | None = None,
    **options: Any,
) -> Evaluation:
    """Attack a classifier and count what stands.

    model: any module with logits = module(images); DEQs and defended DEQs are attacked through their views. x:
    (N, C, H, W) in [0, 1], with y: (N,) int64; or an ``ImageSet`` or ``StreamedSet``. A batch at a time is made
    floating-point, and moved to where the model is.
    suite: ``quick | paper | standard | adaptive``, or a list of ``Entry``. threat: default Linf(8/255). step_size: of
    PGD, default a quarter of eps. seed: of every attack. options: further options of the suite.
    out: folder for evaluation.json, written after every batch; with resume=True a finished batch is not repeated.
    images: keep the adversarial images there, too. distributed: each process takes its share of the batches.
    transfers: adversarial images (points, C, H, W) from elsewhere, a tensor or another evaluation's ``images``, by name
    "COLUMN/NAME", verified like any other attack. checks: look for red flags on the first so many samples, 0 for none.
    samples: how they were chosen, in words. opaque: take a module that hides a DEQ or a defence.
    """
    threat = Linf(8 / 255) if threat is None else threat
    points, kind = points_of(x, y), structure(model, opaque=opaque)
    check_count("evaluate", "batch_size", batch_size)
    check_count("evaluate", "checks", checks, 0)
    if images and out is None:
        raise ValueError("evaluate: images=True without out; allowed: a folder to keep them in.")
    if isinstance(suite, str):
        size = threat.eps / 4 if step_size is None else step_size
        suite = suites.suite(suite, kind, threat, step_size=size, seed=seed, batch_size=batch_size, **options)
    else:
        check_options("evaluate with a list of entries", options, [])
    entries = _entries(transfers or {}, suite)
    logits = _first_logits(kind, points, y, entries)
    views = {entry.name: entry.view(kind.deployed) for entry in entries}
    fresh = Record(
        identity=_identity(kind, points, threat, seed, batch_size, logits), images=images, opaque=kind.opaque,
        samples=samples or f"the first {len(points)} of the given images", columns={e.name: e.column for e in entries},
        attacks={entry.name: _attack(entry, views[entry.name], kind, len(points)) for entry in entries},
    )  # fmt: skip
    file = RecordFile(None if out is None else Path(out), fresh, resume=resume, distributed=distributed)
    run = Run(kind, points, threat, batch_size, file, views, images, progress)
    run.clean()
    for entry in entries:
        run.attack(entry)
    file.gather(lambda: _look_closer(run, checks, seed))
    return Evaluation(file.record, file.folder)


def _look_closer(run: Run, checks: int, seed: int) -> None:
    """Red flags, and what a defence costs."""
    if checks:
        probe(run, checks, seed, compared=comparable(run.record) is not None)
    elif run.record.checks is None:
        run.record.checks = Checks(done=True)
    if run.model.defence is not None and run.record.cost is None:
        run.record.cost = cost(run.model, run.batch(slice(min(run.batch_size, len(run.points))))[0])


def _entries(transfers: Mapping[str, Rows], suite: Sequence[Entry]) -> list[Entry]:
    """Transfers first: they cost a forward, and whom they break needs no attack."""
    entries = []
    for name, images in transfers.items():
        column, _, short = name.partition("/")
        entries.append(Entry(short or name, column, Transfer(images), points=len(images)))
    names = [entry.name for entry in (*entries, *suite)]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluate: suite with names {names}; allowed: every name once.")
    return [*entries, *suite]


def _first_logits(kind: Structure, points: Points, y: Tensor | None, entries: Sequence[Entry]) -> list[float]:
    """Of the first image, without a defence: that may flip signs of almost nothing from machine to machine.

    Raises a ValueError before anything is written if images, labels, classes or an attack do not fit the model.
    """
    x, first = loaded(points, slice(0, 1), kind.deployed)
    check_images(x)
    check_range(x)
    _check_classes(kind, points)
    logits = x
    for module in dict.fromkeys((kind.deployed, kind.bare)):
        with torch.no_grad(), evaluating(kind.deployed):
            logits = module(x)
        fits = isinstance(logits, Tensor) and logits.is_floating_point() and logits.dim() == 2
        if not fits or len(logits) != 1 or logits.shape[1] < 2:
            output = (
                f"{logits.dtype} of shape {tuple(logits.shape)}"
                if isinstance(logits, Tensor)
                else type(logits).__name__
            )
            name = type(module).__name__
            raise ValueError(
                f"evaluate: {name} gives {output}; allowed: floating-point logits (1, K >= 2) of one image."
            )
    labels = getattr(points, "labels", first if y is None else y)
    check_labels(labels, labels, logits.shape[1])
    for entry in entries:
        if isinstance(entry.attack, AutoAttack):
            entry.attack.fitting(logits.shape[1])
    return logits[0].double().nan_to_num(0, 0, 0).tolist()


def _check_classes(kind: Structure, points: Points) -> None:
    """Where model and images both name their classes: the same names in the same order."""
    named = [getattr(module, "classes", None) for module in (kind.deployed, kind.bare, kind.deq)]
    model = next((names for names in named if isinstance(names, tuple | list) and names), None)
    images = getattr(points, "classes", None)
    for label, (one, other) in enumerate(zip_longest(model or (), images or ()) if model and images else ()):
        if one is None or other is None or str(one) != str(other):
            raise ValueError(
                f"evaluate: class {label} is {one!r} to the model and {other!r} in the images; allowed: the same names "
                "in the same order."
            )


def _attack(entry: Entry, view: nn.Module, kind: Structure, points: int) -> AttackRecord:
    """An attack on which nothing has been done yet."""
    gradient = view.gradient if isinstance(view, ThroughGradient) else None
    if view is kind.deployed:  # a network without states has one gradient, and a readout's is always the exact one
        gradient = kind.deq.gradient if kind.deq is not None and kind.deq is view else Unrolled()
    exact = kind.deployed in (view, getattr(view, "deployed", None)) and isinstance(gradient, Unrolled)
    return AttackRecord(
        column=entry.column,
        attack=_describe(entry.attack),
        view=Described(type(view).__name__, plain(getattr(view, "settings", {}))),
        exact=exact and kind.defence is None and not kind.opaque,
        points=points if entry.points is None else min(entry.points, points),
        independent=entry.independent,
    )


def _describe(attack: Any) -> Described:
    if isinstance(attack, Transfer):
        return Described("transfer", {"images": len(attack.images)})
    name = type(attack).__name__
    if not is_dataclass(attack) or isinstance(attack, type):
        return Described(name, None)
    values = {option.name: getattr(attack, option.name) for option in fields(attack)}
    try:
        return Described(name, plain({k: describe(v) if isinstance(v, Threat) else v for k, v in values.items()}))
    except TypeError:  # JSON cannot hold them
        return Described(name, None)


def _identity(
    kind: Structure, points: Points, threat: Threat, seed: int, batch_size: int, logits: list[float]
) -> Identity:
    deq, inner = kind.deq, kind.bare if kind.deq is None else kind.deq
    readout, defence = (
        None if wrapper is None else Described(type(wrapper).__name__, plain(wrapper.settings))
        for wrapper in (kind.readout, kind.defence)
    )
    return Identity(
        model=plain(getattr(inner, "config", None)) or type(inner).__name__,
        weights=_weights(inner),
        deployed=_weights(kind.deployed),
        solver=None if deq is None else plain(describe(deq.solver)),
        steps=None if deq is None else deq.steps,
        readout=readout,
        defence=defence,
        logits=logits,
        points=len(points),
        images=points.digest(),
        norm=threat.name,
        eps=threat.eps,
        seed=seed,
        batch_size=batch_size,
    )


def _weights(module: nn.Module) -> str:
    """SHA-256 of the state_dict's names and numbers."""
    state = module.state_dict()
    return digest(torch.tensor(list(" ".join(state).encode()), dtype=torch.uint8), *state.values())
