"""What a reproduction is, and where its parts lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..recipe import Recipe

Report = Callable[[str, str, int, int], None]
"""Called with the row, what it is doing, and how much of how much is done."""

DEFENDED = " + entropy reduction"
SETTINGS = ("static", "frozen", "end-to-end", "black-box")
APGD_ITERATIONS, END_TO_END_STEPS, QUERIES = 20, 10, 60
"""Budgets of a short run through the defence, where a step costs seven and more of the bare model's."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe and the folder of its results. full: AutoAttack standard on every test image. jobs: rows at a time."""

    recipe: Recipe
    out: Path
    device: str = "cpu"
    jobs: int = 3
    full: bool = False

    def training(self, row: str) -> Path:
        """The folder of a row's training run; those of its model and so on below."""
        return self.out / "training" / _slug(row)

    def model(self, row: str) -> Path:
        return self.out / "models" / _slug(row)

    def evaluation(self, row: str) -> Path:
        """row: with or without ``DEFENDED``."""
        return self.out / "evaluation" / _slug(row)

    def states(self, row: str) -> Path:
        return self.out / "states" / _slug(row)

    def analysis(self, row: str) -> Path:
        """A file."""
        return self.out / "analysis" / f"{_slug(row)}.json"


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())
