"""Names that others gave, in lines of ours: on a terminal and in Markdown."""

from __future__ import annotations


def printable(text: str) -> str:
    """With an escape for every sign that would move a cursor, end a line or colour a terminal."""
    shown = (s if s.isprintable() else s.encode("unicode_escape", "surrogatepass").decode() for s in text)
    return "".join(shown)


def markdown(text: str) -> str:
    """As one cell of a table, shown as it is: no markup, no link, no HTML."""
    for sign in "\\`*[|":
        text = text.replace(sign, "\\" + sign)
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
