"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import traceback
import types
import warnings
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import tyro

from .commands import COMMANDS
from .environment import keep_freed_memory
from .options import check_options, choose, convert, parsed
from .reproduction import JobError
from .text import shortened, shown

FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Errors of the machine, not of what was given."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 done, 1 a run that failed, 2 a mistake in what was given, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in arguments if word != "--traceback"]
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a name shows an escape
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
            if words and words[0] not in ("-h", "--help"):
                _command(*words).run()
                return 0
        print(_overview())
        return 0 if words else 2
    except KeyboardInterrupt:
        with contextlib.suppress(ValueError):  # set in the main thread only: a second one must not break the last line
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say("interrupted; the same command goes on from what is done.")
        return 130
    except Exception as error:
        if words != arguments:
            traceback.print_exc()
        code, text = _told(error)
        _say(text)
        return code


def _told(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and what is said of it."""
    if isinstance(error, ValueError):
        return 2, str(error)
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return (1 if error.errno in FAILURES else 2), f"{error.strerror or error}{place}"
    if isinstance(error, JobError | FloatingPointError):
        return 1, str(error)
    if isinstance(error, torch.distributed.DistError) or "closed by peer" in str(error):
        return 1, "another process of this run has ended; the same command goes on from what is done."
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return 1, "out of memory; a smaller batch, image or model needs less, and the same command goes on."
    kind = type(error).__name__
    return 1, f"a defect, or a module that fails ({kind}: {str(error)[:200]}); --traceback shows where."


def _say(text: str) -> None:
    print(f"robustdeq: {shortened(text)}", file=sys.stderr)


def _overview() -> str:
    lines = [
        "usage: robustdeq COMMAND [options]",
        "",
        "Train, attack, defend, certify and evaluate deep equilibrium models.",
        "",
    ]
    lines += [f"  {name:<11}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    lines += ["", "robustdeq COMMAND --help shows the options of a command, with examples."]
    return "\n".join([*lines, "--traceback, with any of them, shows where in the code an error was raised."])


def _command(name: str, *arguments: str) -> Any:
    """The command with its options. tyro draws its help; the words are read here, so that a mistake is a ValueError of
    our own."""
    command = choose("command", name, COMMANDS)
    first = next((field.name for field in fields(command) if "Positional" in str(field.type)), None)
    flags = [f"--{field.name.replace('_', '-')}" for field in fields(command) if field.name != first]
    given = [word.split("=")[0].replace("_", "-") for word in arguments if word.startswith("--")]
    check_options(f"robustdeq {name}", given, [*flags, "--help"], getattr(command, "elsewhere", None))
    if "--help" in given or "-h" in arguments:
        shown_as = (tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction)
        return tyro.cli(command, prog=f"robustdeq {name}", args=["--help"], config=shown_as)
    kinds = {field: _kind(hint) for field, hint in get_type_hints(command, include_extras=True).items()}
    values = _values(name, arguments, kinds, first)
    if needed := [field.name for field in fields(command) if field.default is MISSING and field.name not in values]:
        ways = [field.upper() if field == first else f"--{field}" for field in needed]
        raise ValueError(f"{name}: {', '.join(ways)} missing; robustdeq {name} --help shows examples.")
    return command(**values)


def _kind(hint: Any) -> Any:
    """What a field states but that it may be missing, and how tyro shows it."""
    while True:
        origin, inner = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            (hint, *_) = [kind for kind in inner if kind is not type(None)]
        elif origin is Annotated and not hasattr(inner[1], "check"):
            hint = inner[0]
        else:
            return hint


def _values(name: str, arguments: tuple[str, ...], kinds: dict[str, Any], first: str | None) -> dict[str, Any]:
    """By field, what the words say. kinds: of the fields. first: the field that is given without a flag."""
    values: dict[str, Any] = {}
    words, settings = iter(arguments), False  # whether the words of --set follow
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "=", word)
        settings = flag == "--set" or (settings and not flag)
        if settings:
            values["set"] = (*values.get("set", ()), *([value] if equals else []))
            continue
        field = flag.removeprefix("--").replace("-", "_") or first
        if field is None or (not flag and word.startswith("-")):
            raise ValueError(f"{name}: {shown(word)}; allowed: options, which begin with --.")
        several = get_origin(kinds[field]) is tuple
        if field in values and not several:
            again = f"{flag} is given twice; allowed: once."
            raise ValueError(again if flag else f"{name}: {shown(word)} beside another {field.upper()}; allowed: one.")
        if kinds[field] is bool:
            if equals:
                raise ValueError(f"{word}; allowed: {flag} alone, which is true, or nothing.")
            values[field] = True
            continue
        value = value if equals else next(words, "--")
        if flag and (not value.strip() or (value.startswith("--") and not equals)):
            raise ValueError(f"{flag} without a value; allowed: {flag} VALUE.")
        value = _value(name, flag, value, get_args(kinds[field])[0] if several else kinds[field])
        values[field] = (*values.get(field, ()), value) if several else value
    return values


def _value(owner: str, flag: str, word: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return choose(flag, word, {choice: choice for choice in get_args(kind)})
    if kind is str and word == "None" and flag:  # nobody means the word
        raise ValueError(f"{flag} None; allowed: a value, or no {flag}.")
    if kind in (str, Path):
        return kind(word)
    value = convert(owner, flag, parsed(word), kind)
    return float(value) if float in (kind, *get_args(kind)) else value  # a record says 1.0, also where 1 is given
