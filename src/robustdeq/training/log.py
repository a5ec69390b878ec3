"""What a run writes down while it goes: a line of JSON and TensorBoard events a step, and W&B on request; and what it
says of itself in words."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text
from .config import TrainConfig


class Log:
    """``log.jsonl`` of a run's folder, and TensorBoard events beside it. step: of the checkpoint the run goes on from;
    lines after it are dropped. wandb: the config to be shown at Weights & Biases; None does not log there. speaks:
    False writes nothing at all."""

    def __init__(self, folder: Path, step: int, wandb: dict[str, Any] | None = None, speaks: bool = True) -> None:
        self.path, self.first, self.speaks, self.wandb = folder / "log.jsonl", step + 1, speaks, None
        self.board: Any = None  # made at the first line, so that a finished run that is started again leaves none
        if not speaks:
            return
        self.path.open("a").close()  # what cannot be written to is missed now, and not after an epoch
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_text(self.path, "".join(line + "\n" for line in lines if _step(line) <= step))
        self.wandb = None if wandb is None else _wandb(folder, wandb)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """values: JSON; numbers also go to TensorBoard, nested names joined by a slash."""
        if not self.speaks:
            return
        if self.board is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

            self.board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=self.first)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        numbers = _numbers(values)
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def beginning(config: TrainConfig, images: int, step: int, total: int, units: float | None, log: Path) -> str:
    """A run that begins, or goes on behind step ``step`` of ``total``. units: f-units to go, None where unknown."""
    per_epoch = total // config.epochs
    text = f"{images:,} images, {config.epochs:,} epochs, {total:,} steps of {config.batch_size:,} images"
    if step:
        epoch = min(step // per_epoch + 1, config.epochs)
        text += f"; {step:,} steps are done, it goes on in epoch {epoch:,}" if step < total else "; all are done"
    if step < total:
        known = units is not None and f"about {float(f'{units:.2g}'):,.0f} f-units"
        text += f"; {known or 'its f-units are not known beforehand'}"
    return f"{text}; log in {log}"


def pace(config: TrainConfig, epoch: int, count: int, sums: Mapping[Any, float], history: list[dict[str, Any]]) -> str:
    """How an epoch goes. sums: over its ``count`` steps so far. Accuracies: of its attacked images; and the last known
    of training images as they are, and of held-out images under attack."""
    text = f"epoch {epoch + 1}/{config.epochs}  loss {sums['loss'] / count:.3f}  "
    text += f"{count * config.batch_size / sums['seconds']:.0f} images/s"
    if config.phase(epoch).attack_steps:
        text += f"  attacked {100 * sums['accuracy_adv'] / count:.1f}%"
    if history:
        text += f"  clean {100 * history[-1]['accuracy_clean']:.1f}%"
    judged = [row["validation"]["robust"] for row in history if "validation" in row]
    return text + (f"  held-out robust {100 * judged[-1]:.1f}%" if judged else "")


def judgement(row: Mapping[str, Any]) -> str:
    """What the watch found on held-out images, of an epoch's row of the history that has it."""
    texts = []
    for kind, name in (("validation", "held-out images"), ("validation_ema", "with averaged weights")):
        shares = [f"{share} {100 * value:.1f}%" for share, value in reversed(row.get(kind, {}).items())]
        texts += [f"{name} {', '.join(shares)}"] if shares else []
    best = f"best robust so far {100 * row['best']:.1f}%"
    return f"epoch {row['epoch']}: " + "; ".join([*texts, best, *(f"warning: {text}" for text in row["warnings"])])


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    # A line that a kill or an editor has cut belongs to no step.
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return float("inf")


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            numbers[prefix + name] = float(value)
    return numbers


def _wandb(folder: Path, config: dict[str, Any]):
    """A run there, named after the folder; one that goes on is found again by the id in the folder."""
    import wandb  # pyright: ignore[reportMissingImports]

    file = folder / "wandb-id"
    if not file.exists():
        write_text(file, secrets.token_hex(4))
    options = {"id": file.read_text(), "resume": "allow", "name": folder.name, "dir": str(folder), "config": config}
    return wandb.init(project="robustdeq", **options)
