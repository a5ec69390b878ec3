"""Which files of a folder hold which split: the layouts of the Hugging Face hub, and image folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""The names under which a split is published."""

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings of the files of an image folder; other files there are passed over."""

NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})")


def split_of(path: PurePath) -> str | None:
    """``train``, ``validation`` or ``test``, read off the file's name or else off its folders, the nearest first."""
    for part in (path.stem, *reversed(path.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return None


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of each split, in order. Raises a ValueError for splits that are ambiguous or incomplete."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        relative = file.relative_to(folder)
        split = split_of(relative)
        if split and not any(part.startswith(".") for part in relative.parts):
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        _check_one_place(folder, split, files)
        _check_complete(files)
    return found


def _check_one_place(folder: Path, split: str, files: Sequence[Path]) -> None:
    places = sorted({str(file.parent) for file in files})
    if len(places) > 1:
        raise ValueError(
            f"{folder}: parquet files of {split} in several folders ({', '.join(places)}); give one of them."
        )


def _check_complete(files: Sequence[Path]) -> None:
    """Of train-00000-of-00003.parquet and its fellows none may be missing, and none may stand beside them."""
    numbers = [NUMBERED.search(file.stem) for file in files]
    present = {int(match[1]) for match in numbers if match}
    totals = {int(match[2]) for match in numbers if match}
    if not totals:
        return
    if len(totals) > 1 or len(present) < len(files):
        raise ValueError(f"{files[0].parent}: {', '.join(f.name for f in files)}: these are not parts of one split.")
    missing = sorted(set(range(max(totals))) - present)
    if missing:
        raise ValueError(f"{files[0]}: part {missing[0]} of {max(totals)} is missing beside it.")


def image_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits that hold a folder for each class."""
    found: dict[str, Path] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in SPLITS):
        split = SPLITS[place.name.lower()]
        if split in found:
            raise ValueError(f"{folder}: {found[split].name} and {place.name} are both {split}; keep one of them.")
        found[split] = place
    return found


def class_folders(place: Path) -> list[str]:
    """The class names of one split: its folders, in alphabetical order."""
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    """The image files below a class folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
