"""Progress bars on standard error, shown from the first progress on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

from .text import printable


def _progress(console: Console) -> Progress:
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


@contextmanager
def bar(name: str, shows: bool = True) -> Iterator[Callable[[int, int, str], None] | None]:
    """One progress bar, fed with (done, total, text); None where it does not show."""
    if not shows:
        yield None
        return
    progress, tasks = _progress(Console(stderr=True)), list[TaskID]()

    def report(done: int, total: int, text: str) -> None:
        if not tasks:
            progress.start()
            tasks.append(progress.add_task(name))
        progress.update(tasks[0], completed=done, total=total, description=escape(printable(f"{name}: {text}")))

    try:
        yield report
    finally:
        if tasks:
            progress.stop()


@contextmanager
def bars() -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress bar for every row, fed with (row, text, done, total). Without a terminal, a line for every stage."""
    console, tasks = Console(stderr=True), dict[str, tuple[TaskID, str]]()
    with _progress(console) as progress:

        def report(row: str, text: str, done: int, total: int) -> None:
            task, before = tasks[row] if row in tasks else (progress.add_task(row), "")
            stage = text.split(":")[0]
            if stage != before and not console.is_terminal:
                console.print(f"{row}: {stage}", markup=False)
            tasks[row] = (task, stage)
            progress.update(task, completed=done, total=total, description=escape(printable(f"{row} · {text}")))

        yield report
