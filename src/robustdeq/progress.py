"""Progress bars on standard error, shown from the first progress on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

from .text import printable


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
def bar(name: str, shows: bool = True) -> Iterator[Callable[[int, int, str], None] | None]:
    """One progress bar, fed with (done, total, text); None where it does not show."""
    if not shows:
        yield None
        return
    with _begun_later(Console(stderr=True)) as progress:

        def report(done: int, total: int, text: str) -> None:
            if not progress.tasks:
                progress.add_task(name)
                progress.start()
            description = escape(printable(f"{name}: {text}"))
            progress.update(progress.task_ids[0], completed=done, total=total, description=description)

        yield report


@contextmanager
def bars() -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress bar for every row, fed with (row, text, done, total). Without a terminal, a line for every stage."""
    console, tasks = Console(stderr=True), dict[str, tuple[TaskID, str]]()
    with _begun_later(console) as progress:

        def report(row: str, text: str, done: int, total: int) -> None:
            progress.start()
            task, before = tasks[row] if row in tasks else (progress.add_task(row), "")
            stage = text.split(":")[0]
            if stage != before and not console.is_terminal:
                console.print(f"{row}: {stage}", markup=False)
            tasks[row] = (task, stage)
            progress.update(task, completed=done, total=total, description=escape(printable(f"{row} · {text}")))

        yield report
