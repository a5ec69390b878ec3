"""The arguments of whatever works through images, looked at before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..checks import Count, Seed
from ..options import convert
from ..text import shown


@dataclass(frozen=True)
class Fits:
    """Of an argument that ``check_arguments`` looks at: whether it will do, and what does, in words."""

    fits: Callable[[Any], bool]
    allowed: str

    def check(self, owner: str, name: str, value: Any) -> None:
        if not self.fits(value):
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: {self.allowed}.")


ARGUMENTS: dict[str, Any] = {
    "batch_size": Count, "seed": Seed, "resume": bool, "samples": str | None,
    "out": Annotated[Any, Fits(lambda out: isinstance(out, str | Path | None) and out != "", "a folder")],
    "distributed": Annotated[Any, Fits(lambda processes: hasattr(processes, "world_size"), "a Distributed")],
    "progress": Annotated[Any, Fits(lambda progress: progress is None or callable(progress), "a function")],
}  # fmt: skip
"""Of whatever works through images, as annotations that ``options.convert`` understands."""


def check_arguments(owner: str, arguments: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """A ValueError for the first argument that is not what ``hints`` say; others are not looked at."""
    for name, hint in hints.items():
        convert(owner, name, arguments[name], hint)
