"""The law that every bad input meets, in one place: a mistake is told in a line or two, and nothing is left behind.

How many cases are drawn is one knob: a test says what it draws in `make test`, and ten times as many with ``-m slow``.
FUZZ_REPORT=FILE writes every case down as a line of JSON, and no test fails: for a list of what is wrong, and counts.
FUZZ_SEED=N draws other cases than those of seed 0.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from robustdeq.cli import main

SLOW = 10
"""How many times more cases ``-m slow`` draws."""
LINES, LONG = 2, 1000
"""Of a mistake in a Python call."""
LONG_LINE = 1100
"""Of the command line: what lists a dozen keys of a model may take some lines of a terminal, not a page."""
SECONDS = 20.0
"""Of this process's own time, after which a case counts as endless."""
MEMORY, GROWTH = 4 * 2**30, 2**29
"""Bytes: what a case can have at all, and by how much it may raise the most this process ever held."""


def cases(count: int):
    """A test gets ``runs``, the number of cases that it draws: ``count``, and of the slow tests ten times as many."""
    slow = pytest.param(SLOW * count, marks=[pytest.mark.slow, pytest.mark.timeout(1500)], id="slow")
    return pytest.mark.parametrize("runs", [pytest.param(count, id="fast"), slow])


def every(runs: int, body: Callable[..., None], *strategies: SearchStrategy[Any]) -> None:
    """``body`` for so many draws, which are the same on every machine. Nothing is shrunk: a case can cost a second."""
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    options: dict[str, Any] = {"max_examples": runs, "deadline": None, "database": None, "phases": [Phase.generate]}
    drawn = settings(**options, suppress_health_check=health)(given(*strategies)(body))
    seed(int(os.environ.get("FUZZ_SEED", "0")))(drawn)()


class Endless(BaseException):
    """No Exception, so that nobody on the way up takes it for an answer."""


class Ended(NamedTuple):
    """How a command ended. code: None where something was raised, which ``shown`` then names."""

    code: int | None
    shown: str
    printed: str


@contextmanager
def limits() -> Iterator[list[str]]:
    """Inside, time and memory have an end. The list gets what was too much."""
    found: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    before, peak = signal.signal(signal.SIGPROF, _stop), _peak()
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)  # and again, where a callback swallowed it; pytest has SIGALRM
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if (grown := _peak() - peak) > GROWTH:
            found.append(f"{grown / 2**30:.1f} GiB more memory than ever before")


def _stop(*_: Any) -> None:
    raise Endless(f"not done after {SECONDS:.0f} seconds")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(words: Iterable[str], capfd: pytest.CaptureFixture[str]) -> Ended:
    """The command in this process, with the warnings that a process of its own would show."""
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", quiet)
        try:
            code = main(list(words))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        except Exception as error:
            return Ended(None, f"{type(error).__name__}: {error}", "")
    printed, shown = capfd.readouterr()
    return Ended(code, shown, printed)


def told(
    kind: str, words: Iterable[str], place: Path, capfd: pytest.CaptureFixture[str], *,
    codes: Iterable[int] = (2,), right: Callable[[], str] = lambda: "", how: str = "",
) -> Ended:  # fmt: skip
    """The law, of one command line in ``place``, the folder that holds all it can reach.

    how: what of the files is wrong, in words. codes: how it may end.
    right: what is wrong with what a command did that ended with 0, which only what was fine may.
    """
    words, before, wrong, ended = list(words), contents(place), [], Ended(None, "", "")
    try:
        with limits() as wrong:
            ended = run(words, capfd)
    except Endless as error:
        wrong.append(str(error))
    if ended.code is None:
        wrong.append(f"raised {ended.shown}")
    elif ended.code not in codes:
        wrong.append(f"exit code {ended.code}")
    if ended.code == 0:
        wrong += [complaint for complaint in [right()] if complaint and 0 in codes]
    else:
        wrong += spoken(ended.shown)
    if ended.code not in (0, 1):  # a run that failed keeps what was done
        wrong += left_behind(before, contents(place))
    case = " ".join(map(shlex.quote, ["robustdeq", *words]))
    note(kind, f"{how}: {case}" if how else case, wrong, ended.shown)
    return ended


def spoken(shown: str) -> Iterator[str]:
    """What is wrong with the words for a mistake."""
    lines = [line for line in shown.splitlines() if line.strip()]
    if not 1 <= len(lines) <= LINES:
        yield f"{len(lines)} lines on stderr"
    if "Traceback" in shown:
        yield "a traceback"
    if "a defect, or a module that fails" in shown:
        yield "an exception that nobody expected"
    if any(len(line) > LONG_LINE for line in lines):
        yield f"a line of {max(map(len, lines))} characters"
    if bad := sorted({sign for line in shown.split("\n") for sign in line if not sign.isprintable()}):
        yield f"signs that a terminal obeys: {bad!r}"


def contents(place: Path) -> dict[str, bytes | None]:
    """Everything below a folder, by name; None for a folder."""
    found: dict[str, bytes | None] = {}
    for root, folders, files in os.walk(place):
        found |= {os.path.relpath(os.path.join(root, name), place): None for name in folders}
        for name in files:
            path = os.path.join(root, name)
            if os.path.islink(path):
                data = os.readlink(path).encode()
            else:  # a pipe would never end
                data = Path(path).read_bytes() if os.path.isfile(path) else b""
            found[os.path.relpath(path, place)] = data
    return found


def left_behind(before: dict[str, bytes | None], after: dict[str, bytes | None]) -> list[str]:
    """What a mistake wrote, changed or removed."""
    changed = [name for name in before.keys() | after.keys() if before.get(name, "-") != after.get(name, "-")]
    return [f"left behind, changed or removed: {', '.join(sorted(changed)[:4])!r}"] if changed else []


def asked(
    kind: str, text: str, call: Callable[[], Any], *, right: Callable[[Any], str] | None = None
) -> Any:  # fmt: skip
    """The law, of a Python call: a ValueError of two lines at most, or a right result. Returns what came of it.

    right: what is wrong with a result; None where there must not be one.
    """
    result, shown, wrong = None, "", []
    try:
        with limits() as wrong, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call()
            complaint = "accepted" if right is None else right(result)
            wrong += [complaint] if complaint else []
    except Endless as error:
        wrong.append(str(error))
    except ValueError as error:
        result, shown = error, str(error)
        if not 1 <= len(shown.splitlines()) <= LINES or len(shown) > LONG:
            wrong.append(f"a ValueError of {len(shown.splitlines())} lines, {len(shown)} characters")
        if type(error) is not ValueError:
            wrong.append(f"raised {type(error).__name__}")
    except Exception as error:
        shown = str(error)
        wrong.append(f"raised {type(error).__name__}")
    note(kind, text, wrong, shown)
    return result


def whatever(_: Any) -> str:
    """``right`` where any result is, since there is one at all."""
    return ""


def note(kind: str, case: str, wrong: list[str], shown: str) -> None:
    """A case and what is wrong with it: into the report where there is one, else an AssertionError."""
    if report := os.environ.get("FUZZ_REPORT"):
        with open(report, "a") as file:
            file.write(json.dumps({"kind": kind, "case": case, "wrong": wrong, "shown": shown[:1500]}) + "\n")
    elif wrong:
        pytest.fail(f"{kind}: {case[:2000]}\n  {'; '.join(wrong)}\n  {shown[:1500]!r}", pytrace=False)


@contextmanager
def sandbox(*folders: Path) -> Iterator[Path]:
    """An empty folder, which is the present one, with copies of ``folders`` under their names."""
    before, place = Path.cwd(), Path(tempfile.mkdtemp())
    try:
        for folder in folders:
            shutil.copytree(folder, place / folder.name, symlinks=True)
        os.chdir(place)
        yield place
    finally:
        os.chdir(before)
        shutil.rmtree(place, ignore_errors=True)
