"""A Python call with junk in one or two of its arguments, and the law for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st
from law import asked
from objects import JUNK, LARGE, MODULES, Fine
from torch import Tensor


class Call(NamedTuple):
    """good: what is right, so that one argument can be wrong. fine: of every argument, what may be taken after all.
    forever: those that decide how long it takes. called: those that are called, whose own errors are a user's own."""

    name: str
    call: Callable[..., Any]
    good: dict[str, Any]
    fine: dict[str, Fine]
    forever: tuple[str, ...] = ()
    called: tuple[str, ...] = ()


@st.composite
def spoiled(draw: Any, calls: list[Call]) -> tuple[Call, dict[str, str]]:
    """A call, and junk by its name for one of its arguments, now and then for two."""
    call = draw(st.sampled_from(calls))
    most = 1 + draw(st.booleans())
    names = draw(st.lists(st.sampled_from(sorted(call.fine)), min_size=1, max_size=most, unique=True))
    table = {**JUNK, **MODULES}
    short = [what for what in table if what not in LARGE]
    return call, {name: draw(st.sampled_from(short if name in call.forever else sorted(table))) for name in names}


def tried(call: Call, spoiling: dict[str, str], kind: str) -> None:
    """The law. There may be a result where all the junk could be taken; a tensor has a row an image."""
    table = {**JUNK, **MODULES}
    arguments = {**call.good, **{name: table[what] for name, what in spoiling.items()}}
    if any(callable(table[what]) for name, what in spoiling.items() if name in call.called):
        return
    fine = all(call.fine[name](table[what]) for name, what in spoiling.items())
    text = f"{call.name}: {', '.join(f'{name}={what}' for name, what in spoiling.items())}"

    def right(result: Any) -> str:
        x = arguments.get("x")
        both = isinstance(result, Tensor) and isinstance(x, Tensor)
        return f"a result of shape {tuple(result.shape)}" if both and result.shape[:1] != x.shape[:1] else ""

    asked(kind, text, lambda: call.call(**arguments), right=right if fine else None)
