"""Files that are either the old one or the new one, never half of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, then rename. An OSError names ``path``."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def claim(file: Path, plan: dict[str, Any]) -> None:
    """Write down what the file's folder is for; a ValueError if it is for something else already."""
    plan = plain(plan)
    if file.exists():
        try:
            known = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} cannot be read ({error}); give another --out.") from error
        differing = differences(known, plan)
        if differing:
            raise ValueError(
                f"{file.parent} holds a run with another {', '.join(differing)}; give another --out, or remove it."
            )
    elif file.parent.exists() and any(file.parent.iterdir()):
        raise ValueError(f"{file.parent} is not empty and holds no {file.name}; give an empty --out.")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, plan)


def plain(value: Any) -> Any:
    """The value as JSON would read it back: tuples are lists."""
    return json.loads(json.dumps(value))


def differences(known: Any, wanted: Any, at: str = "") -> list[str]:
    """The dotted names of what differs between two JSON values."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        names = dict.fromkeys([*wanted, *known])
        return [d for name in names for d in differences(known.get(name), wanted.get(name), f"{at}.{name}".lstrip("."))]
    return [] if known == wanted else [at]


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough for a line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
