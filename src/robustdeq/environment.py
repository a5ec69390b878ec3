"""What a number depends on besides its config: versions, commit, hardware."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("robustdeq", "torch", "pyautoattack", "numpy", "scipy")


def environment(command: bool = False, device: torch.device | None = None) -> dict[str, Any]:
    """Versions, commit, hardware, and what torch was told of precision: what a number depends on besides its config.
    command: the command line, too. device: where it was computed, if that is known."""
    backends: Any = torch.backends
    return {
        **({"command": _command()} if command else {}),
        **({} if device is None else {"device": device.type}),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "hardware": {"cpu": _cpu(), "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
        "threads": torch.get_num_threads(),
        "float32": {  # what stands for it on CUDA, in torch's words: tf32 keeps ten bits
            "products": str(backends.cuda.matmul.fp32_precision),
            "convolutions": str(backends.cudnn.conv.fp32_precision),
        },
        "autocast": {
            kind: str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        },
    }


def keep_freed_memory() -> None:
    """Let glibc's allocator keep what is freed, for this process and those that it starts.

    By default it gives every large block back to the system, and the next tensor of that size is paged in again, zeros
    first. What the environment says of malloc stays.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUN")) for name in os.environ):
        return
    libc, largest, never = ctypes.CDLL(None), 32 * 2**20, 2**31 - 1
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h: below 32 MiB (its upper limit) a block comes from the heap, and
    # the heap's end is never given back.
    for number, name, value in ((-3, "MALLOC_MMAP_THRESHOLD_", largest), (-1, "MALLOC_TRIM_THRESHOLD_", never)):
        libc.mallopt(number, value)
        os.environ[name] = str(value)


def _command() -> str | None:
    """As this process was called, where it is our own."""
    program = Path((sys.argv or [""])[0])
    ours = program.name == "robustdeq" or program == Path(__file__).with_name("__main__.py")
    return shlex.join(["robustdeq", *sys.argv[1:]]) if ours else None


def _cpu() -> str:
    """The processor's model name."""
    with suppress(OSError):
        if name := re.search(r"^model name.*?:(.*)", Path("/proc/cpuinfo").read_text(), re.M):
            return name[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """Of the repository that tracks this very file, with a + when it was changed since; None anywhere else.

    A repository around an installed package says nothing of it, and its settings may name programs for git to start.
    """
    git = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    options: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, **options)
        describe = ["describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run([*git, *describe], check=True, **options).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
