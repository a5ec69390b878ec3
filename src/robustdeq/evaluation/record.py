"""The record of an evaluation: one JSON file, written after every batch, read back to go on."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..files import differences, plain, write_json

SCHEMA = 1
PACKAGES = ("robustdeq", "torch", "pyautoattack", "numpy", "scipy")


class Record:
    """A dict on disk. ``identity`` says what is evaluated; a file with another identity is refused, not overwritten."""

    def __init__(self, path: Path | None, identity: dict[str, Any], *, resume: bool = True) -> None:
        self.path = path
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "identity": identity,
            "environment": environment(),
            "attacks": {},
        }
        if path is not None and path.exists() and resume:
            self.data = self.read(path)
            self._refuse_other(path, self.data, identity)

    def save(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.data)

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """The data of a file, whatever it is a record of."""
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); remove it to evaluate anew.") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"{path} is not a record of schema {SCHEMA}; remove it to evaluate anew.")
        return data

    @staticmethod
    def _refuse_other(path: Path, data: dict[str, Any], identity: dict[str, Any]) -> None:
        differing = differences(data["identity"], plain(identity))
        if differing:
            what = ", ".join(differing)
            raise ValueError(f"{path} belongs to another {what}; give another output folder, or resume=False.")


def environment() -> dict[str, Any]:
    """Versions, commit and hardware: what a number depends on besides its config."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "hardware": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the source tree this package is run from, with a + when it has been changed since; None outside of one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
