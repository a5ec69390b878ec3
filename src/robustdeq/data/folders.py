"""What lies in a folder: parquet files, or class folders of images, split by split."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from ..files import first_line
from .images import say
from .stored import Stored, in_order

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""The names under which a split is published."""
ENDINGS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
HIDDEN = frozenset(["thumbs.db", "desktop.ini", "__macosx", "@eadir"])
"""What systems leave in folders, beside what begins with a dot."""


def tree(folder: Path) -> dict[Path, list[Path]]:
    """Each folder, this one and those below, with the files in it; without hidden ones. Links are followed.

    Raises a ValueError for what cannot be read, and for a link to nowhere or into a circle: an image that is left out
    silently would be missing from a number.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read ({first_line(error)}); let it be read.") from error

    listed: dict[Path, list[Path]] = {}
    around: dict[str, frozenset[str]] = {}
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real, above = os.path.realpath(place), around.get(os.path.dirname(place), frozenset())
        if real in above:
            raise ValueError(f"{place}: a link back to a folder around it; remove it.")
        around[place] = above | {real}
        folders[:] = [name for name in folders if not _hidden(name)]
        listed[Path(place)] = [Path(place, name) for name in files if not _hidden(name)]
        for file in listed[Path(place)]:
            if not file.is_file():
                what = "a link to a file that is not there" if file.is_symlink() else "neither a file nor a folder"
                raise ValueError(f"{file}: {what}; remove it.")
    return listed


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in HIDDEN


def parquet_files(folder: Path, files: Mapping[Path, list[Path]]) -> dict[str, list[str]]:
    """The files of each split, read off the file's name or else off its folders, the nearest first; in order.

    (The patterns of `datasets` would take test_sets/train.parquet for both, and would not miss a shard.)
    """
    splits: dict[str, list[Path]] = {}

    def split_of(file: Path) -> str | None:
        names = file.relative_to(folder).parts
        words = re.findall("[a-z]+", " ".join((file.stem, *names[-2::-1])).lower())
        return next((SPLITS[word] for word in words if word in SPLITS), None)

    tables = [file for those in files.values() for file in those if file.suffix.lower() == ".parquet"]
    for file in sorted(tables):
        if split := split_of(file):
            splits.setdefault(split, []).append(file)
        else:
            say(f"{file}: not read; its name tells no split.")
    rest = (file for those in files.values() for file in those if splits and file.suffix.lower() != ".parquet")
    if others := list(filter(split_of, rest)):
        say(f"{folder}: {len(others)} files are not read, since they are no .parquet files, such as {others[0]}.")
    for split, those in splits.items():
        if len(places := sorted({str(file.parent) for file in those})) > 1:
            raise ValueError(f"{folder}: {split} files in several folders ({', '.join(places)}); give one of them.")
        if "::" in str(those[0]):
            raise ValueError(f"{those[0]}: `datasets` reads what follows '::' as an archive's name; rename it.")
        shards = [re.search(r"-(\d{5})-of-(\d{5})", file.stem) for file in those]
        numbers, totals = {int(shard[1]) for shard in shards if shard}, {int(shard[2]) for shard in shards if shard}
        if totals and (len(totals) > 1 or len(numbers) < len(those)):
            raise ValueError(f"{places[0]}: {', '.join(f.name for f in those)}: these are not shards of one split.")
        if missing := set(range(max(totals, default=0))) - numbers:
            raise ValueError(f"{those[0]}: shard {min(missing)} of {max(totals)} is missing beside it.")
    return {split: [str(file) for file in those] for split, those in splits.items()}


def image_folders(folder: Path, files: Mapping[Path, list[Path]], wanted: Mapping[str, str]) -> dict[str, Stored]:
    """Class folders of images, whatever folders there are below them. Files of other endings are passed over.

    (`imagefolder` takes the innermost folder for the class, and drops dangling links.)
    """
    tops = sorted(place.name for place in files if place.parent == folder)
    splits = {SPLITS[name.lower()]: name for name in tops if name.lower() in SPLITS}
    if not splits:
        raise ValueError(
            f"{folder}: no parquet file and no image folder of any split; allowed: train.parquet and test.parquet, "
            "data/train-00000-of-00001.parquet, ..., or train/CLASS/*.png, test/CLASS/*.png, ..."
        )
    for name in set(tops) - set(splits.values()):
        if name.lower() in SPLITS:
            other = splits[SPLITS[name.lower()]]
            raise ValueError(f"{folder}: {name} and {other} are the same split; keep one of them.")
        say(f"{folder / name}: not read; its name tells no split.")
    if wanted:
        raise ValueError(f"{folder}: image_column and label_column do not apply; there is no parquet file.")
    images: dict[tuple[str, ...], list[Path]] = {}  # by split and class
    others: list[Path] = []
    for place, those in files.items():
        names = place.relative_to(folder).parts[:2]
        if names and names[0] in splits.values():
            fitting = images.setdefault(names, [])
            for file in those:
                (fitting if file.suffix.lower() in ENDINGS else others).append(file)
    if others:
        say(f"{folder}: {len(others)} files are not read, since no image ends so, such as {others[0]}.")
    classes: tuple[str, ...] = ()
    stored: dict[str, Stored] = {}
    for split in sorted(splits, key="train".__ne__):  # the training set first: it says what the classes are
        place = folder / splits[split]
        if loose := images[place.name,]:
            raise ValueError(f"{loose[0]}: an image in no class folder; allowed: {place}/CLASS/{loose[0].name}.")
        folders = {names[1] for names in images if len(names) == 2 and names[0] == place.name}
        classes = classes if "train" in splits and split != "train" else in_order(folders)
        if strange := sorted(folders - set(classes)) if "train" in splits else []:
            raise ValueError(f"{place / strange[0]}: no class of the training set; allowed: {', '.join(classes)}.")
        images_of = {name: sorted(images[place.name, name]) for name in classes if name in folders}
        if empty := [name for name, those in images_of.items() if not those]:
            raise ValueError(f"{place / empty[0]}: no image; allowed: at least one for each class folder.")
        stored[split] = _stored(place, images_of, classes)
    return stored


def _stored(place: Path, images: Mapping[str, list[Path]], classes: tuple[str, ...]) -> Stored:
    """Mixed in an order that is always the same one, since on the disk they lie class by class."""
    from datasets import Dataset

    # As bytes: a file name need not be text.
    paths = [os.fsencode(file) for those in images.values() for file in those]
    labels = [classes.index(name) for name, those in images.items() for _ in those]
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    data = Dataset.from_dict({"image": [paths[row] for row in order], "label": [labels[row] for row in order]})
    names = tuple(str(file)[len(str(place)) :] for those in images.values() for file in those)
    return Stored(str(place), data, names, (len(paths),), frozenset(labels), "image", "label", classes, listed=True)
