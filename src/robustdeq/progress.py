"""What a long command says on standard error while it works: bars on a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.progress import TaskID, TextColumn, TimeElapsedColumn

from .text import printable

Progress = Callable[[int, int, str], None]
"""What a long work calls with how much of how much is done, and a short text. More is used of one that has it, as
``Lines`` has: ``say`` (what an evaluation will cost at most, attack by attack, for which the model is shown a few
images), ``note`` (that a training begins, and each judgement) and ``work`` (set to what the steps of a training cost).
"""
EVERY = 60.0
"""Seconds that pass at least between two lines in place of a bar."""


class Lines:
    """In place of a bar, fed with (done, total, text): a plain line at most every ``every`` seconds, with the time left
    at the pace since this work was first seen.

    work: how much work lies before so much is done, for that pace; who feeds it may set it. say: lines of their own, at
    once. note: the same, but only where no bar is shown, so here.
    """

    def __init__(self, name: str, every: float = EVERY) -> None:
        self.name, self.every, self.said = name, every, time.monotonic()
        self.done = self.total = self.first = -1
        self.work: Callable[[int], float] = float

    def __call__(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if total != self.total or done < self.done:  # other work, of another pace
            self.first, self.began = done, now
        self.done, self.total = done, total
        if now - self.said < self.every:
            return
        self.said, left = now, ""
        if done > self.first:  # what had been done when it was first seen says nothing about the pace
            before, spent, whole = map(self.work, (self.first, done, total))
            left = f", about {duration((whole - spent) * (now - self.began) / (spent - before))} left"
        self.say(f"{text}  ({done:,} of {total:,}{left})")

    def say(self, first: str, *more: str) -> None:
        """A line that begins with the name, and indented ones below it."""
        for line in (f"{self.name}: {first}", *(f"  {line}" for line in more)):
            self.write(printable(line))

    def write(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    note = say


class Bar(Lines):
    """One bar on a terminal, fed in the same way, and lines above it. It shows from then on, so that a refusal stands
    alone."""

    def __init__(self, name: str, bars: Bars, joint: str = ": ") -> None:
        super().__init__(name)
        self.bars, self.joint = bars, joint
        self.task: TaskID | None = None

    def __call__(self, done: int, total: int, text: str) -> None:
        if self.task is None:
            self.task = self.bars.add_task(self.name, count="")
            self.bars.start()
        description = escape(printable(f"{self.name}{self.joint}{text}"))
        completed, whole, count = self.work(done), self.work(total), f"{done:,}/{total:,}"
        self.bars.update(self.task, completed=completed, total=whole, description=description, count=count)

    def write(self, line: str) -> None:
        self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def note(self, first: str, *more: str) -> None:
        """Nothing: the bar shows it."""


@contextmanager
def _terminal() -> Iterator[Bars | None]:
    """What shows bars; None where standard error is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = [*Bars.get_default_columns(), TextColumn("{task.fields[count]}"), TimeElapsedColumn()]
    shown = Bars(*columns, console=console)
    try:
        yield shown
    finally:
        if shown.tasks:
            shown.stop()


@contextmanager
def bar(name: str, shows: bool = True, *, every: float = EVERY) -> Iterator[Lines | None]:
    """One progress bar, or lines where there is no terminal; None where nothing shows. every: see ``Lines``."""
    with _terminal() as terminal:
        shown = Lines(name, every) if terminal is None else Bar(name, terminal)
        yield shown if shows else None


@contextmanager
def bars(*, every: float = EVERY) -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress bar for every row, fed with (row, text, done, total). Without a terminal, a line for every stage (what
    the text says before its first colon), and within a stage those of ``Lines``."""
    shown, stages = dict[str, Lines](), dict[str, str]()
    with _terminal() as terminal:

        def report(row: str, text: str, done: int, total: int) -> None:
            stage = text.split(":")[0]
            if terminal is not None and row not in shown:
                shown[row] = Bar(row, terminal, " · ")
            elif terminal is None and stages.get(row) != stage:
                shown[row], stages[row] = Lines(row, every), stage
                shown[row].say(stage)
            shown[row](done, total, text)

        yield report


def duration(seconds: float) -> str:
    """About how long, in words: "20 ms", "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 0.1:
        return f"{max(1000 * seconds, 1):.0f} ms"
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if (count := seconds / size) < most:
            return f"{count:.1f} {unit}" if count < 9.95 and unit != "min" else f"{count:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
