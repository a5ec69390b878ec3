"""One evaluation under way: clean predictions first, then attack by attack, batch by batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import Threat, check_labels, predictions
from ..attacks.autoattack import LOGGER
from ..attacks.views import parts
from ..files import plain
from ..models.classifier import check_images, check_range
from ..models.modes import evaluating
from .entry import Attack, Entry, bare
from .images import KeptImages, Points, Rows, batches, digest, loaded
from .record import Record, described

Progress = Callable[[int, int, str], None]
Batch = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """Images that were made elsewhere, offered as an attack."""

    images: Rows

    def digest(self, rows: slice) -> str:
        return digest(self.images[rows])

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor) -> Tensor:
        return self.images[indices.cpu()].to(x)


@dataclass
class Run:
    """The batches of this process. Whatever the record holds already is not done again.

    keep: whether the adversarial images are written to the record's folder.
    """

    model: nn.Module
    points: Points
    threat: Threat
    batch_size: int
    record: Record
    keep: bool = False
    progress: Progress | None = None

    def clean(self) -> None:
        """The predictions on the images themselves, -1 where a logit is not finite."""
        known = self.record.data["clean"]
        for rows in self._mine(len(self.points)):
            if str(rows.start) not in known:
                x, y = self.batch(rows)
                found, spent = self._timed(lambda x=x, y=y: self._predicted(x, y))
                known[str(rows.start)] = {"predictions": found.tolist(), "labels": y.tolist(), **spent}
                self.record.save()
            self._report(rows, len(self.points), "clean")

    def attack(self, entry: Entry) -> None:
        """Attack what stands, and verify what comes back."""
        facts, view = self.facts(entry), entry.view(self.model)
        earlier = [] if entry.independent else self._earlier(entry)
        for rows in self._mine(facts["points"]):
            todo = self._standing(rows, earlier)
            if not self._done(entry, facts, rows, todo):
                facts["batches"][str(rows.start)] = self._batch(entry, view, rows, todo)
                self.record.save()
            self._report(rows, facts["points"], entry.name)

    def batch(self, rows: slice) -> tuple[Tensor, Tensor]:
        return loaded(self.points, rows, self.model)

    def correct(self, rows: slice) -> Tensor:
        """(B,) bool on the CPU: classified correctly without an attack."""
        known = self.record.data["clean"][str(rows.start)]
        length = rows.stop - rows.start
        return torch.tensor(known["predictions"][:length]) == torch.tensor(known["labels"][:length])

    def images(self, name: str, points: int) -> KeptImages | None:
        folder = self.record.folder
        return None if folder is None or not self.keep else KeptImages(folder / "images", name, points, self.batch_size)

    def _standing(self, rows: slice, earlier: list[Batch]) -> Tensor:
        """(B,) bool on the CPU: classified correctly, and not broken by an earlier attack."""
        stands = self.correct(rows)
        for facts in earlier:
            seen = torch.tensor(facts["batches"].get(str(rows.start), {}).get("outcomes", [1]))[: len(stands)]
            stands[: len(seen)] &= seen != 0
        return stands

    def _batch(self, entry: Entry, view: nn.Module, rows: slice, todo: Tensor) -> Batch:
        """todo: (B,) bool on the CPU. The images of the other samples are left as they are, and not looked at."""
        x, y = self.batch(rows)
        at = todo.to(x.device)
        x_adv = x.clone()
        outcomes, rejected = torch.full((len(x),), -1), 0
        warned: list[str] = []
        spent: Batch = {"seconds": 0.0, "evaluations": 0, "updates": 0}
        if todo.any():
            indices = torch.arange(rows.start, rows.stop, device=x.device)[at]
            given = (entry.attack, view, x[at], y[at], indices)
            with _heard(warned):
                (x_adv[at], inside, stands), spent = self._timed(lambda: self.attacked(*given))
            outcomes[todo] = stands.long().cpu()
            rejected = int((~inside).sum())
        kept = self.images(entry.name, rows.stop)
        if kept is not None:
            kept.write(rows.start, x_adv)
        found = {"outcomes": outcomes.tolist(), "rejected": rejected, **spent, "kept": kept is not None}
        found["environment"] = self.record.environment
        if warned:
            found["warnings"] = warned
        if isinstance(entry.attack, Given):
            found["given"] = entry.attack.digest(rows)
        return found

    def attacked(
        self, attack: Attack, view: nn.Module, x: Tensor, y: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images that are inside the threat model, which of the attack's were, and which samples stand."""
        with connected(view):
            x_adv = attack(view, x, y, indices=indices).to(x)
        inside = self.threat.contains(x, x_adv)
        x_adv = torch.where(inside[:, None, None, None], x_adv, x)
        return x_adv, inside, predictions(self.logits(x_adv)) == y

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Of the deployed forward, (B, K)."""
        with evaluating(self.model):
            return self.model(x)

    def _predicted(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,), of images and labels that are looked at for the first time."""
        check_images(x)
        check_range(x)
        logits = self.logits(x)
        check_labels(x, y, logits.shape[1])
        return predictions(logits)

    def facts(self, entry: Entry) -> Batch:
        """This attack's part of the record: the one that is there, unless it was made with other options."""
        view = entry.view(self.model)
        seen = {"name": type(view).__name__, **getattr(view, "options", {})}
        points = len(self.points) if entry.points is None else min(entry.points, len(self.points))
        what = plain(
            {"column": entry.column, "attack": _describe(entry.attack), "view": seen, "points": points,
             "independent": entry.independent}
        )  # fmt: skip
        known = self.record.data["attacks"].get(entry.name, {})
        if described(known) != what or "options" not in what["attack"]:
            known = {**what, "batches": {}}
            self.record.data["attacks"][entry.name] = known
        return known

    def _earlier(self, entry: Entry) -> list[Batch]:
        """The attacks of the same column that have run before."""
        columns = self.record.data["columns"]
        before = list(columns)[: list(columns).index(entry.name)]
        return [self.record.data["attacks"][name] for name in before if columns[name] == entry.column]

    def _done(self, entry: Entry, facts: Batch, rows: slice, todo: Tensor) -> bool:
        """Whether this batch was attacked on the very samples that stand now, with the images that are given now."""
        known = facts["batches"].get(str(rows.start))
        if known is None or [outcome >= 0 for outcome in known["outcomes"]] != todo.tolist():
            return False
        if isinstance(entry.attack, Given) and known.get("given") != entry.attack.digest(rows):
            return False
        kept = self.images(entry.name, facts["points"])
        return kept is None or (known["kept"] and kept.has(rows.start))

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, Batch]:
        """What ``work`` returns, and what it cost: seconds, evaluations of f, and updates of the input."""
        before, began = _tally(self.model), time.perf_counter()
        found = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        after = _tally(self.model)
        seconds = round(time.perf_counter() - began, 3)
        return found, {"seconds": seconds, **{name: after[name] - before[name] for name in after}}

    def _mine(self, points: int) -> list[slice]:
        return list(self.record.processes.mine(batches(points, self.batch_size)))

    def _report(self, rows: slice, points: int, text: str) -> None:
        if self.progress is not None:
            self.progress(rows.stop, points, text)


@contextmanager
def connected(module: nn.Module) -> Iterator[None]:
    """Inside, logits that do not depend on the images have the gradient zero instead of none."""

    def join(_: nn.Module, given: tuple[Any, ...], logits: Tensor) -> Tensor:
        x = given[0]
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if x.requires_grad else logits

    handles = [part.register_forward_hook(join) for part in {module, *parts(module)}]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _heard(warned: list[str]) -> Iterator[None]:
    """What the reference implementation of AutoAttack warns of is put into the list, each once."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().partition(" See ")[0]
            if text not in warned:
                warned.append(text)

    logger, ear = logging.getLogger(LOGGER), Ear(logging.WARNING)
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)


def _describe(attack: Any) -> dict[str, Any]:
    """An attack as JSON. One whose options cannot be told (any callable) has none, and is never taken for done."""
    name = {"name": type(attack).__name__}
    if isinstance(attack, Given):
        return {"name": "transfer", "options": {"images": len(attack.images)}}
    if not is_dataclass(attack) or isinstance(attack, type):
        return name
    options = {field.name: getattr(attack, field.name) for field in fields(attack)}
    return {**name, "options": {key: _plain(value) for key, value in options.items()}}


def _plain(value: Any) -> Any:
    return {"norm": value.name, "eps": value.eps} if isinstance(value, Threat) else value


def _tally(model: nn.Module) -> dict[str, int]:
    """Evaluations of f and updates of the input (one a sample) that the model has spent so far."""
    tally = getattr(bare(model), "tally", None)
    return {name: getattr(tally, name, 0) for name in ("evaluations", "updates")}
