"""The training loop: one config, one model, one folder; a killed run goes on from its last epoch."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import THREATS
from ..data import ImageSet, crop_and_flip
from ..dynamics.solver import check_count, check_number
from ..gradients import GRADIENTS
from ..options import build, describe
from ..regulation import STATE_SAMPLERS
from ..seeds import generator, mix
from .checkpoint import load_checkpoint, save_checkpoint
from .objectives import OBJECTIVES, Reader
from .schedule import Phase, one_cycle

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a short text."""

DATA, AUGMENT, STATES, ATTACK, DROPOUT = range(5)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run but the model and the data.

    phases: see ``Phase``. objective: ``pgd-at | trades`` (with options). states: ``final | random``, the z^[t] of every
    forward. gradient, attack_gradient: of the update and of its attack (any of GRADIENTS). eps: in pixel units of
    [0, 1]. pad: of the random crop, in pixels; flip: horizontally. clip: largest gradient norm.
    """

    phases: Sequence[Phase]
    objective: Any = "pgd-at"
    states: Any = "final"
    gradient: Any = "unrolled"
    attack_gradient: Any = "unrolled"
    threat: Any = "Linf"
    eps: float = 8 / 255
    batch_size: int = 96
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    pad: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("TrainConfig", "eps", self.eps, 0, 1)
        check_number("TrainConfig", "learning_rate", self.learning_rate, 0, low_open=True)
        check_number("TrainConfig", "weight_decay", self.weight_decay, 0)
        check_number("TrainConfig", "clip", self.clip, 0, low_open=True)
        for name, low in (("batch_size", 1), ("pad", 0), ("seed", 0)):
            check_count("TrainConfig", name, getattr(self, name), low)
        if not self.phases:
            raise ValueError("TrainConfig: phases is empty; allowed: at least one Phase.")
        self.parts()

    def parts(self):
        """The objects that the names stand for: objective, state sampler, both gradients, threat."""
        return (
            build("objective", self.objective, OBJECTIVES),
            build("state sampler", self.states, STATE_SAMPLERS),
            build("gradient", self.gradient, GRADIENTS),
            build("gradient", self.attack_gradient, GRADIENTS),
            build("threat", {"name": self.threat, "eps": self.eps}, THREATS),
        )

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """The resolved config as JSON."""
        objective, states, gradient, attack_gradient, _ = self.parts()
        plain = dataclasses.asdict(self)
        named = {"objective": objective, "states": states, "gradient": gradient, "attack_gradient": attack_gradient}
        return {**plain, **{key: describe(value) for key, value in named.items()}}


class Trainer:
    """Trains ``model`` on ``images`` (both on one device) and keeps its state in ``folder``."""

    def __init__(self, model: nn.Module, images: ImageSet, config: TrainConfig, folder: str | Path) -> None:
        if len(images) < config.batch_size:
            raise ValueError(
                f"batch_size={config.batch_size} with {len(images)} training images; allowed: at most {len(images)}."
            )
        self.model, self.images, self.config, self.folder = model, images, config, Path(folder)
        self.objective, self.sampler, self.gradient, self.attack_gradient, self.threat = config.parts()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.steps_per_epoch = len(images) // config.batch_size
        self.total = config.epochs * self.steps_per_epoch
        self.history: list[dict[str, float]] = []
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.safetensors"

    def run(self, progress: Progress | None = None) -> nn.Module:
        """Train to the end, from the last checkpoint if there is one; the model is returned in eval mode."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            facts = load_checkpoint(self.checkpoint, self.model, self.optimizer, self._config())
            self.step, self.history = facts["step"], facts["history"]
        for epoch in range(self.step // self.steps_per_epoch, self.config.epochs):
            self._epoch(epoch, progress)
            facts = {"step": self.step, "history": self.history, "config": self._config()}
            save_checkpoint(self.checkpoint, self.model, self.optimizer, facts)
        return self.model.eval()

    def _config(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        images = {"source": self.images.source, "count": len(self.images), "sha256": _digest(self.images)}
        return {"training": self.config.to_dict(), "model": getattr(self.model, "config", None), "images": images}

    def _epoch(self, epoch: int, progress: Progress | None) -> None:
        config, began = self.config, time.perf_counter()
        phase = self._phase(epoch)
        loss = correct = 0.0
        for x, y in self.images.batches(config.batch_size, generator(config.seed, DATA, epoch)):
            x = crop_and_flip(x, generator(config.seed, AUGMENT, self.step), pad=config.pad, flip=config.flip)
            losses = self._update(x, y, phase)
            self.step += 1
            loss += float(losses.total.detach())
            correct += float(losses.correct_adv.float().mean())
            if progress is not None:
                progress(
                    self.step, self.total, f"epoch {epoch + 1}/{config.epochs}  loss {float(losses.total.detach()):.3f}"
                )
        count = self.steps_per_epoch
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": loss / count,
                "accuracy_adv": correct / count,
                "seconds": round(time.perf_counter() - began, 2),
            }
        )

    def _update(self, x: Tensor, y: Tensor, phase: Phase):
        config, step = self.config, self.step
        steps = phase.solver_steps or getattr(self.model, "steps", 1)
        states = generator(config.seed, STATES, step)
        draw = lambda: self.sampler.draw(steps, states)  # noqa: E731
        attack = self.objective.attack(self.threat, phase.attack_steps, phase.step_size, mix(config.seed, ATTACK, step))
        self.model.train()
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mix(config.seed, DROPOUT, step))
            losses = self.objective.losses(
                attack, Reader(self.model, draw, self.attack_gradient), Reader(self.model, draw, self.gradient), x, y
            )
            self._descend(losses.total)
        return losses

    def _descend(self, total: Tensor) -> None:
        rate = one_cycle(self.step, self.total, self.config.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        if not math.isfinite(norm) or not math.isfinite(float(total.detach())):
            raise FloatingPointError(
                f"step {self.step}: loss {float(total.detach())}, gradient norm {norm}; nothing was updated. "
                f"The last epoch is kept in {self.checkpoint}; lower learning_rate or damp the solver."
            )
        self.optimizer.step()

    def _phase(self, epoch: int) -> Phase:
        for phase in self.config.phases:
            if epoch < phase.epochs:
                return phase
            epoch -= phase.epochs
        raise AssertionError("epoch lies beyond the last phase")


def _digest(images: ImageSet) -> str:
    """SHA-256 of pixels and labels."""
    return hashlib.sha256(images.pixels.cpu().numpy().tobytes() + images.labels.cpu().numpy().tobytes()).hexdigest()


__all__ = ["TrainConfig", "Trainer"]
