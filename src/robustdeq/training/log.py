"""What a run writes down while it goes: a line of JSON and TensorBoard events a step, and W&B on request."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from ..files import write_text


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
