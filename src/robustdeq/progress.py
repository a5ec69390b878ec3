"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn


def _shown(console: Console) -> Progress:
    return Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)


@contextmanager
def bar(name: str, shows: bool = True) -> Iterator:
    """One progress bar, fed with (done, total, text); None where it does not show."""
    if not shows:
        yield None
        return
    with _shown(Console(stderr=True)) as shown:
        task = shown.add_task(name)
        yield lambda done, total, text: shown.update(task, completed=done, total=total, description=f"{name}: {text}")


@contextmanager
def bars() -> Iterator:
    """A progress bar for every row, fed with (row, text, done, total). Without a terminal, a line for every stage."""
    console, tasks = Console(stderr=True), dict[str, tuple[TaskID, str]]()
    with _shown(console) as shown:

        def report(row: str, text: str, done: int, total: int) -> None:
            task, before = tasks[row] if row in tasks else (shown.add_task(row), "")
            stage = text.split(":")[0]
            if stage != before and not console.is_terminal:
                console.print(f"{row}: {stage}")
            tasks[row] = (task, stage)
            shown.update(task, completed=done, total=total, description=f"{row} · {text}")

        yield report
