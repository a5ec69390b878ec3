"""What a long command says on standard error while it works: bars on a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

from .text import printable

EVERY = 60.0
"""Seconds that pass at least between two lines in place of a bar."""


class Lines:
    """In place of a bar, fed with (done, total, text): a plain line at most every ``every`` seconds, with the time left
    at the pace since this work was first seen.

    say: lines of their own, at once. note: the same, but only where no bar is shown, so here.
    """

    def __init__(self, name: str, every: float = EVERY) -> None:
        self.name, self.every, self.said = name, every, time.monotonic()
        self.done = self.total = self.first = -1

    def __call__(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if total != self.total or done < self.done:  # other work, of another pace
            self.first, self.began = done, now
        self.done, self.total = done, total
        if now - self.said < self.every:
            return
        self.said, left = now, ""
        if done > self.first:  # what had been done when it was first seen says nothing about the pace
            left = f", about {duration((total - done) * (now - self.began) / (done - self.first))} left"
        self.say(f"{text}  ({done:,} of {total:,}{left})")

    def say(self, first: str, *more: str) -> None:
        """A line that begins with the name, and indented ones below it."""
        for line in (f"{self.name}: {first}", *(f"  {line}" for line in more)):
            print(printable(line), file=sys.stderr, flush=True)

    note = say


class Bar:
    """One bar on a terminal, fed with (done, total, text), and lines above it; see ``Lines``."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress

    def __call__(self, done: int, total: int, text: str) -> None:
        if not self.progress.tasks:
            self.progress.add_task(self.name)
            self.progress.start()
        description = escape(printable(f"{self.name}: {text}"))
        self.progress.update(self.progress.task_ids[0], completed=done, total=total, description=description)

    def say(self, first: str, *more: str) -> None:
        for line in (f"{self.name}: {first}", *(f"  {line}" for line in more)):
            self.progress.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def note(self, first: str, *more: str) -> None:
        """Nothing: the bar shows it."""


@contextmanager
def _begun_later(console: Console) -> Iterator[Progress]:
    """Bars that show from the first task on, so that a refusal stands alone."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console)
    try:
        yield progress
    finally:
        if progress.tasks:
            progress.stop()


@contextmanager
def bar(name: str, shows: bool = True, *, every: float = EVERY) -> Iterator[Bar | Lines | None]:
    """One progress bar, or lines where there is no terminal; None where nothing shows. every: see ``Lines``."""
    console = Console(stderr=True)
    if not shows:
        yield None
    elif not console.is_terminal:
        yield Lines(name, every)
    else:
        with _begun_later(console) as progress:
            yield Bar(name, progress)


@contextmanager
def bars(*, every: float = EVERY) -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress bar for every row, fed with (row, text, done, total). Without a terminal, a line for every stage (what
    the text says before its first colon), and within a stage those of ``Lines``."""
    console, tasks, stages = Console(stderr=True), dict[str, TaskID](), dict[str, tuple[str, Lines]]()
    with _begun_later(console) as progress:

        def show(row: str, text: str, done: int, total: int) -> None:
            if row not in tasks:
                tasks[row] = progress.add_task(row)
                progress.start()
            progress.update(tasks[row], completed=done, total=total, description=escape(printable(f"{row} · {text}")))

        def tell(row: str, text: str, done: int, total: int) -> None:
            stage = text.split(":")[0]
            if row not in stages or stages[row][0] != stage:
                stages[row] = (stage, Lines(row, every))
                stages[row][1].say(stage)
            stages[row][1](done, total, text)

        yield show if console.is_terminal else tell


def duration(seconds: float) -> str:
    """About how long, in words: "20 ms", "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 0.1:
        return f"{max(1000 * seconds, 1):.0f} ms"
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if (count := seconds / size) < most:
            return f"{count:.1f} {unit}" if count < 9.95 and unit != "min" else f"{count:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
