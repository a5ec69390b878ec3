"""What the public functions of this room let in, and how its errors and warnings leave it: as one readable line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count
from ..files import first_line
from ..text import printable

MAX_LINE = 1000
"""Characters of a message: a thousand names of classes leave its end readable."""
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ON_WHITE = "transparent pixels are shown on white."


@contextmanager
def one_line() -> Iterator[None]:
    """Inside, what is wrong with a source leaves as a ValueError of one printable line."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError):
            text = f"{error.filename or 'the source'}: cannot be read ({first_line(error)}); allowed: what can."
        text = printable(text)
        text = text if len(text) <= MAX_LINE else f"{text[: -300 + MAX_LINE]} ... {text[-300:]}"
        if type(error) is ValueError and text == str(error):
            raise
        raise ValueError(text) from error


def say(text: str, kind: type[Warning] = UserWarning) -> None:
    """Warn, of the line that called ``load`` or nearly so."""
    warnings.warn(printable(text), kind, stacklevel=5)


def check_rows(owner: str, rows: Any, count: int) -> Tensor | slice:
    """A slice as it is; a tensor, an array or a list of row numbers, or (count,) bool, as a tensor."""
    try:
        if isinstance(rows, slice):
            if rows.indices(count)[2] > 0:
                return rows
        else:
            numbers = torch.as_tensor(rows)
            if numbers.dtype == torch.bool and numbers.shape == (count,):
                return numbers
            if numbers.dim() == 1 and (numbers.dtype in WHOLE or not len(numbers)):
                numbers = numbers.long()
                if ((numbers >= -count) & (numbers < count)).all():
                    return numbers
    except (TypeError, ValueError, RuntimeError):  # torch has one for each thing that is no tensor
        pass
    allowed = f"a slice forwards, or (n,) whole numbers in {-count}..{count - 1}"
    raise ValueError(f"{owner}: rows {printable(str(rows))[:80]}; allowed: {allowed}.")


def check_generator(owner: str, generator: Any) -> None:
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        where = f" on {generator.device}" if isinstance(generator, torch.Generator) else ""
        raise ValueError(f"{owner}: generator is a {type(generator).__name__}{where}; allowed: a torch.Generator, CPU.")


def check_epoch(size: Any, generator: Any, part: Any, skip: Any, count: int) -> None:
    """The arguments of ``batches`` of a set of ``count`` images."""
    check_count("batches", "size", size, 1, max(count, 1))
    check_count("batches", "skip", skip, 0)
    check_generator("batches", generator)
    if not isinstance(part, slice):
        raise ValueError(f"batches: part={part!r:.80}; allowed: a slice.")


def check_device(device: Any) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # an AssertionError where torch has no CUDA
        raise ValueError(f"to: no device {device!r:.80} here ({first_line(error)}); allowed: cpu.") from error
