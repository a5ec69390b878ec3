"""Choosing by name, with a suggestion when the name is wrong."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def choose(kind: str, name: Any, table: Mapping[str, T]) -> T:
    """``table[name]``, or a ValueError that names the nearest valid choice."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise ValueError(f"unknown {kind} {name!r}{suggestion(name, table)}; allowed: {', '.join(table)}.")


def suggestion(name: Any, allowed: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or nothing when no allowed name is near."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def registry(*classes: type[T]) -> dict[str, type[T]]:
    """Dataclasses by their ``name``."""
    return {cls.name: cls for cls in classes}  # type: ignore[attr-defined]


def build(kind: str, spec: Any, table: Mapping[str, type[T]]) -> T:
    """An object from its name, from ``{"name": ..., option: value}``, or from an instance of one of the classes."""
    if isinstance(spec, tuple(table.values())):
        return spec
    options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    cls = choose(kind, options.pop("name", None), table)
    check_options(f"{kind} {cls.__name__}", options, [f.name for f in dataclasses.fields(cls) if f.init])  # type: ignore[arg-type]
    return cls(**options)


def describe(obj: Any) -> dict[str, Any]:
    """The JSON form of a named dataclass, which ``build`` reads back."""
    fields = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj) if f.init}
    return {"name": obj.name, **{k: describe(v) if dataclasses.is_dataclass(v) else v for k, v in fields.items()}}


def check_options(owner: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise a ValueError for the first option that is not allowed."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            raise ValueError(
                f"{owner}: unknown option {name!r}{suggestion(name, allowed)}; allowed: {', '.join(allowed)}."
            )


def checked(cls: type[T]) -> type[T]:
    """A class decorator: an unknown keyword is a ValueError that names the nearest valid one."""
    plain = cls.__init__
    allowed = list(inspect.signature(plain).parameters)[1:]

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **options: Any) -> None:
        check_options(cls.__name__, options, allowed)
        plain(self, *args, **options)

    cls.__init__ = init
    return cls


def settings(words: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE words as a dict; a value that is not JSON is a plain word."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word}; allowed: NAME=VALUE, for example learning_rate=2e-3.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
