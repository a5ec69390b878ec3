"""What is shown while a command works: a bar on a terminal, and elsewhere plain lines, no more of them than a minute
has."""

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from robustdeq import progress as module
from robustdeq.progress import Bar, Lines, bar, bars, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set: ``clock.now``."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_line_a_minute_however_often_it_is_fed(clock, capsys):
    """A thousand short steps in 500 seconds: eight lines, each with the time that is left at this pace."""
    with bar("training") as progress:
        for done in range(1, 1001):
            clock.now += 0.5
            progress(done, 1000, f"epoch {done // 10}")
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == "" and len(lines) == 8
    assert lines[0] == "training: epoch 12  (120 of 1,000, about 7 min left)"
    assert lines[-1] == "training: epoch 96  (960 of 1,000, about 20 s left)"


def test_what_was_done_before_says_nothing_about_the_pace(clock, capsys):
    """A run that goes on at 900 of 1,000, one step in ten seconds; and other work that begins after it."""
    with bar("run") as progress:
        for done in range(900, 908):
            progress(done, 1000, "going on")
            clock.now += 10
        progress(1, 50, "other work")
        clock.now += 60
        progress(2, 50, "other work")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "run: going on  (906 of 1,000, about 16 min left)",
        "run: other work  (2 of 50, about 48 min left)",
    ]


def test_lines_are_text_and_stand_below_each_other(capsys):
    lines = Lines("na[bold]me\x1b[2J")
    lines.say("one\ntwo", "three")
    lines.note("four")
    shown = capsys.readouterr().err
    assert shown == "na[bold]me\\x1b[2J: one\\ntwo\n  three\nna[bold]me\\x1b[2J: four\n"


def test_nothing_is_shown_where_nobody_speaks(capsys):
    with bar("name", shows=False) as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


def test_on_a_terminal_lines_stand_above_the_bar_and_notes_are_left_to_it():
    screen = io.StringIO()
    with Progress(console=Console(file=screen, force_terminal=True, width=60)) as progress:
        shown = Bar("na[bold]me", progress)
        shown.say("a line of its own", "longer than the screen is wide: " + "-" * 60)
        shown(1, 2, "half [of] it")
        shown.note("not said")
    text = screen.getvalue()
    assert "na[bold]me: a line of its own\n" in text and f"  longer than the screen is wide: {'-' * 60}\n" in text
    assert "na[bold]me: half [of] it" in text and "not said" not in text


def test_bars_without_a_terminal_tell_every_stage_and_a_line_a_minute(clock, capsys):
    with bars() as report:
        for done in range(4):
            for row in ("one", "two"):
                report(row, f"training: epoch {done}", done, 4)
            clock.now += 40
        report("one", "evaluation: clean", 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["one: training", "two: training"]
    assert lines[2:] == [
        "one: training: epoch 2  (2 of 4, about 80 s left)",
        "two: training: epoch 2  (2 of 4, about 80 s left)",
        "one: evaluation",
    ]


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "1 ms"), (0.02, "20 ms"), (0.26, "0.3 s"), (89, "89 s"), (91, "2 min"), (60 * 89, "89 min"),
     (60 * 91, "1.5 h"), (3600 * 47, "47 h"), (86400 * 2.5, "2.5 days")],
)  # fmt: skip
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_terminal_is_told_by_standard_error(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with bar("name") as progress:
        assert isinstance(progress, Bar)
