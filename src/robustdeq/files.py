"""Files that are either the old one or the new one, never half of it; and tensors that are what was written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .options import by_name

LOCK = ".lock"
"""Lies in a folder while a process works there."""
TEMPORARY = re.compile(r"\.(.+\.(json|jsonl|safetensors|md|csv|png|svg|html)|wandb-id)\.[a-z0-9_]{8}")
"""Names of what is not yet whole; a kill may leave one behind."""
DIGEST = "sha256"
OURS = ("runs", "models", "weights", "results", "data", "examples")
"""Folders that documentation and users keep things in: names that begin so are meant as paths."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, then rename. An OSError names ``path``."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    with suppress(OSError, AttributeError):  # the new name is on the disk when the folder is; not every system has this
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode(errors="backslashreplace"))  # names on a disk may hold what no text may


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, todo: str) -> Any:
    """The value in a JSON file. todo: what to do where it cannot be read, for the ValueError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=by_name)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}); {todo}.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """A safetensors file with a digest of all of it in its header."""
    # Contiguous copies on the CPU: the format refuses tensors that share memory (tied weights).
    copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    data = save(copies, metadata={**metadata, DIGEST: _seal(copies, metadata)})
    # safetensors writes metadata in an order that changes from call to call; equal contents shall be equal files.
    body = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:body])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(path, b"".join([len(text).to_bytes(8, "little"), text, data[body:]]))


def read_tensors(path: Path, todo: str, *, foreign: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and metadata; a ValueError unless they are those that were written.

    todo: see ``read_json``. foreign: it may be another program's file, which has no digest.
    """
    try:
        with path.open("rb"), safe_open(path, framework="pt") as file:  # the second calls a forbidden file missing
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}); {todo}.") from error
    stated = metadata.pop(DIGEST, None)
    if stated != _seal(tensors, metadata) and not (foreign and stated is None):
        raise ValueError(f"{path} is damaged: its digest is of other tensors, or of another header; {todo}.")
    return tensors, metadata


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        # Flat first: of a 1x1 convolution torch calls any memory format contiguous. Nothing is copied where it lies so.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        flat = flat if flat.stride(0) == 1 else flat.clone()
        hashed.update(flat.view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes, bytes and metadata, whatever their order."""
    names = sorted(tensors)
    header = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    content = [header, sorted(metadata.items()), digest(*(tensors[name] for name in names))]
    return json_digest(content)


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def held(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Inside, the folder is this process's alone; a ValueError where it is another's already. wanted: False locks
    nothing.

    A folder that was made here and got nothing is taken away again.
    """
    if not wanted:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; allowed: a folder, or a name that nothing has.")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            try:
                yield
            finally:
                (folder / LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise ValueError(f"{folder} is in use by another process; wait for it, or give another folder.") from error
    finally:
        with suppress(OSError):  # not empty
            for place in missing:
                place.rmdir()


def claim(file: Path, plan: dict[str, Any]) -> None:
    """Write down what the file's folder is for; a ValueError if it is for something else already.

    What a killed process of ours left half written there is removed.
    """
    plan, folder = plain(plan), file.parent
    if file.exists():
        if differing := differences(read_json(file, "give another --out, or remove it"), plan):
            raise ValueError(f"{folder} holds a run with another {', '.join(differing)}; give another --out.")
    elif folder.exists() and any(path.name != LOCK and not TEMPORARY.fullmatch(path.name) for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no {file.name}; give an empty --out.")
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    write_json(file, plan)


def tidy(folder: Path) -> None:
    """Remove what is half written in a folder of ours and below, but not where another process is at work."""
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not (Path(place) / name / LOCK).exists()]
        for name in filter(TEMPORARY.fullmatch, files):
            (Path(place) / name).unlink(missing_ok=True)


def looks_local(name: str) -> bool:
    """Whether a name that is no folder is meant as one, so that the hub must not be asked for a stranger's copy."""
    first, *rest = name.split("/")
    return name.startswith((".", "~", "/")) or "\\" in name or len(rest) > 1 or first in OURS or Path(first).is_dir()


def plain(value: Any) -> Any:
    """The value as JSON would read it back: tuples are lists."""
    return json.loads(json.dumps(value))


def differences(before: Any, wanted: Any, at: str = "") -> list[str]:
    """The dotted names of what differs between two JSON values."""
    if not (isinstance(before, dict) and isinstance(wanted, dict)):
        return [] if before == wanted else [at or "content"]
    names: list[str] = []
    for name in dict.fromkeys([*wanted, *before]):
        names += differences(before.get(name), wanted.get(name), f"{at}.{name}".lstrip("."))
    return names


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough for a line of ours."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:160]
