"""Starts a command of one or two processes, ends it, and compares what it leaves. Not a test itself."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import FORK, LAUNCHER
from safetensors import safe_open

from robustdeq import files
from robustdeq.cli import main

from .deaths import Death, arm

HERE = Path(__file__).parent
COUNTED = Death("call", nth=0)
MARK = "ROBUSTDEQ_KILLED"
"""In the environment of whatever works on a folder."""
TIMES = {"seconds", "images_per_second", "memory_gib", "environment", "environments"}
"""Of JSON: what no two runs share."""


@dataclass(frozen=True)
class Verb:
    """words: all but --out. ranks: how many processes. real: started as a user would (two of them by torchrun); else
    they are forks, which have everything imported already."""

    words: tuple[str, ...]
    ranks: int = 1
    real: bool = False


class Attempt:
    """A command under way. ``pids``: of its processes, the launcher of real ones first."""

    def __init__(self, verb: Verb, out: Path, death: Death | None = None) -> None:
        self.verb, self.out, self.said, self.began = verb, out, out.with_suffix(".said"), time.monotonic()
        words = [*verb.words, "--out", str(out)]
        place = {MARK: str(out), "PYTHONPATH": str(HERE)}
        place |= {} if death is None else death.to_environment()
        if verb.real:
            command = [*(LAUNCHER if verb.ranks > 1 else [sys.executable]), "-m", "robustdeq", *words]
            environment = {**os.environ, **place}
            with self.said.open("w") as said:
                self.process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            self.pids = [self.process.pid]
            return
        if verb.ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(verb.ranks)}
        self.said.write_text("")
        self.forks = [FORK.Process(target=_fork, args=(words, place, r, death, self.said)) for r in range(verb.ranks)]
        for process in self.forks:
            process.start()
        self.pids = [process.pid for process in self.forks]

    @property
    def codes(self) -> list[int | None]:
        """Of every process; None while it is at work."""
        return [self.process.poll()] if self.verb.real else [process.exitcode for process in self.forks]

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        until = time.monotonic() + seconds
        while None in self.codes and time.monotonic() < until:
            time.sleep(0.005)
        return None not in self.codes

    def end(self, patience: float = 150) -> list[int]:
        """Wait for the end, and return the codes. As torchrun does, end the others when one of several has died."""
        until = time.monotonic() + patience
        told = False
        while None in self.codes:
            if not told and any(self.codes):
                self.signal(signal.SIGTERM)
                told, until = True, min(until, time.monotonic() + 30)  # after 30 s torchrun sends SIGKILL
            if time.monotonic() > until:
                hung = self.codes
                self.signal(signal.SIGKILL)
                raise AssertionError(f"{self.out} hangs, codes {hung}:\n{self.last_words}")
            time.sleep(0.005)
        return [code for code in self.codes if code is not None]

    def signal(self, number: int, ranks: list[int] | None = None) -> None:
        """To those processes that are at work."""
        for rank, (pid, code) in enumerate(zip(self.pids, self.codes)):
            if code is None and (ranks is None or rank in ranks):
                os.kill(pid, number)

    @property
    def last_words(self) -> str:
        return self.said.read_text(errors="replace")[-2500:]


def _fork(words: list[str], place: dict[str, str], rank: int, death: Death | None, said: Path) -> None:
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ |= {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.modules["__main__"] = importlib.import_module("robustdeq.__main__")  # so it is with python -m robustdeq
    counter = arm(death)
    code = main(words)
    sys.setprofile(None)
    if death == COUNTED and rank == 0:
        said.with_suffix(".calls").write_text(str(counter.count))
    sys.stdout.flush()
    sys.exit(code)


def finish(verb: Verb, out: Path) -> float:
    """Given again without a kill, it ends as it should. Seconds that it took."""
    attempt = Attempt(verb, out)
    codes = attempt.end()
    assert not any(codes), f"given again, {out} ends with {codes}:\n{attempt.last_words}"
    return time.monotonic() - attempt.began


def workers(out: Path) -> dict[int, str]:
    """Of every process that was started for this folder and is not a fork of ours: its id and its command line."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = ((place / name).read_bytes() for name in ("cmdline", "environ"))
            state = (place / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z" and (f"{MARK}={out}\0".encode() in environment or f"{out}\0".encode() in line):
            found[int(place.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def no_orphans(out: Path, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while (left := workers(out)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still at work on {out} after {seconds} s: {left}"


def same(out: Path, whole: Path) -> None:
    """What counts in the two folders has the same bits, and nothing is left of a kill."""
    left = [path for path in out.rglob("*") if path.name == files.LOCK or files.TEMPORARY.fullmatch(path.name)]
    assert not left, f"left behind: {left}"
    one, two = content(out), content(whole)
    assert one.keys() == two.keys(), f"{out}: {sorted(one.keys() ^ two.keys())} in only one of them"
    differing = [name for name in one if one[name] != two[name]]
    assert not differing, f"{out}: {differing} differ from those of a run that was never killed ({whole})"


def content(folder: Path) -> dict[str, Any]:
    """Every file but TensorBoard's events, without times."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    return {str(path.relative_to(folder)): _content(path) for path in paths}


def _content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kinds = [(row["step"], "epoch" in row) for row in rows]
        assert len(set(kinds)) == len(kinds), f"{path}: a step twice in {kinds}"
        return [timeless(row) for row in rows]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".md":  # what work cost is told there in words
        return re.sub(r"\d[\d.,]*(?= (?:s|seconds|minutes|hours|images/s)\b)", "?", path.read_text())
    if path.suffix == ".html":  # a report names its folder and draws seconds; what it draws from is compared above
        return path.read_text().rstrip().endswith("</html>")
    if path.name != "last.safetensors":
        return path.read_bytes()
    with safe_open(path, framework="pt") as file:
        header = timeless(json.loads(file.metadata()["robustdeq"]))
        return header, {key: files.digest(file.get_tensor(key)) for key in sorted(file.keys())}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Whole:
    """A run that was never killed: its folder, how long it took, and how many calls (of rank 0) it made."""

    out: Path
    seconds: float
    calls: int


def whole(verb: Verb, out: Path, count: bool) -> Whole:
    """count: make it a second time, and count its calls."""
    seconds = finish(verb, out)
    if not count:
        return Whole(out, seconds, 0)
    counted = Attempt(verb, out.with_name(f"{out.name} counted"), COUNTED)
    assert not any(counted.end()), counted.last_words
    same(counted.out, out)
    return Whole(out, seconds, int(counted.said.with_suffix(".calls").read_text()))
