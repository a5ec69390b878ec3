"""Robust accuracy that believes no attack: every adversarial image is re-verified by the deployed forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..attacks import APGD, AutoAttack, Exact, Linf, Summed, Threat, ThroughGradient, View
from ..checks import Distance, Natural
from ..defences import Readout
from ..distributed import SINGLE, Distributed
from ..files import held, plain
from ..gradients import Unrolled
from ..models.deq import DEQClassifier
from ..models.fit import asked, check_logits
from ..models.modes import evaluating, images_only
from ..models.structure import Structure, structure
from ..options import Fits, Registry, check_arguments, check_options, describe
from ..progress import Progress
from . import suites
from .entries import Entry
from .forecast import announce
from .identity import FIRST, Identity, around, below, check_classes, identity_of
from .images import ARGUMENTS, KeptImages, Points, Rows, loaded, points_of
from .probes import probe
from .record import RECORD, AttackRecord, Record
from .recordfile import RecordFile
from .result import Evaluation
from .run import Run, Transfer


@torch.inference_mode(False)
@torch.enable_grad()
def evaluate(
    model: nn.Module, x: Tensor | Points, y: Tensor | None = None, *, suite: str | Sequence[Entry] = "standard",
    threat: Threat | None = None, step_size: float | None = None, batch_size: int = 250, seed: int = 0,
    out: str | Path | None = None, resume: bool = True, images: bool = False,
    transfers: Mapping[str, Rows] | None = None, checks: int = 50, samples: str | None = None, opaque: bool = False,
    beside: Evaluation | None = None, distributed: Distributed = SINGLE, progress: Progress | None = None,
    **options: Any,
) -> Evaluation:  # fmt: skip
    """Attack a classifier and count what stands.

    model: any module with logits = module(images); DEQs and defended DEQs are attacked through their views. x:
    (N, C, H, W) in [0, 1], with y: (N,) int64; or an ``ImageSet`` or ``StreamedSet``. A batch at a time is made
    floating-point, and moved to where the model is.
    suite: ``quick | paper | standard | adaptive``, or a list of ``Entry``. threat: default the entries' own, or
    Linf(8/255). step_size: of PGD, default a quarter of eps. seed: of the checks and of every attack of a suite; an
    ``Entry`` has an attack with its own. options: further ones of the suite.
    out: folder for evaluation.json, written after every batch; with resume=True a finished batch is not repeated.
    images: keep the adversarial images there, too. distributed: each process takes its share of the batches.
    transfers: adversarial images (points, C, H, W) from elsewhere, a tensor or another evaluation's ``images``, by name
    "COLUMN/NAME", verified like any other attack. checks: look for red flags on the first so many samples, 0 for none.
    samples: how they were chosen, in words. opaque: take a module that hides a DEQ or a defence. progress: see
    ``progress.Progress``. beside: an evaluation of the bare model where this one is defended, or the other way round;
    refused where it is not that. The images it kept are tried: of the bare model's own in the column ``static`` here,
    or ``white-box`` if this one is bare, the others' in ``transfer``.
    """
    check_arguments("evaluate", locals(), HINTS)
    if images and out is None:
        raise ValueError("evaluate: images=True without out; allowed: a folder to keep them in.")
    threat = _threat(suite) if threat is None else threat
    points, kind = points_of("evaluate", x, y), structure(model, opaque=opaque)
    given = {"step_size": step_size, "seed": seed, **options}
    suite = _suite(suite, kind, threat, batch_size, given) if isinstance(suite, str) else _listed(suite, given)
    entries = _entries({**_beside(beside, kind, suite), **(transfers or {})}, suite)
    first = loaded(points, slice(min(FIRST, batch_size)), kind.deployed)
    identity = identity_of("evaluate", kind, points, first, threat, seed=seed, batch_size=batch_size)
    x = first[0][:1]
    _check_fitting(entries, identity, points, x)
    if beside is not None:
        beside.check_beside(identity, kind.opaque)
    views = {e.name: e.view(kind.deployed if e.surrogate is None else e.surrogate) for e in entries}
    fresh = Record(
        identity=identity, samples=samples or f"the first {len(points)} of the given images",
        columns={entry.name: entry.column for entry in entries}, clean={}, images=images, opaque=kind.opaque,
        attacks={entry.name: _attack(entry, views[entry.name], kind, len(points)) for entry in entries},
    )  # fmt: skip
    folder = None if out is None else Path(out)
    if folder is not None and not (folder / RECORD).exists():
        _rehearse(views, x)
    with held(folder or Path(), folder is not None and distributed.main):
        file = RecordFile(folder, fresh, resume, distributed, x.device)
        run = Run(kind, points, threat, file, views, progress or (lambda *_: None))
        announce(run, entries, checks, seed)
        run.clean()
        for entry in entries:
            run.attack(entry)
        file.gather(lambda: probe(run, checks, seed))
    return Evaluation(file.record, file.folder)


def _is_suite(suite: Any) -> bool:
    return isinstance(suite, str) or (isinstance(suite, Sequence) and all(isinstance(e, Entry) for e in suite))


def _by_name(transfers: Any) -> bool:
    return isinstance(transfers, Mapping) and all(isinstance(one, Tensor | KeptImages) for one in transfers.values())


HINTS: dict[str, Any] = {
    **ARGUMENTS, "checks": Natural, "images": bool, "opaque": bool,
    "step_size": Distance | None,  # type: ignore[operator]
    "suite": Annotated[Any, Fits(_is_suite, "the name of a suite, or a list of Entry")],
    "threat": Annotated[Any, Fits(lambda threat: isinstance(threat, Threat | None), "a Threat, such as Linf(8/255)")],
    "beside": Annotated[Any, Fits(lambda beside: isinstance(beside, Evaluation | None), "an Evaluation")],
    "transfers": Annotated[Any, Fits(lambda images: images is None or _by_name(images), "images by name")],
}  # fmt: skip
"""Of the arguments of ``evaluate``."""
PACKAGE = __name__.partition(".")[0]


def _suite(name: str, kind: Structure, threat: Threat, batch_size: int, options: Mapping[str, Any]) -> list[Entry]:
    budgets = [budget.name for budget in fields(suites.Budget) if budget.name not in HINTS]
    ball = "threat=Linf(eps) or L2(eps)"
    check_options("evaluate", options, [*HINTS, *budgets], {"eps": ball, "norm": ball})
    return suites.suite(name, kind, threat, batch_size=batch_size, **options)


def _listed(entries: Sequence[Entry], options: Mapping[str, Any]) -> Sequence[Entry]:
    """A ValueError for options of a suite, and for a seed that none of the attacks has that have one."""
    seed, asked = options["seed"], {name for name, value in options.items() if name != "seed" and value is not None}
    check_options("evaluate with a list of entries", asked, [])
    seeds = dict.fromkeys(own for entry in entries if (own := getattr(entry.attack, "seed", None)) is not None)
    if seed and seeds and seed not in seeds:
        given = f"seed={seed} with entries whose attacks have seed {', '.join(map(str, seeds))}"
        raise ValueError(f"evaluate: {given}; allowed: attacks with that seed, as in PGD(..., seed={seed}).")
    return entries


def _threat(suite: str | Sequence[Entry]) -> Threat:
    """Linf(8/255), or that of the entries, which must be one."""
    entries = [] if isinstance(suite, str) else suite
    threats = dict.fromkeys(getattr(entry.attack, "threat", None) for entry in entries)
    threats.pop(None, None)
    if len(threats) > 1:
        raise ValueError(f"evaluate: attacks of {', '.join(map(str, threats))} without threat=; allowed: one of them.")
    return next(iter(threats), None) or Linf(8 / 255)


def _beside(beside: Evaluation | None, kind: Structure, suite: Sequence[Entry]) -> dict[str, Rows]:
    """The images that the other evaluation made, of attacks that saw as many points as every one of this one's."""
    if beside is None:
        return {}
    bare, kept = beside.record.identity.defence is None, {}
    least = min((entry.points or beside.record.identity.points for entry in suite), default=0)
    for name, images in beside.images.items():
        attack, column = beside.record.attacks[name], "transfer"
        if (bare or attack.column == "static") and "surrogate" not in attack.settings:  # made against the bare model
            column = "white-box" if kind.defence is None else "static"
        if attack.attack != "transfer" and attack.points >= least:
            kept[f"{column}/beside {name}"] = images
    return kept


def _entries(transfers: Mapping[str, Rows], suite: Sequence[Entry]) -> list[Entry]:
    """Transfers first: they cost a forward, and whom they break needs no attack."""
    entries = []
    for name, images in transfers.items():
        column, _, attack = name.partition("/")
        entries.append(Entry(attack or name, column, Transfer(images), points=len(images)))
    entries += suite
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluate: suite with names {names}; allowed: every name once.")
    return entries


def _check_fitting(entries: Sequence[Entry], identity: Identity, points: Points, x: Tensor) -> None:
    """A ValueError before anything is written if an attack needs more classes or other images, or if a surrogate does
    not take the same images to the same classes, or has the model's weights."""
    classes = len(identity.logits)
    for attack in (entry.attack for entry in entries):
        if isinstance(attack, AutoAttack):
            attack.fitting(classes)
            attack.check_taken(x)
        elif isinstance(attack, APGD) and attack.loss == "dlr-targeted":  # the reference says what to do
            AutoAttack(attack.threat, attacks=("apgd-t",)).fitting(classes)
    for surrogate, name in {entry.surrogate: entry.name for entry in entries if entry.surrogate is not None}.items():
        other = structure(surrogate, opaque=True)
        check_classes("evaluate", other, points)
        try:
            with torch.no_grad(), evaluating(other.deployed):
                logits = asked("evaluate: the surrogate", other.deployed, x)
        except ValueError as error:
            raise ValueError(f"evaluate: the surrogate of {name} takes other images: {error}") from error
        check_logits("evaluate", other.deployed, logits, 1)
        if logits.shape[1] != classes:
            given = f"{name} has {logits.shape[1]} classes beside a model with {classes}"
            raise ValueError(f"evaluate: the surrogate of {given}; allowed: as many.")
        if below(other)["weights"] == identity.weights:
            raise ValueError(f"evaluate: the surrogate of {name} has the model's weights; allowed: others.")


def _rehearse(views: Mapping[str, nn.Module], x: Tensor) -> None:
    """One forward and one backward through every view, so that what does not fit is known before a file is written."""
    for view in views.values():
        with images_only(view):
            at = x.clone().requires_grad_()
            if (logits := view(at)).requires_grad:
                torch.autograd.grad(logits.sum(), at, allow_unused=True)


def _told(view: nn.Module, asked: Sequence[nn.Module | None]) -> bool:
    """Whether a record says all of a view: it is one of the modules ``asked`` of the judged model, or looks at one of
    them in a way that its settings tell."""
    if any(view is one for one in asked):
        return True
    if isinstance(view, Summed):
        return all(_told(one, asked) for one in view.views)
    inner = getattr(view, "deployed", getattr(view, "model", None))
    return _tells(view) and any(inner is one for one in asked)


def _tells(view: nn.Module) -> bool:
    """Whether ``settings`` are its own: what a class outside of this package inherits says nothing of what it adds."""
    for kind in type(view).mro():
        if kind.__module__.startswith(f"{PACKAGE}."):
            return kind is type(view) or (kind is View and "settings" in vars(view))
        if "settings" in vars(kind):
            return True
    return False


def _attack(entry: Entry, view: nn.Module, kind: Structure, points: int) -> AttackRecord:
    """An attack on which nothing has been done yet."""
    gradient = view.gradient if isinstance(view, ThroughGradient) else None
    if view is kind.deployed or isinstance(view, Exact):  # a network without states has one gradient
        deq = None if isinstance(view, Exact | Readout) else kind.deq
        gradient = Unrolled() if deq is None else deq.gradient
    exact = kind.deployed in (view, getattr(view, "deployed", None)) and isinstance(gradient, Unrolled)
    attack, options, settings = type(entry.attack).__name__, None, plain(getattr(view, "settings", {}))
    if isinstance(view, DEQClassifier) and not isinstance(view.gradient, Unrolled):  # it is looked at as it is
        settings = {**settings, "gradient": plain(describe(view.gradient))}
    asked_directly = [kind.deployed, kind.bare, kind.deq]
    if entry.surrogate is not None:
        other = structure(entry.surrogate, opaque=True)
        asked_directly += [other.deployed, other.bare, other.deq]
        over = {name: asdict(one) for name, one in around(other).items() if one is not None}
        settings = {**settings, "surrogate": {**below(other), **plain(over)}}
    if isinstance(entry.attack, Transfer):
        attack, options = "transfer", {"images": len(entry.attack.images)}
    else:
        try:
            values = {option.name: getattr(entry.attack, option.name) for option in fields(entry.attack)}  # type: ignore[arg-type]
            options = plain({n: describe(v) if isinstance(v, Registry.bases) else v for n, v in values.items()})
            if isinstance(threat := values.get("threat"), Threat):  # one of one's own has no registered name
                options["threat"] |= {"name": threat.name, "eps": threat.eps}
        except (TypeError, AttributeError):
            pass  # no dataclass, or JSON cannot hold its options
    if not _told(view, asked_directly):
        options = None  # nor can be told what such a view does
    return AttackRecord(
        column=entry.column, attack=attack, options=options, view=type(view).__name__,
        settings=settings, points=min(entry.points or points, points),
        exact=exact and kind.defence is None and not kind.opaque, independent=entry.independent,
    )  # fmt: skip
