"""What the law sees: a command or a call that breaks it in one way is found out."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import law
import pytest
from law import asked, sandbox, told


def mistaken(shown: str = "robustdeq: a mistake", code: int = 2, file: str | None = None) -> Any:
    def main(words: list[str]) -> int:
        print(shown, file=sys.stderr)
        if file is not None:
            Path(file).write_text("more")
        return code

    return main


def raising(error: BaseException) -> Any:
    def main(words: list[str]) -> int:
        raise error

    return main


def endless(words: list[str]) -> int:
    while True:
        time.monotonic()


def greedy(words: list[str]) -> int:
    """It takes more than this process ever had, whatever it has given back since."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    bytearray(law._peak() - now + law.GROWTH + 2**28)[:: 2**10]
    return mistaken()(words)


@pytest.mark.parametrize(
    "main, message",
    [
        (raising(KeyError("x")), "raised KeyError"), (mistaken(code=1), "exit code 1"),
        (mistaken(code=0), "exit code 0"),
        (mistaken("a\nb\nc"), "3 lines"), (mistaken(""), "0 lines"), (mistaken("Traceback (most recent"), "traceback"),
        (mistaken("x" * 2000), "a line of 2000"), (mistaken("a\x1b[31m"), "a terminal obeys"),
        (mistaken("a defect, or a module that fails (KeyError)"), "nobody expected"),
        (mistaken(file="new"), "left behind"), (mistaken(file="known"), "left behind"),
        (endless, "not done after"), (greedy, "more memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_command_that_breaks_the_law_is_found_out(main, message, monkeypatch, capfd):
    monkeypatch.delenv("FUZZ_REPORT", raising=False)
    monkeypatch.setattr(law, "main", main)
    if main is endless:  # the others have their time, also on a busy machine
        monkeypatch.setattr(law, "SECONDS", 0.2)
    with sandbox() as place:
        (place / "known").write_text("as it was")
        with pytest.raises(pytest.fail.Exception, match=message):
            told("law", ["verb"], place, capfd)


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: _raise(TypeError("x")), "raised TypeError"),
        (lambda: _raise(UnicodeError("x")), "raised UnicodeError"),
        (lambda: _raise(ValueError("a\nb\nc")), "3 lines"), (lambda: _raise(ValueError("x" * 1500)), "1500 characters"),
        (lambda: 5, "accepted"),
    ],
)  # fmt: skip
def test_a_call_that_breaks_the_law_is_found_out(call, message, monkeypatch):
    monkeypatch.delenv("FUZZ_REPORT", raising=False)
    with pytest.raises(pytest.fail.Exception, match=message):
        asked("law", "call", call)
    with pytest.raises(pytest.fail.Exception, match=message if message != "accepted" else "5 of it"):
        asked("law", "call", call, right=lambda result: f"{result} of it")


def test_what_keeps_the_law_passes(monkeypatch, capfd):
    monkeypatch.delenv("FUZZ_REPORT", raising=False)
    monkeypatch.setattr(law, "main", mistaken())
    with sandbox() as place:
        told("law", ["verb"], place, capfd)
    asked("law", "call", lambda: _raise(ValueError("one line")))
