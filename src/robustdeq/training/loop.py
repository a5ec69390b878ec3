"""The training loop: one config, one model, one folder; a killed run goes on from the step of its last checkpoint."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageSet, StreamedSet, crop_and_flip
from ..dynamics.trajectory import known
from ..environment import environment
from ..models.classifier import DEQClassifier
from ..models.modes import evaluating
from ..models.zoo import save_model
from ..processes import ALONE, Processes
from ..seeds import generator
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig
from .ema import EMA
from .interrupts import Interrupts
from .log import Log
from .step import AUGMENT, DATA, TrainStep
from .watch import Watch, warnings

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a short text."""

CHECKPOINT = "last.safetensors"
LOG_EVERY = 10
CLEAN_POINTS = 128
"""Training images whose clean accuracy and residual are logged every epoch."""


class Trainer:
    """Trains ``model`` on ``images`` (both on one device) and keeps its state in ``folder``.

    folder: ``last.safetensors``, the checkpoint; ``best/``, the model that stood best on the ``validation`` images
    (with ``validation_points``); ``log.jsonl`` and TensorBoard events. wandb: log to Weights & Biases as well.
    processes: that share every batch and the validation; the first one writes. On several GPUs BatchNorm becomes
    SyncBatchNorm.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet | StreamedSet,
        config: TrainConfig,
        folder: str | Path,
        validation: ImageSet | StreamedSet | None = None,
        *,
        wandb: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        if len(images) < config.batch_size:
            raise ValueError(
                f"batch_size={config.batch_size} with {len(images)} training images; allowed: at most {len(images)}."
            )
        if config.validation_points and not (validation is not None and len(validation)):
            raise ValueError(f"validation_points={config.validation_points} without validation images; allowed: 0.")
        if config.batch_size % (config.accumulate * processes.count):
            raise ValueError(
                f"batch_size={config.batch_size} with accumulate={config.accumulate} on {processes.count} processes; "
                "allowed: a multiple of their product."
            )
        if processes.count > 1 and processes.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model, self.images, self.config, self.folder = model, images, config, Path(folder)
        self.wandb, self.processes = wandb, processes
        parts = config.parts()
        self.optimizer = parts.optimizer.make(model.parameters(), config.weight_decay)
        self.ema = EMA(model, config.ema) if config.ema else None
        self.watch = None
        if validation is not None and config.validation_points:
            held = validation.take(slice(config.validation_points))
            self.watch = Watch(held, parts.threat, config.validation_steps, config.seed, processes)
        self.steps_per_epoch = len(images) // config.batch_size
        self.total = config.epochs * self.steps_per_epoch
        self.identity = self._identity()
        self.update = TrainStep(model, self.optimizer, config, self.total, processes)
        self.interrupts = Interrupts()
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.sums = dict.fromkeys(("loss", "accuracy_adv", "solver_steps", "seconds", "evaluations"), 0.0)
        self.saved = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def best(self) -> Path:
        """The folder of the model that stood best on held-out images."""
        return self.folder / "best"

    def run(self, progress: Progress | None = None) -> nn.Module:
        """Train to the end, from the checkpoint if there is one. Returns the model of the last step, in eval mode.

        With a moving average it carries the averaged weights.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            facts = load_checkpoint(self.checkpoint, self.model, self.optimizer, self.identity, self._averaged())
            self.step, self.history, self.sums = facts["step"], facts["history"], facts["sums"]
        if not self.processes.agree(self.step):
            raise ValueError(f"{self.checkpoint} is not the same file for every process; give a folder they all reach.")
        self.log = Log(self.folder, self.step, self.config.to_dict() if self.wandb else None, self.processes.first)
        try:
            with self.interrupts:
                for epoch in range(self.step // self.steps_per_epoch, self.config.epochs):
                    self._epoch(epoch, progress)
        except FloatingPointError:
            self._save()
            self.processes.wait()  # a launcher ends the first process when another one fails
            raise
        finally:
            self.log.close()
        self.processes.wait()
        if self.ema is not None:
            self.model.load_state_dict(self.ema.model.state_dict())
        return self.model.eval()

    def _averaged(self) -> nn.Module | None:
        return None if self.ema is None else self.ema.model

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        images = {"source": self.images.source, "count": len(self.images), "sha256": self.images.digest()}
        return {"training": self.config.to_dict(), "model": getattr(self.model, "config", None), "images": images}

    def _save(self) -> None:
        self.saved = time.monotonic()
        if not self.processes.first:
            return
        facts = {"step": self.step, "history": self.history, "sums": self.sums, "identity": self.identity}
        facts["environment"] = {**environment(), "processes": self.processes.count}
        save_checkpoint(self.checkpoint, self.model, self.optimizer, facts, self._averaged())

    def _epoch(self, epoch: int, progress: Progress | None) -> None:
        config, done = self.config, self.step - epoch * self.steps_per_epoch
        part = self.processes.part(config.batch_size)
        batches = self.images.batches(config.batch_size, generator(config.seed, DATA, epoch), part, skip=done)
        for x, y in batches:
            self._train_on(x, y, epoch)
            within = self.step % self.steps_per_epoch != 0  # an epoch is closed before it is saved
            if progress is not None:
                count = self.step - epoch * self.steps_per_epoch
                mean, speed = self.sums["loss"] / count, count * config.batch_size / self.sums["seconds"]
                text = f"epoch {epoch + 1}/{config.epochs}  loss {mean:.3f}  {speed:.0f} images/s"
                progress(self.step, self.total, text)
            if within:
                self._leave_if_asked()
            if within and time.monotonic() - self.saved > config.checkpoint_seconds:
                self._save()
        self._close_epoch(epoch)
        self._save()

    def _leave_if_asked(self) -> None:
        """Ctrl-C or SIGTERM: save after the step, and go."""
        if self.processes.total(torch.tensor(float(self.interrupts.asked))).item():
            self._save()
            self.processes.wait()
            raise KeyboardInterrupt

    def _train_on(self, x: Tensor, y: Tensor, epoch: int) -> None:
        config, began, spent = self.config, time.perf_counter(), self._evaluations()
        x = crop_and_flip(
            x, generator(config.seed, AUGMENT, self.step), pad=config.pad, flip=config.flip,
            total=config.batch_size, first=self.processes.part(config.batch_size).start,
        )  # fmt: skip
        found = self.update(x, y, self.step, epoch)
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.step += 1
        self.sums["loss"] += found.loss
        self.sums["accuracy_adv"] += found.accuracy_adv
        self.sums["solver_steps"] += found.solver_steps
        self.sums["seconds"] += time.perf_counter() - began
        self.sums["evaluations"] += (self._evaluations() - spent) / len(x)
        if self.step % LOG_EVERY == 0:
            self.log.write(self.step, {"train": asdict(found)})

    def _close_epoch(self, epoch: int) -> None:
        """Close the epoch's account, judge the model on held-out images, and keep it if it is the best so far."""
        count = self.steps_per_epoch
        row: dict[str, Any] = {"epoch": epoch + 1, **{name: value / count for name, value in self.sums.items()}}
        row |= {"seconds": self.sums["seconds"], "images_per_second": self.config.batch_size / row["seconds"]}
        row["evaluations_per_image"] = row.pop("evaluations")
        self.sums = dict.fromkeys(self.sums, 0.0)
        row |= _dynamics(self.model, self.images)
        row["memory_gib"] = memory_gib()
        last = epoch + 1 == self.config.epochs
        if self.watch is not None and (last or (epoch + 1) % self.config.validation_every == 0):
            row |= self._judge(self.watch)
        self.history.append(row)
        row["warnings"] = warnings(self.history)
        self.log.write(self.step, row)

    def _judge(self, watch: Watch) -> dict[str, Any]:
        """Judge the weights and, apart, their average; the better one is kept if nothing was better before."""
        found = {"validation": watch(self.model)}
        candidates = [(found["validation"], self.model)]
        if self.ema is not None:
            found["validation_ema"] = watch(self.ema.model)
            candidates.append((found["validation_ema"], self.ema.model))
        score, model = max(candidates, key=lambda pair: (pair[0]["robust"], pair[0]["clean"]))
        before = max((row["best"] for row in self.history if "best" in row), default=-1.0)
        if score["robust"] > before and self.processes.first:
            save_model(model, self.best)
        return {**found, "best": max(before, score["robust"])}

    def _evaluations(self) -> int:
        return self.model.tally.evaluations if isinstance(self.model, DEQClassifier) else 0


def _dynamics(model: nn.Module, images: ImageSet | StreamedSet) -> dict[str, float]:
    """Clean accuracy, and the median relative residual of z^[N], over the first images of the set in eval mode."""
    first = images.take(slice(CLEAN_POINTS))
    x = first.images()
    with evaluating(model), torch.no_grad():
        if not isinstance(model, DEQClassifier):
            return {"accuracy_clean": _share(model(x), first.labels)}
        moved = model.trajectory(x, steps=model.steps + 1)
    clean = _share(moved.logits(model.steps), first.labels)
    return {"accuracy_clean": clean, "residual": float(known(moved.residuals)[-1].median())}


def _share(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(1) == y).float().mean())


def memory_gib() -> float:
    """The most memory that was held so far: of the GPU by tensors, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
