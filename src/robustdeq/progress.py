"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def _columns():
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


@contextmanager
def bar(name: str) -> Iterator:
    """One progress bar, fed with (done, total, text)."""
    with Progress(*_columns(), console=Console(stderr=True)) as shown:
        task = shown.add_task(name)
        yield lambda done, total, text: shown.update(task, completed=done, total=total, description=f"{name}: {text}")


@contextmanager
def bars() -> Iterator:
    """A progress bar for every row, fed with (row, text, done, total). Without a terminal, a line for every stage."""
    console = Console(stderr=True)
    tasks: dict[str, tuple[TaskID, str]] = {}
    with Progress(*_columns(), console=console) as shown:

        def report(row: str, text: str, done: int, total: int) -> None:
            stage = text.split(":")[0]
            if row not in tasks:
                tasks[row] = (shown.add_task(row), "")
            task, previous = tasks[row]
            if stage != previous and not console.is_terminal:
                console.print(f"{row}: {stage}")
            tasks[row] = (task, stage)
            shown.update(task, completed=done, total=total, description=f"{row} · {text}")

        yield report
