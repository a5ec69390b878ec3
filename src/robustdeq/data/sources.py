"""One option for every source of images: ``load``. (`datasets` is imported where it is used: that takes seconds.)"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch

from ..checks import Natural, Seed, Whole
from ..files import first_line, looks_local
from ..options import check_arguments, suggestion
from ..text import printable
from . import images
from .folders import SPLITS, image_folders, parquet_files, tree
from .images import ON_WHITE, check_memory, one_line, open_image, read, say
from .sets import ImageSet, Splits, cut, digits
from .stored import Stored, columns_of, named, parquet
from .streams import StreamedSet

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SHORT = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
SHORT |= {"tiny-imagenet": "zh-plus/tiny-imagenet", "imagenet-1k": "ILSVRC/imagenet-1k"}
"""Names without an owner, and what they stand for."""
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}
TITLES |= {"tinyimagenet": "Tiny-ImageNet", "imagenet1k": "ImageNet-1k"}
"""How a set is called in tables, by its name without case and signs."""
MOST_HELD_OUT = 5000
MAX_SIDE = 2048
"""The largest image_size: hundreds of decoded images wait for their turn, each of 12 MB at this side."""
OPTIONS = ("validation", "image_size", "streaming", "image_column", "label_column")
"""Of ``load``, but for source and seed, as plans write them down."""
TIMEOUT = 5.0
"""Seconds for the hub's first answer; the libraries' own retries begin only after it."""


Side = Annotated[int, Whole(1, MAX_SIDE)]


@one_line()
def load(
    source: str | Path, *, validation: Natural | None = None, seed: Seed = 0, image_size: Side | None = None,
    streaming: bool = False, image_column: str | None = None, label_column: str | None = None,
) -> Splits[Any]:  # fmt: skip
    """Training, validation and test images of a source.

    source: ``digits``; a folder of parquet files or of images (train/CLASS/*.png, ...; links are followed, hidden files
    are not read); or a name on the Hugging Face hub, such as ``uoft-cs/cifar10``, which the `datasets` library keeps in
    its cache ($HF_DATASETS_CACHE). The hub is not asked for a name that looks like a path, nor under HF_HUB_OFFLINE.
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

    Of a source that has a test split and no other, train and validation are empty: it can be judged on.

    Raises a ValueError, one line that names the file (or split) and row: a source, split or column that is not there, a
    broken image, a label that is no class, mixed sizes, an empty split, a damaged file, a hub that cannot be reached.
    """
    hints = {n: hint for n, hint in get_type_hints(load, include_extras=True).items() if n not in ("source", "return")}
    check_arguments("load", locals(), hints)
    columns = {"image_column": image_column, "label_column": label_column}
    if not isinstance(source, str | Path) or source == "":
        raise ValueError(f"load: source={source!r:.100}; allowed: digits, a folder, or a name on the Hugging Face hub.")
    wanted = {name.removesuffix("_column"): column for name, column in columns.items() if column is not None}
    if source == "digits":
        if Path("digits").is_dir():
            say("digits: scikit-learn's are taken; the folder of that name here is ./digits.")
        if streaming or image_size or wanted:
            raise ValueError("digits: image_size, streaming and columns do not apply: they are 8x8 pixels in memory.")
        return digits(validation=100 if validation is None else validation, seed=seed)
    where, name, stored = _find(source, streaming, wanted)
    train, middle, test = _roles(where, named(where, stored))
    splits = _build(name, train, middle, test, 0 if train is test else validation, seed, image_size, streaming)
    return replace(splits, train=splits.validation) if train is test else splits


def _find(source: str | Path, streaming: bool, wanted: Mapping[str, str]) -> tuple[str, str, dict[str, Stored]]:
    """A folder where there is one, else a name on the hub: as errors name it, what it is called, and its splits."""
    from datasets import utils

    path, name = Path(os.path.expanduser(source)), SHORT.get(str(source), str(source))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: a file; allowed: a folder with the files of every split.")
    if not path.exists() and (isinstance(source, Path) or looks_local(source)):
        why = "it was taken for a path (one of another kind than owner/name, or below a folder that is here)"
        raise ValueError(f"{source}: no such folder; {why}, so the hub was not asked; allowed: a folder that exists.")
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
        files = tree(path)
        tables = parquet_files(path, files)
        splits = parquet(str(path), tables, wanted) if tables else image_folders(path, files, wanted)
        return str(path), printable(f"{path.resolve().name or path}/"), splits
    finally:
        if bars:
            utils.enable_progress_bars()


def hub(name: str, streaming: bool, wanted: Mapping[str, str]) -> dict[str, Stored]:
    """A set on the hub: its parquet files, streamed; or all of it from the cache of `datasets`, even offline."""
    from datasets import config, load_dataset_builder
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    problem, before = "", config.HF_HUB_OFFLINE
    try:
        if before or constants.HF_HUB_OFFLINE:  # `datasets` copies it when it is imported
            raise ConnectionError("not asked, since HF_HUB_OFFLINE is set")
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise ValueError(f"{name}: the hub asks for a login; run `hf auth login` and accept its terms.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        there = "no such folder, and no such data set on the hub or a private one"
        raise ValueError(f"{name}: {there} (`hf auth login`).") from error
    except Exception as error:  # no network, a proxy, a certificate, a server error: the client has a class for each
        problem = f"no such folder, and the hub cannot be reached ({type(error).__name__}: {first_line(error)})"
        if streaming:
            raise ValueError(f"{name}: {problem}; give streaming=False for a copy in the `datasets` cache.") from error
    try:
        # Without a hub the cache is looked into at once, not after 20 seconds of asking.
        config.HF_HUB_OFFLINE = before or bool(problem)
        builder = load_dataset_builder(name)
        size, published = builder.info.download_size or 0, builder.config.data_files or {}
        if not streaming and size <= images.MAX_BYTES:
            builder.download_and_prepare()
            published: Any = builder.as_dataset()
    except Exception as error:  # `datasets` has no base class for its errors
        reason = f"{first_line(error.__cause__ or error)}; give a folder or another name"
        reason = f"{problem}, and no copy is in the `datasets` cache; give a folder" if problem else reason
        raise ValueError(f"{name}: {reason}.") from error
    finally:
        config.HF_HUB_OFFLINE = before
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
    """What is trained, validated (None: cut from the training set) and tested on. Where nothing else is there, the test
    images stand for the training images too."""
    hidden = "test" in splits and splits["test"].labels == {-1}
    tested = "test" if "test" in splits and not hidden else "validation"
    trained = "test" if set(splits) == {"test"} and not hidden else "train"
    names = [trained, tested] + (["validation"] if tested == "test" and "validation" in splits else [])
    for name in names:
        if name not in splits:
            there = ", ".join(splits) + (" (labels of test withheld)" if hidden else "")
            raise ValueError(f"{where}: no {name} split; there: {there}; allowed: train, and test or validation.")
        if not len(splits[name]):
            raise ValueError(f"{where}: the {name} split is empty; allowed: at least one image.")
    if unused := sorted(set(splits) - set(names)):
        say(f"{where}: not used: {', '.join(unused)}{' (labels withheld)' * hidden}.")
    return splits[trained], splits["validation"] if len(names) == 3 else None, splits[tested]


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
    stored = {"train": train, "test": test} | ({"validation": middle} if middle else {})
    if train is test:  # which is not read twice
        del stored["test"]
    total = sum(map(len, stored.values()))
    if size and not streaming:  # before anything is decoded
        check_memory(train.where, total, size, size)
    opened = {split: open_image(next(rows.rows(range(1)))) for split, rows in stored.items()}
    shapes = {split: (image.height, image.width) for split, (image, *_) in opened.items()}
    if size is None and len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{split} {width}x{height}" for split, (height, width) in shapes.items())
        raise ValueError(f"{train.where}: splits of several sizes ({sizes}); give image_size=, such as image_size=32.")
    if streaming:
        source = title(name, (len(train), len(test)), len(train.classes), (3, *shapes["train"]), opened["train"][1])
        start = int(torch.randint(len(pool) - count + 1, (), generator=torch.Generator().manual_seed(seed)))
        whole, held = range(len(train)), StreamedSet(pool, (range(start, start + count),), source, size)
        rest = (whole,) if middle else (whole[:start], whole[start + count :])
        tested = StreamedSet(test, (range(len(test)),), source, size)
        return Splits(StreamedSet(train, rest, source, size, random=True), held, tested, seed)
    if size is None:
        check_memory(train.where, total, *shapes["train"])
    decoded = {split: read(rows.rows(range(len(rows))), len(rows), size) for split, rows in stored.items()}
    if any(split.clear for split in decoded.values()):
        say(f"{train.where}: {ON_WHITE}", RuntimeWarning)
    channels, first = 1 if all(split.grey for split in decoded.values()) else 3, decoded["train"]
    shape = (channels, *first.pixels.shape[2:])
    source = title(name, (len(train), len(test)), len(train.classes), shape, first.jpeg)
    sets = {
        split: ImageSet(pixels[:, :channels].contiguous(), labels, train.classes, source)
        for split, (pixels, labels, *_) in decoded.items()
    }
    whole = sets.get("validation", sets["train"])
    # All of a published one is mixed, too: it may be stored by class, and a training judges the first of them.
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    held, rest = cut(whole, (count,), seed) if count < len(pool) else (whole.take(order), whole)
    return Splits(sets["train"] if middle else rest, held, sets.get("test", sets["train"]), seed)


def title(name: str, counts: tuple[int, int], classes: int, shape: tuple[int, ...], jpeg: bool) -> str:
    """The name of a set in tables; of a folder, which ends in /, its own. counts: training and test images. shape:
    (C, H, W) as stored.

    JPEG-coded images of 32x32 are told from the exact ones, since accuracies on them cannot be compared.
    """
    called = TITLES.get(re.sub(r"[^a-z0-9]", "", name.lower()), name) if not name.endswith("/") else name[:-1]
    if shape == (3, 32, 32) and classes == 10 and counts == (50_000, 10_000):
        called = "CIFAR-10"
    return f"{called} (JPEG)" if shape[1:] == (32, 32) and jpeg else called
