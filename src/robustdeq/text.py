"""Names and values that others gave, in lines of ours: on a terminal and in Markdown."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 1000
"""Signs of a message: a thousand names of classes leave its end readable."""
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, 100, 100, 60
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 12


def shown(value: Any) -> str:
    """A value as an error tells it: on one line, of about a hundred signs."""
    try:
        text = printable(" ".join(_REPR.repr(value).split()))
    except Exception:  # whatever the repr of somebody's class does; an integer of 5,000 digits has none
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def printable(text: str) -> str:
    """With an escape for every sign that would move a cursor, end a line or colour a terminal."""
    return "".join(s if s.isprintable() else s.encode("unicode_escape", "surrogatepass").decode() for s in text)


def shortened(text: str) -> str:
    """As one printable line, of about ``LONGEST`` signs at most: its beginning and its end."""
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 300]} ... {text[-300:]}"


def markdown(text: str) -> str:
    """As one cell of a table, shown as it is: no markup, no link, no HTML."""
    for sign in "\\`*[|":
        text = text.replace(sign, "\\" + sign)
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Its cells are Markdown already."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
