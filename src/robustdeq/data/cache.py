"""Decoded sets on the disk, so that a set is decoded once: safetensors under the hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import PIL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_bytes
from .decode import Decoded

FORMAT = 1
"""Goes up when a set is decoded differently."""
STALE = 3600.0
"""Seconds after which a temporary file is the leftover of a killed run."""


def cache_folder() -> Path:
    """``$ROBUSTDEQ_CACHE``, or ~/.cache/robustdeq."""
    return Path(os.environ.get("ROBUSTDEQ_CACHE") or Path.home() / ".cache" / "robustdeq").expanduser()


def hash_files(files: Iterable[Path]) -> str:
    """sha256 over names and contents."""
    total = hashlib.sha256()
    for file in files:
        digest = hashlib.sha256()
        with open(file, "rb") as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
        total.update(f"{file.name}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def hash_tensors(*tensors: Tensor) -> str:
    """sha256 over the values."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.flatten().numpy().data)
    return total.hexdigest()


def cached(facts: dict[str, Any], make: Callable[[], Decoded]) -> Decoded:
    """What ``make`` gives, from the cache where it is there and whole.

    facts: everything that decides the result, as JSON. A damaged file is made anew with a warning; a cache that cannot
    be written only costs a warning.
    """
    facts = {"format": FORMAT, "pillow": PIL.__version__, **facts}
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]
    file = cache_folder() / "images" / f"{name}.safetensors"
    if file.exists():
        try:
            return read(file)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            warnings.warn(f"{file}: damaged ({error}); it is made anew.", RuntimeWarning, stacklevel=2)
    made = make()
    try:
        write(file, made, facts)
    except OSError as error:
        warnings.warn(f"{file}: cannot be written ({error}); set ROBUSTDEQ_CACHE.", RuntimeWarning, stacklevel=2)
    return made


def read(file: Path) -> Decoded:
    """Raises a ValueError when the content is not what was written."""
    with safe_open(file, framework="pt") as stored:
        pixels, labels = stored.get_tensor("pixels"), stored.get_tensor("labels")
        metadata = stored.metadata() or {}
    if hash_tensors(pixels, labels) != metadata.get("sha256"):
        raise ValueError("the content does not match its hash")
    return Decoded(pixels, labels, metadata["jpeg"] == "1")


def write(file: Path, decoded: Decoded, facts: dict[str, Any]) -> None:
    """Under a temporary name, renamed when it is whole; leftovers of killed runs are removed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for left in file.parent.glob(".*.safetensors.*"):
        if time.time() - left.stat().st_mtime > STALE:
            left.unlink(missing_ok=True)
    metadata = {
        "sha256": hash_tensors(decoded.pixels, decoded.labels),
        "jpeg": str(int(decoded.jpeg)),
        "facts": json.dumps(facts),
    }
    write_bytes(file, save({"pixels": decoded.pixels, "labels": decoded.labels}, metadata))
