"""The training loop: one config, one model, one folder; a killed run goes on from the step of its last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import ImageSet, StreamedSet, crop_and_flip
from ..distributed import SINGLE, Distributed
from ..environment import environment
from ..files import claim, differences, held, plain, read_json, read_tensors, tidy
from ..models.modes import evaluating
from ..models.structure import structure
from ..models.zoo import CONFIG, SETTABLE, WEIGHTS, check_keys, config_of, save_model, stored_config
from ..options import describe
from ..progress import Progress
from ..seeds import generator, mix
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig
from .interrupts import interrupts
from .log import Log
from .optim import average_of, follow
from .piece import AUGMENT, DATA
from .states import FinalState
from .step import Sums, TrainStep
from .watch import judge, memory_gib, unattacked
from .words import JUDGED, beginning, judgement, pace, warnings

CHECKPOINT = "last.safetensors"
"""The file in a run's folder from which it goes on."""
ANEW = f"remove {CHECKPOINT} to start this run anew"
LOG_EVERY = 10
CLEAN_POINTS = 128
"""Training images whose clean accuracy and residual are logged every epoch."""
DRAWS = 4
"""Updates that are measured before the run, where states are random and their cost is."""


class Trainer:
    """Trains ``model`` on ``images`` (both on one device) and keeps its state in ``folder``.

    folder: ``last.safetensors``, the checkpoint; ``best/``, the model that stood best on the ``validation`` images
    (with ``validation_points``); ``log.jsonl`` and TensorBoard events. wandb: log to Weights & Biases as well.
    distributed: the processes that share every batch and the validation; the main one writes. On several GPUs BatchNorm
    becomes SyncBatchNorm. A model is trained bare, without DataParallel, torch.compile or a Sequential around it.
    graphs: an update's passes are recorded once as CUDA graphs and replayed; on one GPU.
    """

    def __init__(
        self, model: nn.Module, images: ImageSet | StreamedSet, config: TrainConfig, folder: str | Path,
        validation: ImageSet | StreamedSet | None = None, *, wandb: bool = False, distributed: Distributed = SINGLE,
        graphs: bool = False,
    ) -> None:  # fmt: skip
        sets = [one for one in (images, validation) if one is not None]
        fits = images is not None and all(hasattr(one, name) for one in sets for name in ("batches", "take", "digest"))
        fits = fits and hasattr(distributed, "world_size") and isinstance(wandb, bool)
        if not fits or not isinstance(config, TrainConfig) or not isinstance(folder, str | Path):
            kinds = ", ".join(type(one).__name__ for one in (images, config, folder, validation))
            wanted = "an ImageSet, a TrainConfig, a folder, perhaps an ImageSet; wandb true or false"
            raise ValueError(f"Trainer: {kinds}; allowed: {wanted}.")
        kind, size, world_size = structure(model), config.batch_size, distributed.world_size
        model, deq = kind.bare, kind.deq
        if kind.defence is not None or kind.readout is not None:
            raise ValueError(f"Trainer: the model is a {type(kind.deployed).__name__}; allowed: the model inside.")
        if deq is None and not isinstance(config.states, FinalState):
            raise ValueError(f"states={config.states} with a {type(model).__name__}, which has none; allowed: final.")
        if len(images) < size:
            raise ValueError(f"batch_size={size} with {len(images)} training images; allowed: at most {len(images)}.")
        if config.validation_points and not (validation is not None and len(validation)):
            raise ValueError(f"validation_points={config.validation_points} without validation images; allowed: 0.")
        if size % (config.accumulate * world_size):
            pieces = f"accumulate={config.accumulate} on {world_size} processes"
            raise ValueError(f"batch_size={size} with {pieces}; allowed: a multiple of their product.")
        if not (asking := [weight for weight in model.parameters() if weight.requires_grad]):
            raise ValueError("Trainer: every parameter is frozen; allowed: some that require a gradient.")
        if config.awp and all(weight.dim() < 2 for weight in asking):
            raise ValueError(f"awp={config.awp} moves weights of two dimensions, which are all frozen; allowed: 0.")
        if wandb and find_spec("wandb") is None:
            raise ValueError("wandb is not installed; allowed: pip install wandb, or a run without it.")
        if world_size > 1 and distributed.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model, self.deq, self.images, self.config, self.folder = model, deq, images, config, Path(folder)
        self.checkpoint, self.best = self.folder / CHECKPOINT, self.folder / "best"
        self.wandb, self.distributed = wandb, distributed
        self.optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.averaged = average_of(model, config.ema) if config.ema else None
        self.tally, self.held_out = kind.tally, None
        if validation is not None and config.validation_points:
            self.held_out = validation.take(slice(config.validation_points))
        self.steps_per_epoch = len(images) // size
        self.total = config.epochs * self.steps_per_epoch
        source = {"source": images.source, "count": len(images), "sha256": images.digest()}
        held_out = None if self.held_out is None else self.held_out.digest()
        self.identity = {"training": config.to_dict(), "model": config_of(model), "images": source}
        self.identity |= {"held_out": held_out}
        if deq is not None:  # of one put together by hand there is no config
            self.identity |= {name: describe(getattr(deq, name)) for name in SETTABLE}
        self.update = TrainStep(model, self.optimizer, config, self.total, distributed, graphs)
        # The first save comes early: what a checkpoint cannot hold is known before there is anything to lose.
        self.step, self.saved = 0, float("-inf")
        self.history: list[dict[str, Any]] = []
        self.sums = Sums()

    def run(self, progress: Progress | None = None, plan: dict[str, Any] | None = None) -> nn.Module:
        """Train to the end, from the checkpoint if there is one. Returns the model of the last step, in eval mode, with
        the weights of the moving average if there is one.

        plan: what the folder's config.json says that it is for. Raises a ValueError before anything is written if it is
        for something else, or if another process works there.
        """
        plan_file, main_first = self.folder / "config.json", self.distributed.main_first
        with held(self.folder, self.distributed.main):
            main_first(lambda: tidy(self.folder) if plan is None else claim(plan_file, plan))
            if self.checkpoint.exists():
                self._resume()
            if not self.distributed.agree(self.step):
                differs = f"{self.checkpoint} is not the same file for every process"
                raise ValueError(f"{differs}; give a folder they all reach.")
            self._train(progress)
            self.distributed.barrier()
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.state_dict())
        return self.model.eval()

    def rehearse(self) -> None:
        """Attack and update of every phase on a few images, of which no trace is left; raises what does not fit."""
        config, (x, y) = self.config, self._few()
        if config.pad >= min(x.shape[2:]):
            raise ValueError(f"pad={config.pad} of {x.shape[3]}x{x.shape[2]} pixels; allowed: less than a side.")
        with torch.no_grad(), evaluating(self.model):
            classes = self.model(x).shape[1]
        for images in (self.images, self.held_out):
            if images is not None and (top := int(getattr(images, "labels", y).max())) >= classes:
                raise ValueError(f"labels up to {top} for a model of {classes} classes; allowed: 0..{classes - 1}.")
        self.update.rehearse(x, y)

    @cached_property
    def works(self) -> tuple[list[int], list[float]] | None:
        """Of the run's beginning and of every phase's end: how many steps are done by then, and about how many f-units:
        an update of every phase is measured on a few images, and leaves no trace. None where nothing is counted, and
        with SyncBatchNorm, which no process computes alone."""
        if self.deq is None or any(isinstance(module, nn.SyncBatchNorm) for module in self.model.modules()):
            return None
        ends, works, (x, y) = [0], [0.0], self._few()
        draws = 1 if isinstance(self.config.states, FinalState) else DRAWS
        seeds = [mix(self.config.seed, draw) % 2**31 for draw in range(draws)]
        for phase in self.config.phases:
            steps, before = phase.epochs * self.steps_per_epoch, self.tally.units
            for seed in seeds:
                config = replace(self.config, phases=(phase,), seed=seed)
                TrainStep(self.model, self.optimizer, config, self.total).rehearse(x, y)
            spent = (self.tally.units - before) / (len(x) * len(seeds))
            ends.append(ends[-1] + steps)
            works.append(works[-1] + steps * self.config.batch_size * spent)
        return ends, works

    def units_left(self) -> float | None:
        """f-units of the updates that are still to come, about; None where they are not known."""
        return None if self.works is None else self.works[1][-1] - float(np.interp(self.step, *self.works))

    def _few(self) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,), enough to see what an update does: two, or one where a piece is one."""
        size = self.config.batch_size // (self.config.accumulate * self.distributed.world_size)
        first = self.images.take(slice(min(2, size)))
        return first.images(), first.labels

    def _resume(self) -> None:
        header = load_checkpoint(self.checkpoint, self.model, self.optimizer, self.identity, self.averaged)
        self.step, self.history, self.sums = header["step"], header["history"], Sums(**header["sums"])
        if any("best" in row for row in self.history):  # it is needed at the end, so now is the time to miss it
            if differing := differences(read_json(self.best / CONFIG, ANEW), plain(stored_config(self.model))):
                raise ValueError(f"{self.best / CONFIG} has another {', '.join(differing)}; {ANEW}.")
            weights = self.best / WEIGHTS
            check_keys(self.model.state_dict(), read_tensors(weights, ANEW)[0], str(weights))

    def _train(self, progress: Progress | None) -> None:
        """From the step that is reached to the last one."""
        self.log = Log(self.folder, self.step, self.config.to_dict() if self.wandb else None, self.distributed.main)
        self.note: Callable[[str], None] | None = getattr(progress, "note", None)
        if hasattr(progress, "work") and (works := self.works):
            setattr(progress, "work", lambda step: float(np.interp(step, *works)))  # noqa: B010 - of whatever class
        if self.note is not None:
            self.note(beginning(self.config, len(self.images), self.step, self.total, self.units_left(), self.log.path))
        try:
            with interrupts() as self.asked:
                for epoch in range(self.step // self.steps_per_epoch, self.config.epochs):
                    self._epoch(epoch, progress)
        except FloatingPointError:
            self._save()
            self.distributed.barrier()  # a launcher ends the first process when another one fails
            raise
        finally:
            self.log.close()

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.distributed.main:
            header = {"step": self.step, "history": self.history, "sums": asdict(self.sums), "identity": self.identity}
            device = next(self.model.parameters()).device
            header["environment"] = {**environment(device=device), "processes": self.distributed.world_size}
            save_checkpoint(self.checkpoint, self.model, self.optimizer, header, self.averaged)

    def _epoch(self, epoch: int, progress: Progress | None) -> None:
        config, size, first = self.config, self.config.batch_size, epoch * self.steps_per_epoch
        order, rows = generator(config.seed, DATA, epoch), self.distributed.rows(size)
        for x, y in self.images.batches(size, order, rows, skip=self.step - first):
            self._train_on(x, y, epoch)
            count = self.step - first
            if progress is not None:
                progress(self.step, self.total, pace(config, epoch, count, self.sums, self.history))
            within = count < self.steps_per_epoch  # an epoch is closed before it is saved
            if within and self.distributed.all_reduce(torch.tensor(float(self.asked.is_set()))).item():
                self._save()
                self.distributed.barrier()
                raise KeyboardInterrupt
            if within and time.monotonic() - self.saved > config.checkpoint_seconds:
                self._save()
        self._close_epoch(epoch)
        self._save()

    def _train_on(self, x: Tensor, y: Tensor, epoch: int) -> None:
        config, began, tally = self.config, time.perf_counter(), self.tally
        spent, units = tally.evaluations, tally.units
        draws, first = generator(config.seed, AUGMENT, self.step), self.distributed.rank * len(x)
        x = crop_and_flip(x, draws, pad=config.pad, flip=config.flip, total=config.batch_size, first=first)
        result = self.update(x, y, self.step, epoch)
        self.step += 1
        if self.averaged is not None:
            follow(self.averaged, self.model, config.ema, self.step)
        self.sums.loss += result.loss
        self.sums.accuracy_adv += result.accuracy_adv or 0.0
        self.sums.solver_steps += result.solver_steps
        self.sums.seconds += time.perf_counter() - began
        self.sums.evaluations += (tally.evaluations - spent) / len(x)
        self.sums.units += (tally.units - units) / len(x)
        if self.step % LOG_EVERY == 0:
            self.log.write(self.step, {"train": asdict(result)})

    def _close_epoch(self, epoch: int) -> None:
        """Close the epoch's account, judge the model on held-out images, and keep it if it is the best so far."""
        sums, steps, device = self.sums, self.steps_per_epoch, next(self.model.parameters()).device
        attacked = {"accuracy_adv": sums.accuracy_adv / steps} if self.config.phase(epoch).attack_steps else {}
        row: dict[str, Any] = {
            "epoch": epoch + 1, "loss": sums.loss / steps, **attacked, "solver_steps": sums.solver_steps / steps,
            "seconds": sums.seconds, "evaluations_per_image": sums.evaluations / steps,
            "units_per_image": sums.units / steps,
            "images_per_second": self.config.batch_size / (sums.seconds / steps),
            **unattacked(self.model, self.images.take(slice(CLEAN_POINTS))), "memory_gib": memory_gib(device),
        }  # fmt: skip
        self.sums = Sums()
        last = epoch + 1 == self.config.epochs
        if self.held_out is not None and (last or (epoch + 1) % self.config.validation_every == 0):
            row |= self._judge(self.held_out)
        self.history.append(row)
        row["warnings"] = warnings(self.history)
        self.log.write(self.step, row)
        if self.note is not None and "validation" in row:
            self.note(judgement(row))

    def _judge(self, images: ImageSet) -> dict[str, Any]:
        """Judge the weights and, apart, their average; the better one is kept if nothing was better before."""
        models = {kind: model for kind, model in zip(JUDGED, (self.model, self.averaged)) if model is not None}
        options = (images, self.config.threat, self.config.validation_steps, self.config.seed, self.distributed)
        scores = {kind: judge(model, *options) for kind, model in models.items()}
        # A model that says one class is robust on its images: where nothing was trained against attacks it would win.
        names = ("robust", "clean") if any(phase.attack_steps for phase in self.config.phases) else ("clean",)
        order = lambda score: tuple(score[name] for name in names)  # noqa: E731
        best = max(scores, key=lambda kind: order(scores[kind]))
        earlier = [row[kind] for row in self.history for kind in models if kind in row]
        robust, before = scores[best]["robust"], max((row.get("best", -1.0) for row in self.history), default=-1.0)
        kept = order(scores[best]) >= max(map(order, earlier), default=())
        if kept and self.distributed.main:
            save_model(models[best], self.best)
        return {**scores, "best": max(before, robust), **({"kept": best} if kept else {})}
