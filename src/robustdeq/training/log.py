"""What a run writes down while it goes: a line of JSON and TensorBoard events a step, and W&B on request."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from ..files import write_text


class Log:
    """``log.jsonl`` of a run's folder, and TensorBoard events beside it.

    step: of the checkpoint the run goes on from; lines after it are dropped. wandb: the config to be shown at Weights &
    Biases; None does not log there. speaks: False writes nothing at all.
    """

    def __init__(self, folder: Path, step: int, wandb: dict[str, Any] | None = None, speaks: bool = True) -> None:
        self.speaks, self.board, self.wandb = speaks, None, None
        if not speaks:
            return
        self.path = folder / "log.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = _board(folder / "tensorboard", step)
        self.wandb = None if wandb is None else _wandb(folder, wandb)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """values: JSON; numbers also go to TensorBoard, nested names joined by a slash."""
        if not self.speaks:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in _numbers(values):
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(dict(_numbers(values)), step=step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def _step(line: str) -> float:
    """The step of a line; a line that was cut by a kill belongs to no step."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _numbers(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found


def _board(folder: Path, step: int):
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(folder: Path, config: dict[str, Any]):
    """A run there, named after the folder; one that goes on is found again by the id kept in the folder."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("wandb is not installed; allowed: pip install wandb, or a run without it.") from error
    kept = folder / "wandb-id"
    if not kept.exists():
        write_text(kept, secrets.token_hex(4))
    identity = kept.read_text()
    return wandb.init(
        project="robustdeq", name=folder.name, id=identity, resume="allow", dir=str(folder), config=config
    )
