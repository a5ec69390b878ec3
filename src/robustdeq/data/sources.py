"""One option for every source of images: ``load``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, overload

from ..options import suggestion
from .cache import cached, hash_files
from .catalogue import Catalogue
from .decode import Decoded, decode_all, open_image
from .digits import digits
from .images import ImageSet, Splits, cut
from .rows import Shard, hold_out
from .streamed import StreamedSet

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "Tiny-ImageNet",
    "imagenet1k": "ImageNet-1k",
    "mnist": "MNIST",
}
"""How a set is called in tables, by its name without case and signs."""

MOST_HELD_OUT = 5000


@overload
def load(
    source: str | Path,
    *,
    validation: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    streaming: Literal[False] = False,
) -> Splits[ImageSet]: ...


@overload
def load(
    source: str | Path, *, validation: int | None = None, seed: int = 0, image_size: int | None = None, streaming: bool
) -> Splits[ImageSet] | Splits[StreamedSet]: ...


def load(
    source: str | Path,
    *,
    validation: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    streaming: bool = False,
) -> Splits[ImageSet] | Splits[StreamedSet]:
    """Training, validation and test images of a source.

    source: ``digits``; a folder of parquet files or of images in class folders; or a name on the Hugging Face hub, such
    as ``uoft-cs/cifar10``.
    validation: how many images are held out of the training set by ``seed`` (None: a tenth, at most 5,000; of the
    digits 100). A set that publishes validation and test images keeps both: then validation images come from the
    published ones (None: all). Where test labels are missing, the published validation set is the test set.
    image_size: every image becomes a square of this side (the middle of it; when streaming, training batches show
    random crops). None: as stored, all of one size.
    streaming: ``StreamedSet``s that read while they are used, instead of uint8 tensors in memory, decoded once and kept
    in ``$ROBUSTDEQ_CACHE`` (~/.cache/robustdeq).

    Raises a ValueError, one line that names the file and the row: a source, split or column that is not there, a broken
    image, mixed sizes, an empty split, a damaged file, a hub that cannot be reached.
    """
    _check_counts(validation=(validation, 0), seed=(seed, 0), image_size=(image_size, 1))
    if source == "digits":
        if image_size or streaming:
            raise ValueError("digits: image_size and streaming do not apply; the digits are 8x8 pixels in memory.")
        return digits(validation=100 if validation is None else validation, seed=seed)
    catalogue = _find(str(source), streaming)
    made = _streams if streaming else _in_memory
    return made(catalogue, validation, seed, image_size)


def _check_counts(**given: tuple[int | None, int]) -> None:
    for name, (value, low) in given.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ValueError(f"load: {name}={value!r}; allowed: an integer of at least {low}.")


def _find(source: str, streaming: bool) -> Catalogue:
    """A folder where there is one, else a name on the hub. (Imported here: `import robustdeq` needs no pyarrow.)"""
    path = Path(source).expanduser()
    if path.exists():
        from .local import open_folder

        return open_folder(path)
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise ValueError(f"{source}: no such folder.")
    from .hub import SHORT, open_hub

    name = SHORT.get(source, source)
    if not HUB_NAME.fullmatch(name):
        raise ValueError(
            f"unknown data set {source!r}{suggestion(source, ['digits', *SHORT])}; allowed: digits, "
            f"{', '.join(SHORT)}, a folder that exists, or a name on the Hugging Face hub (owner/name)."
        )
    return open_hub(name, streaming)


def _held_out(validation: int | None, total: int, published: bool) -> int:
    """How many validation images: all or some of a published validation set, or some of a training set of ``total``."""
    if validation is None:
        return total if published else min(MOST_HELD_OUT, total // 10)
    most = total if published else total - 1
    if validation > most:
        raise ValueError(f"load: validation={validation} of {total} images; allowed: at most {most}.")
    return validation


def _in_memory(catalogue: Catalogue, validation: int | None, seed: int, image_size: int | None) -> Splits[ImageSet]:
    parts = catalogue.parts()
    decoded = {split: _decode(catalogue, split, image_size) for split in parts if split}
    _check_same_size(catalogue, decoded)
    channels = max(part.pixels.shape[1] for part in decoded.values())
    counts = [len(decoded[parts.train].labels), len(decoded[parts.test].labels)]
    shape = (channels, *decoded[parts.train].pixels.shape[2:])
    source = title(catalogue.title, counts, len(catalogue.classes), shape, decoded[parts.train].jpeg)
    sets = {
        split: ImageSet(part.pixels.expand(-1, channels, -1, -1).contiguous(), part.labels, catalogue.classes, source)
        for split, part in decoded.items()
    }
    train, pool = sets[parts.train], sets[parts.validation or parts.train]
    count = _held_out(validation, len(pool), published=parts.validation is not None)
    if parts.validation is None:
        held, train = cut(train, (count,), seed)
    else:
        held = pool if count == len(pool) else cut(pool, (count,), seed)[0]
    return Splits(train, held, sets[parts.test], seed)


def _decode(catalogue: Catalogue, split: str, image_size: int | None) -> Decoded:
    """From the cache where the files are the same ones, else afresh."""
    shards, files = catalogue.shards[split], catalogue.files.get(split)
    if not files:
        return decode_all(shards, image_size)
    facts = {"files": hash_files(files), "reading": catalogue.reading, "split": split, "image_size": image_size}
    return cached(facts, lambda: decode_all(shards, image_size))


def _check_same_size(catalogue: Catalogue, decoded: dict[str, Decoded]) -> None:
    sizes = {split: tuple(part.pixels.shape[2:]) for split, part in decoded.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{split} {width}x{height}" for split, (height, width) in sizes.items())
        raise ValueError(f"{catalogue.where}: splits of several sizes ({found}); give image_size.")


def _streams(catalogue: Catalogue, validation: int | None, seed: int, image_size: int | None) -> Splits[StreamedSet]:
    """Validation rows are held out in runs, see ``hold_out``."""
    parts = catalogue.parts()
    count = {split: catalogue.count(split) for split in parts if split}
    image, jpeg = open_image(next(chain.from_iterable(shard.rows() for shard in catalogue.shards[parts.train])))
    shape = (3, image.height, image.width)
    source = title(catalogue.title, [count[parts.train], count[parts.test]], len(catalogue.classes), shape, jpeg)

    def stream(shards: Sequence[Shard], rows: int, random: bool = False) -> StreamedSet:
        return StreamedSet(tuple(shards), catalogue.classes, source, image_size, random, count=rows)

    pool = parts.validation or parts.train
    wanted = _held_out(validation, count[pool], published=parts.validation is not None)
    whole = wanted == count[pool]
    held, rest = (catalogue.shards[pool], []) if whole else hold_out(catalogue.shards[pool], wanted, seed)
    if parts.validation is None:
        train = stream(rest, count[pool] - wanted, random=True)
    else:
        train = stream(catalogue.shards[parts.train], count[parts.train], random=True)
    return Splits(train, stream(held, wanted), stream(catalogue.shards[parts.test], count[parts.test]), seed)


def title(name: str, counts: Sequence[int], classes: int, shape: tuple[int, ...], jpeg: bool) -> str:
    """The name of a set in tables. counts: training and test images. shape: (C, H, W) as stored.

    JPEG-coded images of 32x32 are told from the exact ones, since accuracies on them cannot be compared.
    """
    known = TITLES.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)
    if shape == (3, 32, 32) and classes == 10 and list(counts) == [50_000, 10_000]:
        known = "CIFAR-10"
    return f"{known} (JPEG)" if shape[1:] == (32, 32) and jpeg else known
