"""Strategies of bad input: values of wrong kinds for what a field states, JSON that is none, files with damage."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from hypothesis import strategies as st

from robustdeq.checks import Number, Pixels, Whole
from robustdeq.options import OneOf, Registry, field_types, parsed

SIGNS = st.characters(exclude_characters="\0")
"""All that a word of a command line can hold, unpaired surrogates (bytes that are no UTF-8) included."""
MARKUP = ["[/x]", "[bold]", "[link=file:///etc]x", "\x1b[31mred", "a\rb", "a\nb\nc\nd", "\u202eleft", "\udcff", "💥"]
NUMBERS = ["nan", "NaN", "inf", "-inf", "1e400", "-1", "0x10", "1_000", "8/255/3", "1/0", "/255", "9" * 5000]
WORDS = [*MARKUP, *NUMBERS, "x", " ", "-", "none", "None", "null", "true", "True", "../../x", "/", "~", "x" * 300, "%s",
         "{}", "[]"]  # fmt: skip
TEXTS = st.sampled_from(WORDS) | st.text(SIGNS, min_size=1, max_size=12)
HUGE = [2**31, 2**63, 2**64, 2**70, 10**30, 10**400]
FLOATS = [math.nan, math.inf, -math.inf, 1e308, -1e-300, 0.5]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
"""Of any shape; NaN and infinities are in it, as Python's JSON has them."""
broken_json = st.sampled_from(
    ["{", "[", "{]", '{"a": }', "[1,", '{"a": 1,}', "[" * 100_000, '{"a":' * 5000, "[[[[", '"open', '{"name"', "[1] x",
     '{"name": "picard"', "[" + "9" * 5000 + "]", '{"a": 1e999999}']
)  # fmt: skip
"""Words that begin as JSON does and are none, or are nothing that any field takes."""


def text_or(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(TEXTS, *kinds)


@st.composite
def containers(draw: Any) -> Any:
    return draw(st.sampled_from([[], {}, [[]], [None], {"x": 1}, {"": {}}, [1, "x"], {"name": None}]))


def wrong(hint: Any, depth: int = 2) -> st.SearchStrategy[Any]:
    """JSON values that a field of this kind must refuse."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (kind, *_) = [part for part in inner if part is not type(None)]
        return wrong(kind, depth).filter(lambda value: value is not None)
    if origin is Annotated:
        return _wrong_annotated(inner[0], inner[1], depth)
    if hint is bool:
        return text_or(st.none(), st.integers(), st.floats(), containers())
    if hint is int:
        return text_or(st.none(), st.booleans(), st.floats(), containers())
    if hint is float:
        return text_or(st.none(), st.booleans(), containers())
    if hint is str:
        return st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), containers())
    if origin in (Sequence, tuple, list):
        atoms = text_or(st.none(), st.booleans(), st.integers(), st.floats(), st.just({"x": 1}))
        return atoms | (st.lists(wrong(inner[0], depth - 1), min_size=1, max_size=2) if depth else st.nothing())
    if origin in (Mapping, dict):
        return text_or(st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.integers(), max_size=2))
    if dataclasses.is_dataclass(hint) and not inspect.isabstract(hint):
        return _wrong_fields(hint, depth)
    return text_or(st.integers(), st.floats(), st.booleans())


def _wrong_annotated(kind: Any, check: Any, depth: int) -> st.SearchStrategy[Any]:
    if isinstance(check, Registry):
        return _wrong_choice(check, depth)
    if isinstance(check, OneOf):
        others = text_or(st.none(), st.integers(), containers())
        return others.filter(lambda value: not isinstance(value, str) or value not in check.table)
    if isinstance(check, Whole):
        below = st.integers(max_value=check.low - 1)
        above = st.nothing() if check.high is None else st.integers(min_value=check.high + 1)
        fractions = st.floats().filter(lambda value: isinstance(value, float))
        return text_or(st.none(), st.booleans(), below, above, st.sampled_from(FLOATS), fractions, containers())
    if isinstance(check, Number):
        low = st.floats(max_value=check.low, exclude_max=not check.low_open, allow_nan=False)
        high = math.isfinite(check.high) or None
        above = st.floats(min_value=check.high, exclude_min=not check.high_open) if high else st.nothing()
        others = text_or(st.none(), st.booleans(), st.sampled_from([math.nan, math.inf]), low, above, containers())
        taken = lambda value: isinstance(check, Pixels) and isinstance(value, str) and "/" in value  # noqa: E731
        others = others.filter(lambda value: value is not None or not getattr(check, "unset", False))
        return others.filter(lambda value: not taken(value) or Pixels.read(value) == value)
    of_list = get_origin(kind) is not None  # a list of checked values, of a length
    return wrong(kind, depth) | (st.just([]) if of_list else st.nothing())


def _wrong_choice(registry: Registry[Any], depth: int) -> st.SearchStrategy[Any]:
    """No name, no options of a name, options of a wrong kind; a class, which no file may bring in."""
    kinds = [kind for kind in registry.values() if not inspect.isabstract(kind)]
    spoiled = [_wrong_fields(kind, depth - 1, name=name) for name, kind in registry.items()] if depth and kinds else []
    strange = [{"name": 5}, {"class": "os.system"}, {"class": 5, "name": "x"}, {}, [], [[]], {"name": []}, {"name": {}}]
    others = text_or(st.integers(), st.booleans(), st.floats(), st.sampled_from(strange), st.none())
    return st.one_of(others.filter(lambda value: not isinstance(value, str) or value not in registry), *spoiled)


def _wrong_fields(cls: type, depth: int, **named: Any) -> st.SearchStrategy[Any]:
    """The fields of a dataclass by name, one of them unknown or of a wrong kind."""
    hints = {} if not depth else {name: hint for name, hint in field_types(cls).items() if hint is not Any}
    unknown = TEXTS.filter(lambda name: name not in field_types(cls)).map(lambda name: {**named, name: 1})
    spoiled = [wrong(hint, depth - 1).map(lambda v, name=name: {**named, name: v}) for name, hint in hints.items()]
    atoms = st.nothing() if named else text_or(st.none(), st.integers(), st.lists(st.integers(), max_size=2))
    return st.one_of(unknown, atoms, *spoiled)


def wrong_words(hint: Any) -> st.SearchStrategy[str]:
    """Words of the command line that a field of this kind must refuse: read as JSON they are wrong still."""
    number = _number_of(hint)

    def is_wrong(word: str) -> bool:
        if "\0" in word:
            return False
        try:
            value = parsed(word)
        except ValueError:
            return True
        if number is bool:
            return not isinstance(value, bool)
        if number is None or isinstance(value, bool) or not isinstance(value, int | float):
            return value is not None
        return False  # a text that is a number, such as "0": whether it is right is not known here

    texts = text_or(broken_json).filter(is_wrong) if number is not str else st.nothing()
    others = wrong(hint).filter(lambda value: not isinstance(value, str)).map(json.dumps)
    return texts | (others if number is not str else st.nothing())


def _number_of(hint: Any) -> Any:
    while get_origin(hint) in (Union, types.UnionType, Annotated):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return hint if hint in (bool, int, float, str) else None
