"""Damage to what lies on the disk: JSON with one thing wrong, files with one bit wrong, folders with one file wrong."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from junk import HUGE, MARKUP, json_values

Site = tuple[str | int, ...]
EMPTY: list[Any] = [[], {}]
NONE_OF: dict[type, list[Any]] = {
    bool: ["x", "true", 5, 0.5, None, *EMPTY],
    int: ["x", "1", -1, 0.5, True, math.nan, math.inf, *EMPTY, [1]],
    float: ["x", "0.1", -1, True, math.nan, -math.inf, *EMPTY, [0.1]],
    str: [5, 0.5, True, None, *EMPTY, ["x"], *MARKUP[:6], "", "x" * 300, "a\0b"],
    list: [5, "x", None, True, {}, {"x": 1}],
    dict: [5, "x", True, [], [[]], {"x": 1}, {"": {}}],
    type(None): ["x", True, [], {}, {"x": 1}, -1, 0.5, math.nan],
}
"""What stands in no place where a value of such a type stood."""


class Damage(NamedTuple):
    """how: in words. data: of the file. sure: it can be nothing but a mistake."""

    how: str
    data: bytes
    sure: bool = False


def sites(value: Any, at: Site = ()) -> Iterator[Site]:
    """The places of a JSON value."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else [])
    for name, inner in inside:
        yield from sites(inner, (*at, name))


def found(value: Any, at: Site) -> Any:
    for name in at:
        value = value[name]
    return value


def put(value: Any, at: Site, new: Any) -> Any:
    """A copy with another value at a place."""
    value = copy.deepcopy(value)
    if not at:
        return new
    found(value, at[:-1])[at[-1]] = new
    return value


def without(value: Any, at: Site) -> Any:
    value = copy.deepcopy(value)
    del found(value, at[:-1])[at[-1]]
    return value


@st.composite
def spoiled_json(draw: Any, value: Any, free: Iterable[str] = (), forever: Iterable[str] = ()) -> Damage:
    """A JSON file with one value gone, of another kind, too many or too large.

    free: names below which anything may stand. forever: of numbers that decide how long something takes, which are
    made no larger.
    """
    places = [at for at in sites(value) if not set(at[:-1]) & set(free)]
    how = draw(st.sampled_from(["retype"] * 6 + ["more", "more", "delete", "nest", "huge", "any", "text", "text"]))
    if how == "text":
        return draw(spoiled_text(json.dumps(value, indent=1)))
    if how == "more":
        at = draw(st.sampled_from([at for at in places if isinstance(found(value, at), dict)]))
        name = draw(st.sampled_from(["x", "name ", "", "__class__", "self", "cls", "\x1b[2J", "a\nb\nc", "x" * 3000]))
        return _as_file(f"{name!r} more at {at}", put(value, (*at, name), draw(json_values)), True)
    if how == "delete":
        at = draw(st.sampled_from([at for at in places if at]))
        return _as_file(f"without {at}", without(value, at))
    if how == "huge":
        numbers = [at for at in places if type(found(value, at)) in (int, float) and not set(at) & set(forever)]
        at, number = draw(st.sampled_from(numbers)), draw(st.sampled_from([*HUGE, math.inf, 1e308]))
        return _as_file(f"{str(number)[:30]} at {at}", put(value, at, number))
    at = draw(st.sampled_from(places))
    if how == "nest":
        return _as_file(f"{at} in itself", put(value, at, draw(st.sampled_from([[value], {"x": value}]))), True)
    if how == "any":
        new = draw(json_values.filter(lambda new: not isinstance(new, int | float)))
        return _as_file(f"{new!r:.60} at {at}", put(value, at, new))
    new = draw(st.sampled_from(NONE_OF[type(found(value, at))]))
    return _as_file(f"{new!r:.60} at {at}", put(value, at, new), True)


def _as_file(how: str, value: Any, sure: bool = False) -> Damage:
    return Damage(how, json.dumps(value).encode(errors="surrogatepass"), sure)


@st.composite
def spoiled_text(draw: Any, text: str) -> Damage:
    """A file that is no JSON, or no text at all."""
    data = text.encode()
    how = draw(st.sampled_from(["cut", "byte", "utf-16", "whole", "twice", "bits"]))
    if how == "cut":
        at = draw(st.integers(0, len(data.rstrip()) - 1))
        return Damage(f"cut to {at} bytes", data[:at], True)
    if how == "byte":
        at, byte = draw(st.integers(0, len(data) - 1)), draw(st.sampled_from([b"\xff", b"\xc3", b"\x80"]))
        return Damage(f"{byte!r} at byte {at}", data[:at] + byte + data[at:], True)
    if how == "utf-16":
        return Damage(how, text.encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-16-le"]))), True)
    if how == "twice":
        return Damage(how, data + data, True)
    if how == "bits":
        at = draw(somewhere(8 * len(data)))
        return Damage(f"bit {at}", flipped(data, at))
    whole = ["", "null", "[]", "5", '"x"', "NaN", "{}", "{" * 10, "\ufeff{}"]
    new = draw(st.sampled_from([*whole, "[" * 100_000, '{"a":' * 100_000, "9" * 5000]))
    return Damage(f"{new[:20]!r}", new.encode(), True)


def somewhere(count: int) -> st.SearchStrategy[int]:
    """In 0..count-1, every number as likely: of `integers` the small ones come far more often."""
    return st.integers(0, 2**64 - 1).map(lambda seed: random.Random(seed).randrange(count))


def flipped(data: bytes, bit: int) -> bytes:
    spoiled = bytearray(data)
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


@st.composite
def spoiled_bytes(draw: Any, data: bytes, header: int = 0) -> Damage:
    """A file with a bit, its end or its beginning wrong. header: bytes that are hit as often as all the others."""
    how = draw(st.sampled_from(["bit"] * 6 + ["cut", "head", "more", "empty", "zeros", "turned", "text"]))
    end = header if header and draw(st.booleans()) else len(data)
    at = draw(somewhere(max(1, min(end, len(data)))))
    if how == "bit":
        bit = 8 * at + draw(somewhere(8))
        return Damage(f"bit {bit} flipped", flipped(data, bit))
    ways = {
        "cut": data[:at], "head": data[at + 1 :], "more": data + b"\0" * (at % 9 + 1), "empty": b"",
        "zeros": data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :], "turned": data[at:] + data[:at],
        "text": b"not what is looked for",
    }  # fmt: skip
    return Damage(f"{how} at byte {at}", ways[how])


@st.composite
def spoiled_folders(draw: Any, folder: Path, names: Iterable[str]) -> tuple[str, str, Damage | None]:
    """One file of a folder: its name, how it is spoiled, and what stands in it then; None where it is not written."""
    name = draw(st.sampled_from(sorted(names)))
    how = draw(st.sampled_from(["data"] * 12 + ["gone", "folder", "loop", "other"]))
    if how != "data":
        return name, how, None
    data = (folder / name).read_bytes()
    if name.endswith(".json") and draw(st.booleans()):
        damage = draw(spoiled_json(json.loads(data), forever=FOREVER))
    else:
        length = 8 + int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else 0
        damage = draw(spoiled_bytes(data, length))
    return name, damage.how, damage


FOREVER = ("epochs", "attack_steps", "solver_steps", "steps", "unroll", "validation_steps", "memory", "points")


def spoil(folder: Path, name: str, how: str, damage: Damage | None) -> None:
    """Do it."""
    file = folder / name
    if damage is not None:
        file.write_bytes(damage.data)
        return
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "loop":
        file.symlink_to(file)
    elif how == "other":
        others = [other for other in folder.rglob(f"*{file.suffix}") if other != file and other.is_file()]
        file.write_bytes(others[0].read_bytes() if others else b"")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
