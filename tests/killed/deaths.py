"""Where a process ends itself with SIGKILL: inside one of its writes, or in its n-th call. Not a test itself.

Nothing of the package is replaced: an audit hook is told of every rename, removal, folder and opened file just before
it happens, in whatever process, and a profile function of every call.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "ROBUSTDEQ_DEATH"
SOURCE = str(Path(__file__).parents[2] / "src" / "robustdeq") + os.sep
EVENTS = {
    "half": "os.rename", "written": "os.rename", "renamed": "os.rename", "line": "open", "removing": "os.remove",
    "removed": "os.remove", "made": "os.mkdir",
}  # fmt: skip
WRITES = ("half", "written", "renamed")


@dataclass(frozen=True)
class Death:
    """at: half: half of the temporary file is written; written: all of it, but it is not renamed; renamed: it is, and
    nothing more was done; line: half a line was appended; removing, removed: before and after a file is removed; made:
    after a folder is made; call: in a call of a function of the package. path: pattern of the file's or folder's
    path. nth: which of those. rank: of which process; None of any."""

    at: str
    path: str = "*"
    nth: int = 1
    rank: int | None = None

    def __str__(self) -> str:
        return f"{self.at} {self.path} {self.nth}" + ("" if self.rank is None else f" of rank {self.rank}")

    def to_environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


def arm_from_environment() -> None:
    if text := os.environ.get(VARIABLE):
        arm(Death(**json.loads(text)))


def arm(death: Death | None) -> Any:
    """From now on this process dies there; of several, the one of that rank. Returns what waits for it."""
    if death is None or death.rank not in (None, int(os.environ.get("RANK", "0"))):
        return None
    waiting = Calls(death.nth) if death.at == "call" else Hook(death)
    (sys.setprofile if death.at == "call" else sys.addaudithook)(waiting)
    return waiting


class Calls:
    """Counts the calls of functions of the package, and dies in the n-th; 0: only counts."""

    def __init__(self, nth: int = 0) -> None:
        self.nth, self.count = nth, 0

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            self.count += 1
            if self.count == self.nth:
                die()


class Hook:
    def __init__(self, death: Death) -> None:
        self.death, self.seen, self.event = death, 0, EVENTS[death.at]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != self.event:
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(path, int) or (event == "open" and arguments[1] != "a"):
            return
        path = os.fsdecode(path)
        if fnmatch.fnmatch(path, self.death.path):
            self.seen += 1
            if self.seen == self.death.nth:
                self.end(path, arguments)

    def end(self, path: str, arguments: tuple[Any, ...]) -> None:
        at = self.death.at
        if at == "half":
            os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
        elif at == "renamed":
            os.replace(*arguments[:2])
        elif at == "removed":
            os.unlink(path)
        elif at == "made":
            os.mkdir(path)
        elif at == "line":
            with open(path, "ab") as file:
                file.write(b'{"step": 1, "train": {"lo')
        die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
