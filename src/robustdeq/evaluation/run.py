"""One evaluation under way: clean predictions first, then attack by attack, batch by batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import Calls, Threat, predictions
from ..attacks.autoattack import LOGGER
from ..attacks.views import summands
from ..checks import check_labels, described
from ..files import digest
from ..models.cell import Tally
from ..models.modes import evaluating
from ..models.structure import Structure, structure
from ..progress import Progress
from .entries import Attack, Entry
from .images import Points, Rows, loaded
from .record import Batch, CleanBatch, Record
from .recordfile import RecordFile, Spent


@dataclass(frozen=True)
class Transfer:
    """Images that were made elsewhere, offered as an attack."""

    images: Rows

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor) -> Tensor:
        return self.images[indices.cpu()].to(x)

    def calls(self, model: nn.Module, classes: int) -> list[Calls]:
        return []


@dataclass
class Run:
    """The batches of this process. Whatever the record holds already is not done again.

    views: what every entry looks through, by name.
    """

    model: Structure
    points: Points
    threat: Threat
    file: RecordFile[Record]
    views: dict[str, nn.Module]
    progress: Progress

    @property
    def record(self) -> Record:
        return self.file.record

    @property
    def batch_size(self) -> int:
        return self.record.identity.batch_size

    def clean(self) -> None:
        """The predictions on the images themselves, -1 where a logit is not finite."""
        for rows in self.file.mine(len(self.points)):
            if rows.start not in self.record.clean:
                x, y = self.batch(rows)
                with spending(self.model.tally) as spent:
                    logits = self.logits(x)
                check_labels(x, y, logits.shape[1])
                # Rows that lie in [0, 1] and sum to 1, as softmax leaves them and logits hardly ever are.
                inside = ((logits >= 0) & (logits <= 1)).all(dim=1)
                probabilities = int((inside & ((logits.float().sum(1) - 1).abs() <= 1e-3)).sum())
                classes = predictions(logits)
                ties = int(((logits == logits.amax(1, keepdim=True)).sum(1) > 1)[classes >= 0].sum())
                self.record.clean[rows.start] = CleanBatch(
                    predictions=classes.tolist(), labels=y.tolist(), probabilities=probabilities, ties=ties,
                    **vars(spent),
                )  # fmt: skip
                self.file.save()
            self.progress(rows.stop, len(self.points), "clean")

    def attack(self, entry: Entry) -> None:
        """Attack what stands, and verify what comes back; but not again where it was done on the very samples that
        stand now, with the images that are given now."""
        attack = self.record.attacks[entry.name]
        for rows in self.file.mine(attack.points):
            todo = self.standing(entry, rows)
            transferred = digest(entry.attack.images[rows]) if isinstance(entry.attack, Transfer) else None
            if not self.has(entry, rows, todo, transferred):
                attack.batches[rows.start] = self._batch(entry, rows, todo, transferred)
                self.file.save()
            self.progress(rows.stop, attack.points, entry.name)

    def earlier(self, entry: Entry) -> list[str]:
        """The attacks that leave this one only what stands after them."""
        if entry.independent:
            return []
        before = takewhile(lambda name: name != entry.name, self.record.columns)
        return [name for name in before if self.record.columns[name] == entry.column]

    def standing(self, entry: Entry, rows: slice) -> Tensor:
        """(B,) bool on the CPU: of these rows, what is classified correctly and stands after the attacks before."""
        todo = self.correct(rows)
        for other in (self.record.attacks[name] for name in self.earlier(entry)):
            if rows.start in other.batches:
                outcomes = torch.tensor(other.batches[rows.start].outcomes)[: len(todo)]
                todo[: len(outcomes)] &= outcomes != 0
        return todo

    def has(self, entry: Entry, rows: slice, todo: Tensor, transferred: str | None) -> bool:
        """Whether the record has this batch, of the samples ``todo`` and of these given images, and their images."""
        batch, kept = self.record.attacks[entry.name].batches.get(rows.start), self.record.kept(self.file.folder)
        if batch is None or batch.transferred != transferred or [o >= 0 for o in batch.outcomes] != todo.tolist():
            return False
        return not kept or (batch.kept and kept[entry.name].file(rows.start).exists())

    def batch(self, rows: slice) -> tuple[Tensor, Tensor]:
        return loaded(self.points, rows, self.model.deployed)

    def correct(self, rows: slice) -> Tensor:
        """(B,) bool on the CPU: classified correctly without an attack."""
        batch, length = self.record.clean[rows.start], rows.stop - rows.start
        return torch.tensor(batch.predictions[:length]) == torch.tensor(batch.labels[:length])

    def attacked(self, attack: Attack, view: nn.Module, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        """Images that are inside the threat model, which of the attack's were, and which samples stand."""
        with connected(view):
            # Copies: what an attack writes into them is not what it is verified against.
            x_adv: Any = attack(view, x.clone(), y.clone(), indices=indices.clone())
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            given = f"{type(attack).__name__} gives {described(x_adv)}"
            raise ValueError(f"{given}; allowed: images {tuple(x.shape)}.")
        x_adv = x_adv.to(x)
        inside = self.threat.contains(x, x_adv)
        x_adv = torch.where(inside[:, None, None, None], x_adv, x)
        return x_adv, inside, predictions(self.logits(x_adv)) == y

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Of the deployed forward, (B, K)."""
        with evaluating(self.model.deployed):
            return self.model.deployed(x.clone())  # which may write into its images

    def _batch(self, entry: Entry, rows: slice, todo: Tensor, transferred: str | None) -> Batch:
        """todo: (B,) bool on the CPU. The images of the other samples are left as they are, and not looked at."""
        (x, y), kept = self.batch(rows), self.record.kept(self.file.folder)
        rejected, outcomes, x_adv = 0, torch.full((len(x),), -1), x.clone()
        # A surrogate's work is this attack's as well; of one that shares the model's tally it is counted once.
        other = self.model if entry.surrogate is None else structure(entry.surrogate, opaque=True)
        with _heard() as warned, spending(*{id(of.tally): of.tally for of in (self.model, other)}.values()) as spent:
            if todo.any():
                at = todo.to(x.device)
                indices = torch.arange(rows.start, rows.stop, device=x.device)[at]
                x_adv[at], inside, stands = self.attacked(entry.attack, self.views[entry.name], x[at], y[at], indices)
                outcomes[todo], rejected = stands.long().cpu(), int((~inside).sum())
        if kept:
            kept[entry.name].write(rows.start, x_adv)
        return Batch(
            outcomes=outcomes.tolist(), environment=self.file.environment, rejected=rejected, kept=bool(kept),
            warnings=list(warned), transferred=transferred, **vars(spent),
        )  # fmt: skip


@contextmanager
def spending(*tallies: Tally) -> Iterator[Spent]:
    """What the work inside costs on all tallies together, told at its end."""
    before, began = [vars(tally).copy() for tally in tallies], time.perf_counter()
    yield (spent := Spent())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    spent.seconds = round(time.perf_counter() - began, 6)
    for name in before[0]:
        setattr(spent, name, sum(getattr(tally, name) - count[name] for tally, count in zip(tallies, before)))


@contextmanager
def connected(module: nn.Module) -> Iterator[None]:
    """Inside, logits that do not depend on the images have the gradient zero instead of none; so has an injection."""

    def join(_: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        x = args[0]
        if not x.requires_grad or not isinstance(out, Tensor) or len(out) != len(x):
            return out
        # Adds nothing to the values, and to the graph an edge from the images, along which autograd finds zeros.
        return out + 0 * x.flatten(1).sum(1).view(-1, *[1] * (out.dim() - 1))

    deq = structure(module, opaque=True).deq
    inner = [] if deq is None else [deq.inject]  # an attack on the joint fixed point asks no logits for it
    handles = [view.register_forward_hook(join) for view in {module, *summands(module), *inner}]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _heard() -> Iterator[dict[str, None]]:
    """What the reference implementation of AutoAttack warns of, each once, as keys."""
    warned: dict[str, None] = {}

    def hear(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            warned[record.getMessage().partition(" See ")[0]] = None
        return True

    logger = logging.getLogger(LOGGER)
    logger.addFilter(hear)
    try:
        yield warned
    finally:
        logger.removeFilter(hear)
