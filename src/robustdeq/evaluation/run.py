"""One evaluation under way: clean predictions first, then attack by attack, batch by batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import Threat, predictions
from ..attacks.autoattack import LOGGER
from ..attacks.views import summands
from ..checks import check_images, check_labels, check_range
from ..models.modes import evaluating
from ..models.structure import Structure
from .images import KeptImages, Points, Rows, batches, digest, loaded
from .record import AttackRecord, Batch, CleanBatch, Record, RecordFile, Spent
from .suites import Attack, Entry

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Transfer:
    """Images that were made elsewhere, offered as an attack."""

    images: Rows

    def digest(self, rows: slice) -> str:
        return digest(self.images[rows])

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor) -> Tensor:
        return self.images[indices.cpu()].to(x)


@dataclass
class Run:
    """The batches of this process. Whatever the record holds already is not done again.

    views: what every entry looks through, by name. keep: whether the adversarial images are written to the record's
    folder.
    """

    model: Structure
    points: Points
    threat: Threat
    batch_size: int
    file: RecordFile
    views: dict[str, nn.Module] = field(default_factory=dict)
    keep: bool = False
    progress: Progress | None = None

    @property
    def record(self) -> Record:
        return self.file.record

    def clean(self) -> None:
        """The predictions on the images themselves, -1 where a logit is not finite."""
        for rows in self._mine(len(self.points)):
            if rows.start not in self.record.clean:
                x, y = self.batch(rows)
                check_images(x)
                check_range(x)
                with self._timed() as spent:
                    logits = self.logits(x)
                check_labels(x, y, logits.shape[1])
                self.record.clean[rows.start] = CleanBatch(
                    predictions=predictions(logits).tolist(), labels=y.tolist(), probabilities=_probabilities(logits),
                    **vars(spent),
                )  # fmt: skip
                self.file.save()
            self._report(rows, len(self.points), "clean")

    def attack(self, entry: Entry) -> None:
        """Attack what stands, and verify what comes back."""
        attack = self.record.attacks[entry.name]
        names = list(self.record.columns)
        before = [self.record.attacks[name] for name in names[: names.index(entry.name)]]
        earlier = [] if entry.independent else [other for other in before if other.column == entry.column]
        for rows in self._mine(attack.points):
            todo = self._standing(rows, earlier)
            if not self._done(entry, attack, rows, todo):
                attack.batches[rows.start] = self._batch(entry, rows, todo)
                self.file.save()
            self._report(rows, attack.points, entry.name)

    def batch(self, rows: slice) -> tuple[Tensor, Tensor]:
        return loaded(self.points, rows, self.model.deployed)

    def correct(self, rows: slice) -> Tensor:
        """(B,) bool on the CPU: classified correctly without an attack."""
        batch, length = self.record.clean[rows.start], rows.stop - rows.start
        return torch.tensor(batch.predictions[:length]) == torch.tensor(batch.labels[:length])

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
        with evaluating(self.model.deployed):
            return self.model.deployed(x)

    def _standing(self, rows: slice, earlier: Sequence[AttackRecord]) -> Tensor:
        """(B,) bool on the CPU: classified correctly, and not broken by an earlier attack."""
        stands = self.correct(rows)
        for attack in earlier:
            if rows.start in attack.batches:
                outcomes = torch.tensor(attack.batches[rows.start].outcomes)[: len(stands)]
                stands[: len(outcomes)] &= outcomes != 0
        return stands

    def _batch(self, entry: Entry, rows: slice, todo: Tensor) -> Batch:
        """todo: (B,) bool on the CPU. The images of the other samples are left as they are, and not looked at."""
        x, y = self.batch(rows)
        rejected, outcomes, x_adv = 0, torch.full((len(x),), -1), x.clone()
        warned: list[str] = []
        with _heard(warned), self._timed() as spent:
            if todo.any():
                at = todo.to(x.device)
                indices = torch.arange(rows.start, rows.stop, device=x.device)[at]
                x_adv[at], inside, stands = self.attacked(entry.attack, self.views[entry.name], x[at], y[at], indices)
                outcomes[todo], rejected = stands.long().cpu(), int((~inside).sum())
        kept = self._images(entry.name, rows.stop)
        if kept is not None:
            kept.write(rows.start, x_adv)
        return Batch(
            outcomes=outcomes.tolist(), environment=self.file.environment, rejected=rejected, kept=kept is not None,
            warnings=warned, transferred=_transferred(entry, rows), **vars(spent),
        )  # fmt: skip

    def _done(self, entry: Entry, attack: AttackRecord, rows: slice, todo: Tensor) -> bool:
        """Whether this batch was attacked on the very samples that stand now, with the images that are given now."""
        batch = attack.batches.get(rows.start)
        if batch is None or [outcome >= 0 for outcome in batch.outcomes] != todo.tolist():
            return False
        if batch.transferred != _transferred(entry, rows):
            return False
        kept = self._images(entry.name, attack.points)
        return kept is None or (batch.kept and kept.has(rows.start))

    def _images(self, name: str, points: int) -> KeptImages | None:
        folder = self.file.folder
        return None if folder is None or not self.keep else KeptImages(folder / "images", name, points, self.batch_size)

    @contextmanager
    def _timed(self) -> Iterator[Spent]:
        """What the work inside costs, told at its end."""
        spent, tally, began = Spent(), self.model.tally, time.perf_counter()
        evaluations, updates = tally.evaluations, tally.updates
        yield spent
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.seconds = round(time.perf_counter() - began, 3)
        spent.evaluations, spent.updates = tally.evaluations - evaluations, tally.updates - updates

    def _mine(self, points: int) -> list[slice]:
        return list(self.file.distributed.share(batches(points, self.batch_size)))

    def _report(self, rows: slice, points: int, text: str) -> None:
        if self.progress is not None:
            self.progress(rows.stop, points, text)


def _transferred(entry: Entry, rows: slice) -> str | None:
    return entry.attack.digest(rows) if isinstance(entry.attack, Transfer) else None


def _probabilities(logits: Tensor) -> int:
    """How many rows lie in [0, 1] and sum to 1, as softmax leaves them and logits hardly ever are."""
    inside = ((logits >= 0) & (logits <= 1)).all(dim=1)
    return int((inside & ((logits.float().sum(1) - 1).abs() <= 1e-3)).sum())


@contextmanager
def connected(module: nn.Module) -> Iterator[None]:
    """Inside, logits that do not depend on the images have the gradient zero instead of none."""

    def join(_: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        x = args[0]
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if x.requires_grad else logits

    handles = [view.register_forward_hook(join) for view in {module, *summands(module)}]
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
