"""What a run writes down while it goes: a line of JSON a step, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_text


class Log:
    """``log.jsonl`` of a run's folder, and TensorBoard events beside it.

    step: of the checkpoint the run goes on from; lines after it are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "log.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = _board(folder / "tensorboard", step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """values: JSON; numbers also go to TensorBoard, nested names joined by a slash."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in _numbers(values):
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


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
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step or None)
