"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Sequence
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
    whole = "--traceback" in arguments
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a name shows an escape
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    keep_freed_memory()
    try:
        with _spoken_warnings():
            return _run([word for word in arguments if word != "--traceback"])
    except KeyboardInterrupt:
        with contextlib.suppress(ValueError):  # set in the main thread only: a second one must not break the last line
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say("interrupted; the same command goes on from what is done.")
        return 130
    except Exception as error:
        if whole:
            traceback.print_exc()
        code, text = _told(error)
        _say(text)
        return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    _command(*arguments).run()
    return 0


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


@contextlib.contextmanager
def _spoken_warnings():
    """A warning is a line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        yield


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


def _command(name: str, *arguments: str):
    """The command object. A mistake becomes a ValueError of one or two lines instead of a box."""
    command, words = choose("command", name, COMMANDS), _with_one_set(arguments)
    flags = [f"--{field.name.replace('_', '-')}" for field in fields(command) if "Positional" not in str(field.type)]
    names = [word.split("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    check_options(f"robustdeq {name}", names, [*flags, "--help"])
    if "--help" not in names and "-h" not in words:
        words = _with_checked_values(name, command, words)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, prog=f"robustdeq {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(f"{name}: {_plain(complaint.getvalue())}") from None


def _with_one_set(arguments: Sequence[str]) -> Sequence[str]:
    """The words of every --set behind one, so that the option may be given several times."""
    others: list[str] = []
    words: list[str] = []
    inside = False
    for word in arguments:
        if word.startswith("--"):
            inside = word == "--set" or word.startswith("--set=")
            word = word.removeprefix("--set=") if inside else word
        if word != "--set":
            (words if inside else others).append(word)
    return (*others, *(["--set", *words] if words else []))


def _with_checked_values(name: str, command: type, arguments: Sequence[str]) -> list[str]:
    """Every value as its field states it, so that a mistake is told in our words; a fraction becomes its number."""
    hints, words, checked, seen = get_type_hints(command, include_extras=True), iter(arguments), [], set()
    repeated: dict[str, list[str]] = {}  # of options that may be given several times
    main_field = next((field.name for field in fields(command) if "Positional" in str(field.type)), None)
    main_kind = None if main_field is None else _kind(hints[main_field])
    for word in words:
        flag, equals, value = word.partition("=")
        field = flag.removeprefix("--").replace("-", "_")
        kind = _kind(hints[field]) if flag.startswith("--") and field != "set" else None
        if flag == "--set":
            checked += [word, *words]
            break
        if not flag.startswith("--"):
            if main_field is None:
                raise ValueError(f"{name}: {shown(word)}; allowed: options, which begin with --.")
            if main_field in seen and get_origin(main_kind) is not tuple:
                raise ValueError(f"{name}: {shown(word)} beside another {main_field.upper()}; allowed: one.")
            seen.add(main_field)
            checked.append(word)
            continue
        several = get_origin(kind) is tuple
        if field in seen and not several:
            raise ValueError(f"{flag} is given twice; allowed: once.")
        seen.add(field)
        if kind is bool:
            if equals:
                raise ValueError(f"{word}; allowed: {flag} alone, which is true, or nothing.")
            checked.append(word)
            continue
        value = value if equals else next(words, "--")
        if not value.strip() or (value.startswith("--") and not equals):
            raise ValueError(f"{flag} without a value; allowed: {flag} VALUE.")
        value = _checked_value(name, flag, value, get_args(kind)[0] if several else kind)
        if several:
            repeated.setdefault(flag, []).append(value)
        else:
            checked += [flag, value]
    needed = [field.name for field in fields(command) if field.default is MISSING and field.name not in seen]
    if needed:
        ways = [one.upper() if one == main_field else f"--{one}" for one in needed]
        raise ValueError(f"{name}: {', '.join(ways)} missing; robustdeq {name} --help shows examples.")
    return checked + [word for flag, values in repeated.items() for word in (flag, *values)]


def _kind(hint: Any) -> Any:
    """What a flag's field states but that it may be missing, and how tyro shows it."""
    while True:
        origin, inner = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            (hint, *_) = [one for one in inner if one is not type(None)]
        elif origin is Annotated and not hasattr(inner[1], "check"):
            hint = inner[0]
        else:
            return hint


def _checked_value(owner: str, flag: str, value: str, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return str(choose(flag, value, {choice: choice for choice in get_args(kind)}))
    if kind in (str, Path):
        if value == "None":  # which tyro takes for an option that is left out
            if kind is str:
                raise ValueError(f"{flag} None; allowed: a value, or no {flag}.")
            value = "./None"
        return value
    return str(convert(owner, flag, parsed(value), kind))


def _plain(box: str) -> str:
    """The sentences of a box that tyro drew."""
    lines = [re.sub(r"[^\x20-\x7e]", "", line).strip(" |") for line in box.splitlines()]
    return " ".join(line for line in lines if line)


if __name__ == "__main__":
    sys.exit(main())
