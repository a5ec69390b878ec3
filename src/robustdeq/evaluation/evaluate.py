"""Robust accuracy that believes no attack: every adversarial image is re-verified by the deployed forward."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..attacks import Linf, Threat, check_labels, predictions
from ..dynamics.solver import check_count
from ..files import plain, write_bytes
from ..models.classifier import DEQClassifier, check_images, check_range
from ..models.modes import evaluating
from ..options import check_options, describe
from ..regulation import RegulatedClassifier
from .record import Record
from .statistics import Share
from .suite import Entry, bare, suite

Progress = Callable[[int, int, str], None]
RECORD = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    clean: (N,) bool, correct on the images themselves. robust: per attack, (points,) bool, correct on its images too.
    images: per attack, the verified adversarial images (points, C, H, W) on the CPU. columns: attack to column.
    record: everything, as in the file.
    """

    clean: Tensor
    robust: dict[str, Tensor]
    columns: dict[str, str]
    images: dict[str, Tensor]
    record: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, folder: str | Path) -> Evaluation:
        """The evaluation that a folder holds, without its images."""
        record = Record.read(Path(folder) / RECORD)
        attacks = record["attacks"]
        robust = {name: torch.tensor(facts["robust"], dtype=torch.bool) for name, facts in attacks.items()}
        clean = torch.tensor(record["clean"], dtype=torch.bool)
        return cls(clean, robust, {name: facts["column"] for name, facts in attacks.items()}, {}, record)

    def shares(self) -> dict[str, Share]:
        """clean, one share a column, and All: the samples that survive every attack, of those that every attack saw."""
        found = {"clean": _share(self.clean)}
        for column in dict.fromkeys(self.columns.values()):
            found[column] = _share(self._worst([name for name, c in self.columns.items() if c == column]))
        return found | {"All": _share(self._worst(list(self.columns)))}

    def _worst(self, names: Sequence[str]) -> Tensor:
        points = min((len(self.robust[name]) for name in names), default=len(self.clean))
        worst = self.clean[:points].clone()
        for name in names:
            worst &= self.robust[name][:points]
        return worst

    def table(self) -> str:
        """Markdown: a line for clean, each column and All, in percent with exact 95% intervals and counts."""
        lines = ["| accuracy | percent | 95% interval | samples |", "|---|---|---|---|"]
        for name, share in self.shares().items():
            low, high = share.interval
            lines.append(f"| {name} | {share.percent:.1f} | {low:.1f} to {high:.1f} | {share.count}/{share.total} |")
        for name, facts in self.record["attacks"].items():
            if facts["rejected"]:
                lines.append(f"\n{name}: {facts['rejected']} images lay outside the threat model and were not counted.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The record with the shares; JSON."""
        return {**self.record, "shares": {name: share.to_dict() for name, share in self.shares().items()}}


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    suite: str | Sequence[Entry] = "standard",
    threat: Threat | None = None,
    step_size: float | None = None,
    batch_size: int = 250,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    transfers: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Evaluation:
    """Attack a classifier and count what stands.

    model: any module with logits = module(images); DEQs and defended DEQs are attacked through their views.
    x: (N, C, H, W) in [0, 1]. y: (N,) int64. suite: ``quick | standard``, or a list of ``Entry``. threat: default
    Linf(8/255). step_size: of PGD, default a quarter of eps. seed: of every attack. out: folder for evaluation.json and
    the adversarial images, written after every batch; with resume=True a finished batch is not repeated. transfers:
    adversarial images (points, C, H, W) from elsewhere by name "COLUMN/NAME", verified like any other attack. options:
    further options of the suite.
    """
    threat = Linf(8 / 255) if threat is None else threat
    check_images(x)
    check_range(x)
    check_labels(x, y)
    check_count("evaluate", "batch_size", batch_size)
    if not len(x):
        raise ValueError("evaluate: no images; allowed: at least one.")
    with torch.no_grad(), evaluating(model):
        check_labels(x, y, model(x[:1]).shape[1])
    entries = _entries(
        model, suite, threat, threat.eps / 4 if step_size is None else step_size, seed, batch_size, options
    )
    folder = None if out is None else Path(out)
    identity = _identity(model, x, y, threat, seed, batch_size)
    record = Record(None if folder is None else folder / RECORD, identity, resume=resume)
    run = _Run(model, x, y, threat, batch_size, folder, record, progress)
    for name, x_adv in (transfers or {}).items():
        column, _, short = name.partition("/")
        run.attack(Entry(short or name, column, _Given(x_adv), lambda m: m, len(x_adv)))
    for entry in entries:
        run.attack(entry)
    record.save()
    return Evaluation(run.clean.cpu(), run.robust, run.columns, run.images, record.data)


def _entries(
    model, chosen, threat: Threat, step_size: float, seed: int, batch_size: int, options: dict[str, Any]
) -> list[Entry]:
    if isinstance(chosen, str):
        entries = suite(chosen, model, threat, step_size=step_size, seed=seed, batch_size=batch_size, **options)
    else:
        check_options("evaluate with a list of entries", options, [])
        entries = list(chosen)
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluate: suite with names {names}; allowed: every name once.")
    return entries


@dataclass(frozen=True)
class _Given:
    """Images that were made elsewhere, offered as an attack."""

    images: Tensor

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor) -> Tensor:
        return self.images[indices.cpu()].to(x)


class _Run:
    """One evaluation under way: clean predictions first, then entry by entry, batch by batch."""

    def __init__(self, model, x, y, threat, batch_size, folder, record: Record, progress) -> None:
        self.model, self.x, self.y, self.threat = model, x, y, threat
        self.batch_size, self.folder, self.record, self.progress = batch_size, folder, record, progress
        self.clean = torch.cat([self._correct(x[rows], y[rows]) for rows in self._batches(len(x))])
        self.robust: dict[str, Tensor] = {}
        self.columns: dict[str, str] = {}
        self.images: dict[str, Tensor] = {}
        record.data["clean"] = self.clean.int().tolist()

    def attack(self, entry: Entry) -> None:
        points = len(self.x) if entry.points is None else min(entry.points, len(self.x))
        view = entry.view(self.model)
        facts = self._facts(entry, points, view)
        pieces = []
        for rows in self._batches(points):
            file = self._file(entry.name, rows.start)
            if len(facts["robust"]) >= rows.stop and (file is None or file.exists()):
                pieces.append(load_file(file)["images"] if file is not None else self.x[rows].cpu())
            else:
                pieces.append(self._batch(entry, view, rows, facts, file))
            if self.progress is not None:
                self.progress(rows.stop, points, entry.name)
        self.robust[entry.name] = torch.tensor(facts["robust"], dtype=torch.bool)
        self.columns[entry.name] = entry.column
        self.images[entry.name] = torch.cat(pieces)

    def _facts(self, entry: Entry, points: int, view: nn.Module) -> dict[str, Any]:
        """This attack's part of the record: the one that is there, unless it was made with other options."""
        seen = {"name": type(view).__name__, **getattr(view, "options", {})}
        what = {"column": entry.column, "attack": _describe(entry.attack), "view": seen, "points": points}
        known = self.record.data["attacks"].get(entry.name, {})
        if any(known.get(key) != value for key, value in plain(what).items()):
            known = {**what, "robust": [], "rejected": 0, "seconds": 0.0, "evaluations": 0}
            self.record.data["attacks"][entry.name] = known
        return known

    def _batch(self, entry: Entry, view: nn.Module, rows: slice, facts: dict[str, Any], file: Path | None) -> Tensor:
        x, y = self.x[rows], self.y[rows]
        correct = self.clean[rows]
        began, counted = time.perf_counter(), _evaluations(self.model)
        x_adv = x.clone()
        if correct.any():
            indices = torch.arange(rows.start, rows.stop, device=x.device)[correct]
            x_adv[correct] = entry.attack(view, x[correct], y[correct], indices=indices).to(x)
        inside = self.threat.contains(x, x_adv)
        x_adv = torch.where(inside[:, None, None, None], x_adv, x)
        stands = correct & self._correct(x_adv, y)
        facts["robust"] = facts["robust"][: rows.start] + stands.int().tolist()
        facts["rejected"] += int((~inside).sum())
        facts["seconds"] = round(facts["seconds"] + time.perf_counter() - began, 3)
        facts["evaluations"] += _evaluations(self.model) - counted
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, save({"images": x_adv.cpu()}))
        self.record.save()
        return x_adv.cpu()

    @torch.no_grad()
    def _correct(self, x: Tensor, y: Tensor) -> Tensor:
        with evaluating(self.model):
            return predictions(self.model(x)) == y

    def _batches(self, points: int) -> list[slice]:
        return [slice(start, min(start + self.batch_size, points)) for start in range(0, points, self.batch_size)]

    def _file(self, name: str, start: int) -> Path | None:
        safe = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
        return None if self.folder is None else self.folder / "images" / f"{safe}-{start}.safetensors"


def _identity(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int, batch_size: int) -> dict[str, Any]:
    """What must be the same for a record to be continued."""
    weights = hashlib.sha256()
    for key, value in model.state_dict().items():
        weights.update(key.encode())
        weights.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if value.dim()
            else repr(value.item()).encode()
        )
    points = hashlib.sha256(
        x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() + y.cpu().numpy().tobytes()
    )
    defence = asdict(model.method) if isinstance(model, RegulatedClassifier) else None
    inner = bare(model)
    dynamics = {"solver": describe(inner.solver), "steps": inner.steps} if isinstance(inner, DEQClassifier) else None
    return {
        "model": getattr(inner, "config", None) or type(inner).__name__,
        "dynamics": dynamics,
        "weights": weights.hexdigest(),
        "defence": defence,
        "points": {"count": len(x), "sha256": points.hexdigest()},
        "threat": {"norm": threat.name, "eps": threat.eps},
        "seed": seed,
        "batch_size": batch_size,
    }


def _describe(attack: Any) -> dict[str, Any]:
    if isinstance(attack, _Given):
        return {"name": "transfer", "images": len(attack.images)}
    options = asdict(attack) if is_dataclass(attack) and not isinstance(attack, type) else {}
    return {"name": type(attack).__name__, **options}


def _evaluations(model: nn.Module) -> int:
    """Evaluations of f (one sample, one f) that the model has spent so far."""
    inner = bare(model)
    return inner.tally.evaluations if isinstance(inner, DEQClassifier) else 0


def _share(correct: Tensor) -> Share:
    return Share(int(correct.sum()), len(correct))
