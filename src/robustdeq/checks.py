"""Argument checks: counts, numbers, states, images, labels and indices. Each raises a ValueError that says what was
given and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from .text import shown


def check_count(owner: str, name: str, value: int, low: int = 1, high: int | None = None) -> None:
    """``value`` is a whole number in low..high."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        between = f"{low}..{high}" if whole else f"a whole number in {low}..{high}"
        allowed = f"a whole number >= {low}" if high is None else between
        raise ValueError(f"{owner}: {name}={shown(value)}; allowed: {allowed}.")


@dataclass(frozen=True)
class Number:
    """Of a field of a ``checked`` dataclass: the interval in which its number lies."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def check(self, owner: str, name: str, value: Any) -> None:
        low, high, low_open, high_open = self.low, self.high, self.low_open, self.high_open
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        ok = ok and (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63)  # what torch can take
        ok = ok and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)
        if not ok:
            allowed = f"{'>' if low_open else '>='} {low:g}"
            if math.isfinite(high):
                allowed = f"in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: a number {allowed}.")


def check_number(owner: str, name: str, value: float, low: float, high: float = math.inf, **ends: bool) -> None:
    """``value`` is a finite number in the interval. ends: low_open, high_open."""
    Number(low, high, **ends).check(owner, name, value)


@dataclass(frozen=True)
class Pixels(Number):
    """Of such a field: a distance in pixels of [0, 1], which may be written as people write it, "8/255". unset: None
    will do, in the place of which the owner puts a number."""

    unset: bool = False

    @staticmethod
    def read(value: Any) -> Any:
        """A fraction as its number, anything else as it is."""
        fraction = re.fullmatch(r"\s*(\d+\.?\d*)\s*/\s*(\d+\.?\d*)\s*", value) if isinstance(value, str) else None
        return float(fraction[1]) / float(fraction[2]) if fraction and float(fraction[2]) else value

    def check(self, owner: str, name: str, value: Any) -> None:
        try:
            if not (self.unset and value is None):
                super().check(owner, name, value)
        except ValueError as error:
            raise ValueError(f"{str(error)[:-1]}, such as 0.03 or 8/255.") from None


@dataclass(frozen=True)
class Whole:
    """Of such a field: a whole number in ``low``..``high``."""

    low: int
    high: int | None = None

    def check(self, owner: str, name: str, value: Any) -> None:
        check_count(owner, name, value, self.low, self.high)


@dataclass(frozen=True)
class Length:
    """Of such a field: a list of so many values; None: one or more."""

    count: int | None = None

    def check(self, owner: str, name: str, value: Any) -> None:
        if not value or len(value) != (self.count or len(value)):
            wanted = "at least one value" if self.count is None else f"{self.count} values"
            raise ValueError(f"{owner}: {name}={shown(value)}; allowed: {wanted}.")


LARGEST = 1e30
"""Of an option: what float32 can still square-root, add and scale."""
Count = Annotated[int, Whole(1)]
Natural = Annotated[int, Whole(0)]
Seed = Annotated[int, Whole(0, 2**63 - 1)]
"""What torch's generators take."""
NonNegative = Annotated[float, Number(0, LARGEST)]
Positive = Annotated[float, Number(0, LARGEST, low_open=True)]
Distance = Annotated[float, Pixels(0)]
StepSize = Annotated[float, Pixels(0, unset=True)]
"""None: a quarter of eps, see ``set_step_size``."""
PositiveDistance = Annotated[float, Pixels(0, low_open=True)]
Share = Annotated[float, Number(0, 1)]
PositiveShare = Annotated[float, Number(0, 1, low_open=True)]
Decay = Annotated[float, Number(0, 1, high_open=True)]
Counts = Annotated[Sequence[Count], Length()]
ImageShape = Annotated[Sequence[Count], Length(3)]
"""(C, H, W)."""


class Quarter(float):
    """A step size that was not given: a quarter of eps, which it follows where that is replaced."""


def set_step_size(owner: Any, eps: float) -> None:
    """Of a frozen dataclass: a quarter of eps where no step size was given."""
    if owner.step_size is None or isinstance(owner.step_size, Quarter):
        object.__setattr__(owner, "step_size", Quarter(eps / 4))


def described(value: Any) -> str:
    """What a value is, where it should have been another: its class, or a tensor's dtype, shape and device."""
    if not isinstance(value, Tensor):
        return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def check_start(z: Tensor) -> None:
    """z^[0] is floating point, (B, D)."""
    if not isinstance(z, Tensor) or z.dim() != 2 or not z.is_floating_point():
        given = f"{tuple(z.shape)} {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"z^[0] is {given}; allowed: a floating-point tensor of shape (batch, state size).")


_BEYOND = ContextVar("beyond the box", default=False)


@contextmanager
def beyond_the_box() -> Iterator[None]:
    """Inside, pixels may lie anywhere: noise was added to images whose range was looked at before."""
    token = _BEYOND.set(True)
    try:
        yield
    finally:
        _BEYOND.reset(token)


def check_images(x: Tensor, shape: Sequence[int] | None = None) -> None:
    """x is a floating batch (B, C, H, W) in [0, 1], of the given (C, H, W) if there is one.

    The range is looked at on the CPU only, since a look costs a synchronisation on a GPU; attacks and evaluation check
    it once at their door on every device.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"images are {given}; allowed: a floating-point tensor in [0, 1] (uint8 / 255).")
    if x.layout is not torch.strided or x.is_nested:
        raise ValueError(f"images are a tensor of the layout {x.layout}; allowed: a dense one.")
    if x.dim() != 4 or (shape is not None and tuple(x.shape[1:]) != tuple(shape)):
        allowed = "(batch, channels, height, width)"
        if shape is not None:
            allowed = f"(batch, {', '.join(map(str, shape))})"
            if x.dim() == 4:
                sized = x.shape[2:] != tuple(shape)[1:] and shape[-1] == shape[-2]
                way = f"load them with image_size={shape[-1]}, or " if sized else ""
                allowed += f": {way}make the model with image_shape={tuple(x.shape[1:])}"
        raise ValueError(f"images have shape {tuple(x.shape)}; allowed: {allowed}.")
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not _BEYOND.get():
        check_range(x)


NORMALISED = (
    "a normalisation belongs into the model, as the first layer of its injection, not in front of it; a defence that "
    "leaves the box calls it in checks.beyond_the_box()"
)


def check_range(x: Tensor, slack: float = 1e-5) -> None:
    """No pixel lies outside [0, 1] by more than rounding. A NaN is left to the solver's status."""
    if not x.numel():
        return
    x = x.detach()
    low, high = (float(v) for v in x.aminmax())
    if low != low:  # a NaN does not hide the other pixels
        low, high = (float(v) for v in x.nan_to_num(0.5, torch.inf, -torch.inf).aminmax())
    if low < -slack or high > 1 + slack:
        way = "divide 8-bit pixels by 255" if low >= -slack else NORMALISED
        raise ValueError(f"images lie in [{low:.4g}, {high:.4g}]; allowed: [0, 1] ({way}).")


def check_fine(x: Tensor) -> None:
    """Images to be attacked: in half precision a pixel's own rounding takes it out of a ball of a few hundredths."""
    if x.dtype.itemsize < 4:
        way = "a model in half precision can be asked in autocast"
        raise ValueError(f"images are {x.dtype}; allowed: torch.float32 or torch.float64 ({way}).")


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """The images have the dtype of the weights they meet first; autocast casts by itself."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"images are {x.dtype}; allowed: {weight.dtype}, as the model's weights.")


def check_labels(x: Tensor, y: Tensor, classes: int | None = None) -> None:
    """y is (B,) int64, one label an image, in 0..classes-1."""
    low, high = _extent("labels", x, y)
    if low < 0 or (classes is not None and high >= classes):
        top = "the number of classes - 1" if classes is None else classes - 1
        raise ValueError(f"labels lie in {low}..{high}; allowed: 0..{top}.")


def check_indices(x: Tensor, indices: Tensor | None) -> None:
    """``indices`` is None or (B,) int64, one number >= 0 an image."""
    low, high = (0, 0) if indices is None else _extent("indices", x, indices)
    if low < 0:
        raise ValueError(f"indices lie in {low}..{high}; allowed: whole numbers >= 0.")


def _extent(what: str, x: Tensor, numbers: Tensor) -> tuple[int, int]:
    """The smallest and the largest of (B,) int64 numbers, (0, 0) of none."""
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.int64 or numbers.shape != x.shape[:1]:
        is_tensor = isinstance(numbers, Tensor)
        given = f"{numbers.dtype} of shape {tuple(numbers.shape)}" if is_tensor else type(numbers).__name__
        raise ValueError(f"{what} are {given}; allowed: int64 of shape ({len(x)},).")
    if not len(numbers):
        return 0, 0
    low, high = (int(v) for v in numbers.aminmax())
    return low, high


def check_folder(owner: str, folder: Any) -> Path:
    """A folder that is to be read, as a path; 4,000 characters are more than any system takes for one."""
    if not isinstance(folder, str | Path) or len(str(folder)) > 4000:
        raise ValueError(f"{owner}: {shown(folder)}; allowed: a folder.")
    return Path(folder)
