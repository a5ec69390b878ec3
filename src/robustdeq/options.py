"""Options: chosen by name or given as objects, checked by the fields of their dataclass, told again as JSON.

A name is resolved once, where an object that holds it is built; after that there are objects only (law 12).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from .text import shown

T = TypeVar("T")
C = TypeVar("C", bound=type)
PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"), int: (int, "a whole number"), float: ((int, float), "a number"), str: (str, "text"),
}  # fmt: skip
"""What a field of such a type takes, and in words."""


class Registry(dict[str, type[T]], Generic[T]):
    """The choices of one kind by name, all of them dataclasses on ``base``.

    A field annotated ``Annotated[Any, REGISTRY]`` of a ``checked`` dataclass takes a name, ``{"name": ..., option:
    value}``, or any object of the base class, one's own included, and holds the object.
    """

    bases: ClassVar[tuple[type, ...]] = ()
    registered: ClassVar[set[type]] = set()
    """Of all registries: what ``describe`` takes for a choice, and what it calls by name."""

    def __init__(self, kind: str, base: type[T]) -> None:
        super().__init__()
        self.kind, self.base = kind, base
        Registry.bases += (base,)

    __hash__ = object.__hash__  # type: ignore[assignment]  # an annotation must have one

    def register(self, cls: C) -> C:
        """A class decorator: ``cls`` is checked, and can be chosen by its ``name``."""
        name = getattr(cls, "name", None)
        if not issubclass(cls, self.base) or not dataclasses.is_dataclass(cls) or not isinstance(name, str):
            wanted = f"a dataclass on {self.base.__name__} with a name"
            raise ValueError(f"{self.kind}: {cls.__name__} cannot be registered; allowed: {wanted}.")
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is {self[name].__name__} already; allowed: another name.")
        self[name] = checked(cls)
        Registry.registered.add(cls)
        return cls

    def resolve(self, spec: object) -> T:
        """The object that ``spec`` stands for; a ValueError names the nearest valid choice."""
        if isinstance(spec, self.base):
            return spec
        options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        if "class" in options:
            given = f"load_model(folder, {self.kind.replace(' ', '_')}=...), or as part of the option that holds it"
            raise ValueError(
                f"{self.kind} {options['class']} is a class outside of this package, which no file can bring in; "
                f"allowed: the {self.base.__name__} itself, as in {given}."
            )
        name = options.pop("name", None)
        if name is None and options:
            given = f"{self.kind} {shown(options)} without a 'name'"
            raise ValueError(f"unknown {given}; allowed: {', '.join(self)}, or a {self.base.__name__}.")
        if isinstance(name, type) and issubclass(name, self.base):
            raise ValueError(f"unknown {self.kind} {name.__name__}, a class; allowed: {name.__name__}(...), an object.")
        return make(choose(self.kind, name, self, f"a {self.base.__name__}"), options)

    def __str__(self) -> str:
        """As help texts list it."""
        return " | ".join(self)


class OneOf:
    """Of a field whose text is a name in ``table``: ``Annotated[str, OneOf("loss", LOSSES)]``."""

    def __init__(self, kind: str, table: Mapping[str, Any]) -> None:
        self.kind, self.table = kind, table

    def check(self, owner: str, name: str, value: Any) -> None:
        choose(self.kind, value, self.table)


def choose(kind: str, name: object, table: Mapping[str, T], otherwise: str = "") -> T:
    """``table[name]``, or a ValueError that names the nearest valid choice. otherwise: what else is allowed."""
    if isinstance(name, str) and name in table:
        return table[name]
    allowed = ", ".join(table) + (f", or {otherwise}" if otherwise else "")
    raise ValueError(f"unknown {kind} {shown(name)}{suggestion(name, table)}; allowed: {allowed}.")


def suggestion(name: object, allowed: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or nothing when no allowed name is near."""
    near = difflib.get_close_matches(name[:100], list(allowed), n=1, cutoff=0.5) if isinstance(name, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_options(
    owner: str, names: Iterable[str], allowed: Iterable[str], elsewhere: Mapping[str, str] | None = None
) -> None:  # fmt: skip
    """Raise a ValueError for the first name that is not allowed. elsewhere: how what such a name means is given."""
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            if elsewhere and name in elsewhere:
                raise ValueError(f"{owner}: unknown option {shown(name)}; allowed: {elsewhere[name]}.")
            near = suggestion(name, allowed)
            raise ValueError(f"{owner}: unknown option {shown(name)}{near}; allowed: {', '.join(allowed) or 'none'}.")


def checked(cls: type[T]) -> type[T]:
    """A class decorator: options have known names and the kind of value that their field states.

    An unknown keyword is a ValueError that names the nearest valid one. Of a dataclass, what a field states is made of
    what was given: an object of its name, a dataclass of its fields, a tuple of a list; and a range that it states
    (``checks.Count``, ``OneOf``) is looked at.
    """
    plain = cls.__init__
    signature = inspect.signature(plain)
    allowed = list(signature.parameters)[1:]

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **options: Any) -> None:
        check_options(cls.__name__, options, allowed)
        try:
            bound = signature.bind(self, *args, **options)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}; allowed: {', '.join(allowed)}.") from None
        if dataclasses.is_dataclass(cls):
            hints = field_types(cls)
            values = {f.name: bound.arguments.get(f.name, f.default) for f in dataclasses.fields(cls) if f.init}
            anew = dataclasses.MISSING  # of a field whose default is made anew each time
            options = {k: convert(cls.__name__, k, v, hints[k]) for k, v in values.items() if v is not anew}
            args = ()
        plain(self, *args, **options)

    cls.__init__ = init
    return cls


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The types that the fields of a dataclass state."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]


def convert(owner: str, name: str, value: Any, hint: Any) -> Any:
    """``value`` as the field ``name`` states it; a ValueError if it is none of that kind."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (hint, *others) = [kind for kind in inner if kind is not type(None)]
        return value if others else convert(owner, name, value, hint)
    if origin is Annotated:
        if isinstance(inner[1], Registry):
            return inner[1].resolve(value)
        if read := getattr(inner[1], "read", None):
            value = read(value)
        if inner[0] not in PLAIN:  # of a number or a word the check says more
            value = convert(owner, name, value, inner[0])
        inner[1].check(owner, name, value)
        return value
    if hint in PLAIN:
        if not isinstance(value, PLAIN[hint][0]) or (isinstance(value, bool) and hint is not bool):
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: {PLAIN[hint][1]}.")
        return value
    if origin in (Sequence, tuple, list):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: a list.")
        items = [convert(owner, name, item, inner[0]) for item in value]
        return items if origin is list else tuple(items)
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: options by name.")
        if origin is dict:
            return {inner[0](key): convert(owner, name, item, inner[1]) for key, item in value.items()}
    abstract = inspect.isabstract(hint)  # nothing can be made of it; the owner says what is allowed
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and not isinstance(value, hint) and not abstract:
        if not isinstance(value, Mapping):
            raise ValueError(f"{owner}: {name} holds {shown(value)}; allowed: the fields of {hint.__name__} by name.")
        return make(hint, value)
    return value


@dataclasses.dataclass(frozen=True)
class Fits:
    """Of a field or an argument: whether it will do, and what does, in words."""

    fits: Callable[[Any], bool]
    allowed: str

    def check(self, owner: str, name: str, value: Any) -> None:
        if not self.fits(value):
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: {self.allowed}.")


def check_arguments(owner: str, arguments: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """A ValueError for the first argument that is not what ``hints`` say; others are not looked at."""
    for name, hint in hints.items():
        convert(owner, name, arguments[name], hint)


def make(cls: Callable[..., T], options: Mapping[str, Any]) -> T:
    """``cls(**options)``, where a missing option is a ValueError, too."""
    owner = getattr(cls, "__name__", str(cls))
    if not isinstance(options, Mapping):
        raise ValueError(f"{owner}: {shown(options)}; allowed: its fields by name.")
    parameters = list(inspect.signature(cls).parameters.values())
    check_options(owner, options, [parameter.name for parameter in parameters])
    needed = [p.name for p in parameters if p.default is p.empty and p.name not in options]
    if needed:
        raise ValueError(f"{owner}: {', '.join(needed)} missing in {shown(dict(options))}; allowed: all of them.")
    return cls(**options)


def describe(value: Any) -> Any:
    """The JSON form of an option: what a configuration that holds it is written down and compared by.

    A registered choice has its name and options, which ``Registry.resolve`` reads back; one of a user's own its class.
    """
    cls, head, options = type(value), {}, None
    if isinstance(value, Registry.bases):
        named = cls in Registry.registered
        head = {"name": value.name} if named else {"class": f"{cls.__module__}.{cls.__qualname__}"}  # type: ignore[attr-defined]
        options = vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        options = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    elif isinstance(value, Mapping):
        options = {str(name): option for name, option in value.items()}
    if options is not None:
        return {**head, **{name: describe(option) for name, option in options.items()}}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "__qualname__", cls.__qualname__)


def settings(words: Iterable[str], *classes: type) -> dict[str, Any]:
    """NAME=VALUE words as a dict. VALUE is JSON or a plain word, always a word where a field of ``classes`` is text."""
    hints = {name: hint for cls in classes for name, hint in field_types(cls).items()}
    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word:.100}; allowed: NAME=VALUE, for example learning_rate=2e-3.")
        if name in values:
            raise ValueError(f"--set {name:.100}= is given twice; allowed: once.")
        values[name] = value if hints.get(name) is str else parsed(value)
    return values


def by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a ValueError where a name is there twice, of which JSON would take the last."""
    options: dict[str, Any] = {}
    for name, value in pairs:
        if name in options:
            raise ValueError(f"{name!r:.80} is there twice")
        options[name] = value
    return options


def parsed(word: str | None) -> Any:
    """A word of the command line as JSON, or as it is; None where it was not given."""
    try:
        return None if word is None else json.loads(word, object_pairs_hook=by_name)
    except (ValueError, RecursionError) as error:
        if word is not None and word.lstrip()[:1] in ("[", "{", '"'):  # meant as JSON
            raise ValueError(f"{word[:80]!r} is no JSON ({str(error)[:80]}); allowed: JSON, or a plain word.") from None
        return word
