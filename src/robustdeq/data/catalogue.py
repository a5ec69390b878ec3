"""A source that has been found and not yet read: its splits, its classes, and the parts each split plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .rows import Shard


class Parts(NamedTuple):
    """The splits that are used, by their published names; validation: None where it is cut from the training set."""

    train: str
    validation: str | None
    test: str


@dataclass(frozen=True)
class Catalogue:
    """where: the folder or hub name. title: what the set is called. shards: of each split that is published.

    files: what each split is read from, which its decoded form is kept by; none: it is not kept. reading: how it is
    read, as text. known: rows of each split, where counting them would take long.
    """

    where: str
    title: str
    classes: tuple[str, ...]
    shards: Mapping[str, Sequence[Shard]]
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    reading: str = ""
    known: Mapping[str, int] = field(default_factory=dict)

    def count(self, split: str) -> int:
        """How many images a split has."""
        return self.known.get(split) or sum(len(shard) for shard in self.shards[split])

    def parts(self) -> Parts:
        """The published test set is the test set; where there is none, or its labels are withheld (ImageNet), the
        published validation set is. Raises a ValueError for a split that is missing or empty."""
        names = list(self.shards)
        hidden = "test" in names and bool(self.shards["test"]) and self.shards["test"][0].hidden()
        test = "test" if "test" in names and not hidden else "validation"
        for split in ("train", test):
            if split not in names:
                found = ", ".join(names) + (" (labels of test withheld)" if hidden else "")
                raise ValueError(
                    f"{self.where}: no {split} split; found {found}; allowed: train, and test or validation."
                )
        parts = Parts("train", "validation" if test == "test" and "validation" in names else None, test)
        for split in filter(None, parts):
            if not any(len(shard) for shard in self.shards[split]):
                files = ", ".join(str(file) for file in self.files.get(split, ())[:1])
                raise ValueError(f"{files or self.where}: the {split} split is empty; allowed: at least one image.")
        return parts
