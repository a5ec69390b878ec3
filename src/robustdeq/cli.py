"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import fields

import tyro

from .commands import Attack, Convert, Evaluate, Reproduce, Train
from .options import check_options, choose
from .reproduction import JobError

COMMANDS: dict[str, type] = {cls.__name__.lower(): cls for cls in (Train, Evaluate, Attack, Reproduce, Convert)}


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 done, 1 a run that failed, 2 a mistake in what was given, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return 0 if arguments else 2
        _command(*arguments).run()
    except ValueError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except (JobError, FloatingPointError) as error:
        print(f"robustdeq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("robustdeq: interrupted; the same command goes on from what is done.", file=sys.stderr)
        return 130
    return 0


def _overview() -> str:
    lines = [
        "usage: robustdeq COMMAND [options]",
        "",
        "Train, attack, defend and evaluate deep equilibrium models.",
        "",
    ]
    lines += [f"  {name:<11}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "robustdeq COMMAND --help shows the options of a command, with examples."])


def _command(name: str, *arguments: str):
    """The command object. A mistake becomes a ValueError of one or two lines instead of a box."""
    command, arguments = choose("command", name, COMMANDS), _with_one_set(arguments)
    flags = [f"--{field.name.replace('_', '-')}" for field in fields(command) if "Positional" not in str(field.type)]
    given = [word.split("=")[0].replace("_", "-") for word in arguments if word.startswith("--")]
    check_options(f"robustdeq {name}", given, [*flags, "--help"])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, prog=f"robustdeq {name}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(f"{name}: {_plain(complaint.getvalue())}") from None


def _with_one_set(arguments: Sequence[str]) -> tuple[str, ...]:
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


def _plain(box: str) -> str:
    """The sentences of a box that tyro drew."""
    lines = [re.sub(r"[^\x20-\x7e]", "", line).strip(" |") for line in box.splitlines()]
    return " ".join(line for line in lines if line)


def _fail(message: str) -> int:
    print(f"robustdeq: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
