"""One option for every source of images: ``load``. (`datasets` is imported where it is used: that takes seconds.)"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch

from ..checks import Count, Natural
from ..files import first_line
from ..options import convert, suggestion
from . import images
from .images import ImageSet, Splits, cut, digits, open_image, read
from .streams import Stored, StreamedSet, columns_of, in_order, named, parquet

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SHORT = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
SHORT |= {"tiny-imagenet": "zh-plus/tiny-imagenet", "imagenet-1k": "ILSVRC/imagenet-1k"}
"""Names without an owner, and what they stand for."""
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}
TITLES |= {"tinyimagenet": "Tiny-ImageNet", "imagenet1k": "ImageNet-1k"}
"""How a set is called in tables, by its name without case and signs."""
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""The names under which a split is published."""
ENDINGS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
MOST_HELD_OUT = 5000
TIMEOUT = 5.0
"""Seconds for the hub's first answer; the libraries' own retries begin only after it."""


def load(
    source: str | Path, *, validation: Natural | None = None, seed: Natural = 0, image_size: Count | None = None,
    streaming: bool = False, image_column: str | None = None, label_column: str | None = None,
) -> Splits[Any]:  # fmt: skip
    """Training, validation and test images of a source.

    source: ``digits``; a folder of parquet files or of images (train/CLASS/*.png, ...); or a name on the Hugging Face
    hub, such as ``uoft-cs/cifar10``, which the `datasets` library keeps in its cache ($HF_DATASETS_CACHE).
    validation: how many images are held out of the training set by ``seed`` (None: a tenth, at most 5,000; of the
    digits 100). A set that publishes validation and test images keeps both: then validation images come from the
    published ones (None: all). Where test labels are missing or withheld (-1), the published validation set is the test
    set.
    image_size: every image becomes a square of this side (the middle of it; when streaming, training batches show
    random crops). None: as stored, all of one size. Of several frames the first is shown, transparency on white.
    streaming: ``StreamedSet``s that read while they are used, instead of uint8 tensors (N, C, H, W) in memory.
    image_column, label_column: which columns to take (CIFAR-100: ``coarse_label``). None: the only column of images or
    one called img or image; the only column of classes, or one called label, labels or fine_label.
    Classes are named as in the file. Class folders and text labels: numbers in their order, then the rest
    alphabetically. Integers without names: "0" to the largest.

    Raises a ValueError, one line that names the file (or split) and row: a source, split or column that is not there, a
    broken image, a label that is no class, mixed sizes, an empty split, a damaged file, a hub that cannot be reached.
    """
    columns = {"image_column": image_column, "label_column": label_column}
    options = {"validation": validation, "seed": seed, "image_size": image_size, "streaming": streaming, **columns}
    hints = get_type_hints(load, include_extras=True)
    for name, value in options.items():
        convert("load", name, value, hints[name])
    if not isinstance(source, str | Path) or source == "":
        raise ValueError(f"load: source={source!r}; allowed: digits, a folder, or a name on the Hugging Face hub.")
    wanted = {name.removesuffix("_column"): column for name, column in columns.items() if column is not None}
    if str(source) == "digits":
        if streaming or image_size or wanted:
            raise ValueError("digits: image_size, streaming and columns do not apply: they are 8x8 pixels in memory.")
        return digits(validation=100 if validation is None else validation, seed=seed)
    where, name, splits = _find(str(source), streaming, wanted)
    return _build(name, *_roles(where, named(where, splits)), validation, seed, image_size, streaming)


def _find(source: str, streaming: bool, wanted: Mapping[str, str]) -> tuple[str, str, dict[str, Stored]]:
    """A folder where there is one, else a name on the hub: as errors name it, what it is called, and its splits."""
    from datasets import utils

    path, name = Path(source).expanduser(), SHORT.get(source, source)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: a file; allowed: a folder with the files of every split.")
    if not path.exists() and not HUB_NAME.fullmatch(name):
        raise ValueError(
            f"unknown data set {source!r}: no such folder{suggestion(source, ['digits', *SHORT])}; allowed: digits, "
            f"{', '.join(SHORT)}, a folder that exists, or a name on the Hugging Face hub (owner/name)."
        )
    # What this logger says goes into the error that we raise.
    logging.getLogger("datasets.packaged_modules.parquet.parquet").disabled = True
    bars = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        if not path.exists():
            return name, name.split("/")[-1], hub(name, streaming, wanted)
        files = parquet_files(path)
        splits = parquet(str(path), files, wanted) if files else image_folders(path, wanted)
        return str(path), path.resolve().name, splits
    finally:
        if bars:
            utils.enable_progress_bars()


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """The files of each split, read off the file's name or else off its folders, the nearest first; in order.

    (The patterns of `datasets` would take test_sets/train.parquet for both, and would not miss a shard.)
    """
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        names = file.relative_to(folder).parts
        words = re.findall("[a-z]+", " ".join((file.stem, *names[-2::-1])).lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), None)
        if any(name.startswith(".") for name in names):
            continue
        if split is None:
            warnings.warn(f"{file}: not read; its name tells no split.", stacklevel=4)
        else:
            splits.setdefault(split, []).append(file)
    for split, files in splits.items():
        if len(places := sorted({str(file.parent) for file in files})) > 1:
            raise ValueError(f"{folder}: {split} files in several folders ({', '.join(places)}); give one of them.")
        shards = [re.search(r"-(\d{5})-of-(\d{5})", file.stem) for file in files]
        numbers, totals = {int(shard[1]) for shard in shards if shard}, {int(shard[2]) for shard in shards if shard}
        if totals and (len(totals) > 1 or len(numbers) < len(files)):
            raise ValueError(f"{places[0]}: {', '.join(f.name for f in files)}: these are not shards of one split.")
        if missing := set(range(max(totals, default=0))) - numbers:
            raise ValueError(f"{files[0]}: shard {min(missing)} of {max(totals)} is missing beside it.")
    return {split: [str(file) for file in files] for split, files in splits.items()}


def image_folders(folder: Path, wanted: Mapping[str, str]) -> dict[str, Stored]:
    """Class folders of images; hidden files, and others than images, are passed over.

    (`imagefolder` takes the innermost folder for the class, and drops dangling links.)
    """
    from datasets import Dataset

    places = [place for place in sorted(folder.iterdir()) if place.is_dir() and place.name.lower() in SPLITS]
    splits = {SPLITS[place.name.lower()]: place for place in places}
    if len(splits) < len(places):
        raise ValueError(f"{folder}: of {', '.join(p.name for p in places)} two are the same split; keep one of them.")
    if not splits:
        raise ValueError(
            f"{folder}: no parquet file and no image folder of any split; allowed: train.parquet and test.parquet, "
            "data/train-00000-of-00001.parquet, ..., or train/CLASS/*.png, test/CLASS/*.png, ..."
        )
    if wanted:
        raise ValueError(f"{folder}: image_column and label_column do not apply; there is no parquet file.")
    classes: tuple[str, ...] = ()
    stored: dict[str, Stored] = {}
    for split in sorted(splits, key="train".__ne__):  # the training set first: it says what the classes are
        place, paths, labels = splits[split], [], []
        folders = {path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")}
        classes = in_order(folders) if split == "train" else classes
        if strange := sorted(folders - set(classes)) if "train" in splits else []:
            raise ValueError(f"{place / strange[0]}: no class of the training set; allowed: {', '.join(classes)}.")
        for name in sorted(folders & set(classes), key=classes.index):
            below = sorted((place / name).rglob("*"))
            below = [path for path in below if "/." not in path.relative_to(place).as_posix()]
            if dangling := [path for path in below if path.is_symlink() and not path.exists()]:
                raise ValueError(f"{dangling[0]}: a link to a file that is not there.")
            files = [str(path) for path in below if path.suffix.lower() in ENDINGS and path.is_file()]
            if not files:
                raise ValueError(f"{place / name}: no image; allowed: at least one for each class folder.")
            paths, labels = paths + files, labels + [classes.index(name)] * len(files)
        # Mixed in an order that is always the same one, since on the disk they lie class by class.
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
        data = Dataset.from_dict({"image": [paths[row] for row in order], "label": [labels[row] for row in order]})
        names, sizes = tuple(path[len(str(place)) :] for path in paths), (len(paths),)
        stored[split] = Stored(str(place), data, names, sizes, frozenset(labels), "image", "label", classes)
    return stored


def hub(name: str, streaming: bool, wanted: Mapping[str, str]) -> dict[str, Stored]:
    """A set on the hub: its parquet files, streamed; or all of it from the cache of `datasets`, even offline."""
    from datasets import config, load_dataset_builder
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    problem, offline = "", config.HF_HUB_OFFLINE
    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise ValueError(f"{name}: the hub asks for a login; run `hf auth login` and accept its terms.") from error
    except RepositoryNotFoundError as error:
        there = "no such folder, and no such data set on the hub or a private one"
        raise ValueError(f"{name}: {there} (`hf auth login`).") from error
    except Exception as error:  # no network, a proxy, a certificate, a server error: the client has a class for each
        problem = f"no such folder, and the hub cannot be reached ({type(error).__name__}: {first_line(error)})"
        if streaming:
            raise ValueError(f"{name}: {problem}.") from error
    try:
        # Without a hub the cache is looked into at once, not after 20 seconds of asking.
        config.HF_HUB_OFFLINE = offline or bool(problem)
        builder = load_dataset_builder(name)
        size, published = builder.info.download_size or 0, builder.config.data_files or {}
        if not streaming and size <= images.MAX_BYTES:
            builder.download_and_prepare()
            published: Any = builder.as_dataset()
    except Exception as error:  # `datasets` has no base class for its errors
        reason = f"{first_line(error.__cause__ or error)}; give a folder or another name"
        reason = f"{problem}, and no copy is in the `datasets` cache" if problem else reason
        raise ValueError(f"{name}: {reason}.") from error
    finally:
        config.HF_HUB_OFFLINE = offline
    splits: dict[str, Any] = {SPLITS.get(str(split), str(split)): data for split, data in published.items()}
    if streaming:
        other = [file for files in splits.values() for file in files if not file.endswith(".parquet")]
        if other or not splits:
            raise ValueError(f"{name}: {(other or ['no file'])[0]}: only parquet files stream; give streaming=False.")
        return parquet(name, splits, wanted)
    if size > images.MAX_BYTES:
        raise ValueError(f"{name}: {size / 2**30:.0f} GiB to download; give streaming=True.")
    stored = {}
    for split, data in splits.items():
        columns = columns_of(data.features, f"{name} {split}", wanted)
        labels = frozenset(data.unique(columns[1]) if split == "test" or not columns[2] else ())
        stored[split] = Stored(f"{name} {split}", data, (name,), (len(data),), labels, *columns[:3])
    return stored


def _roles(where: str, splits: Mapping[str, Stored]) -> tuple[Stored, Stored | None, Stored]:
    """What is trained, validated (None: cut from the training set) and tested on."""
    hidden = "test" in splits and splits["test"].labels == {-1}
    tested = "test" if "test" in splits and not hidden else "validation"
    names = ["train", tested] + (["validation"] if tested == "test" and "validation" in splits else [])
    for name in names:
        if name not in splits:
            there = ", ".join(splits) + (" (labels of test withheld)" if hidden else "")
            raise ValueError(f"{where}: no {name} split; there: {there}; allowed: train, and test or validation.")
        if not len(splits[name]):
            raise ValueError(f"{where}: the {name} split is empty; allowed: at least one image.")
    if unused := sorted(set(splits) - set(names)):
        warnings.warn(f"{where}: not used: {', '.join(unused)}{' (labels withheld)' * hidden}.", stacklevel=3)
    return splits["train"], splits["validation"] if len(names) == 3 else None, splits[tested]


def _build(
    name: str, train: Stored, middle: Stored | None, test: Stored,
    validation: int | None, seed: int, size: int | None, streaming: bool,
) -> Splits[Any]:  # fmt: skip
    """Validation images are held out of the published validation set (``middle``), or else of the training set.

    In memory they are drawn one by one. Of a stream they are one run of rows, as random as the stored order is: to cut
    it row by row would be to read all of it.
    """
    pool, most = middle or train, len(middle) if middle else len(train) - 1
    usual = most if middle else min(MOST_HELD_OUT, len(pool) // 10)
    if (count := usual if validation is None else validation) > most:
        raise ValueError(f"load: validation={validation} of {len(pool)} images; allowed: at most {most}.")
    if streaming:
        image, jpeg = open_image(next(train.rows(range(1))))
        source = title(name, (len(train), len(test)), len(train.classes), (3, image.height, image.width), jpeg)
        start = int(torch.randint(len(pool) - count + 1, (), generator=torch.Generator().manual_seed(seed)))
        whole, held = range(len(train)), StreamedSet(pool, (range(start, start + count),), source, size)
        rest = (whole,) if middle else (whole[:start], whole[start + count :])
        tested = StreamedSet(test, (range(len(test)),), source, size)
        return Splits(StreamedSet(train, rest, source, size, random=True), held, tested, seed)
    stored = {"train": train, "validation": middle, "test": test}
    decoded = {split: read(rows.rows(range(len(rows))), len(rows), size) for split, rows in stored.items() if rows}
    shapes = {split: tuple(pixels.shape[2:]) for split, (pixels, *_) in decoded.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{split} {width}x{height}" for split, (height, width) in shapes.items())
        raise ValueError(f"{train.where}: splits of several sizes ({sizes}); give image_size.")
    channels, jpeg = 1 if all(grey for *_, grey, _ in decoded.values()) else 3, decoded["train"][3]
    source = title(name, (len(train), len(test)), len(train.classes), (channels, *shapes["train"]), jpeg)
    sets = {
        split: ImageSet(pixels[:, :channels].contiguous(), labels, train.classes, source)
        for split, (pixels, labels, *_) in decoded.items()
    }
    whole = sets.get("validation", sets["train"])
    held, rest = cut(whole, (count,), seed) if count < len(pool) else (whole, whole)
    return Splits(sets["train"] if middle else rest, held, sets["test"], seed)


def title(name: str, counts: tuple[int, int], classes: int, shape: tuple[int, ...], jpeg: bool) -> str:
    """The name of a set in tables. counts: training and test images. shape: (C, H, W) as stored.

    JPEG-coded images of 32x32 are told from the exact ones, since accuracies on them cannot be compared.
    """
    called = TITLES.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)
    if shape == (3, 32, 32) and classes == 10 and counts == (50_000, 10_000):
        called = "CIFAR-10"
    return f"{called} (JPEG)" if shape[1:] == (32, 32) and jpeg else called
