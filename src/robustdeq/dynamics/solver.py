"""What every solver has in common: a state, a pure ``step``, and checked options.

Legend of shapes: B batch, D packed state size, M stored columns.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
"""``f(.; u)``: a state (B, D) to a state (B, D); every row is a sample of its own."""


@dataclass(frozen=True)
class SolverState:
    """Everything a solver knows after ``t`` steps; hand it back to ``step`` or ``drive`` to go on.

    z: (B, D) the iterate z^[t].
    t: steps taken so far.
    z_prev: (B, D) the state the last step started from, z^[t-1]; None before the first step.
    f_prev: (B, D) f(z^[t-1]), the one evaluation that the last step paid for; None before the first step.
    """

    z: Tensor
    t: int = 0
    z_prev: Tensor | None = None
    f_prev: Tensor | None = None


S = TypeVar("S", bound=SolverState)
A = TypeVar("A", bound=Callable[..., Any])


class Solver(ABC, Generic[S]):
    """A rule that moves a state toward z = f(z; u). Holds hyper-parameters only; all that changes is in the state.

    Every quantity is per sample. ``step`` is pure, costs one evaluation of f, and never loops. S: its kind of state.
    """

    name: ClassVar[str]

    def init(self, z: Tensor) -> SolverState:
        """The state before the first step. z: (B, D) floating point, z^[0]."""
        return SolverState(_checked_start(z))

    @abstractmethod
    def step(self, f: Map, state: S) -> S:
        """One step from z^[t] to z^[t+1], with one evaluation of ``f``."""

    def transposed_inverse(self, state: S, w: Tensor) -> Tensor:
        """B^T w, where B ~ (J_g)^-1 is the estimate that moved ``state.z_prev`` to ``state.z``. w: (B, D)."""
        raise ValueError(
            f"{type(self).__name__} has no estimate of the inverse Jacobian; allowed: picard, anderson, broyden."
        )


def residual(f_z: Tensor, z: Tensor) -> Tensor:
    """Relative residual r = ||f(z) - z|| / (||f(z)|| + 1e-9), undamped and per sample (P23 sec. 2). (B, D) -> (B,)"""
    return length(f_z - z) / (length(f_z) + 1e-9)


def length(x: Tensor) -> Tensor:
    """Euclidean norm per sample, at least in float32: half precision holds no 1e-9 and no 1e5. (B, D) -> (B,)"""
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))


def own_precision(algebra: A) -> A:
    """A function of tensors in their own dtype: autocast is for f; a solver's small systems need the digits."""

    @functools.wraps(algebra)
    def inside(*given: Any) -> Any:
        device = next(part.device.type for part in given if isinstance(part, Tensor))
        if not torch.amp.is_autocast_available(device):
            return algebra(*given)
        with torch.autocast(device, enabled=False):
            return algebra(*given)

    return inside  # type: ignore[return-value]


def newest(columns: Tensor, column: Tensor, limit: int) -> Tensor:
    """Append ``column`` (B, D) to ``columns`` (B, M, D) and keep the newest ``limit`` of them."""
    return torch.cat([columns, column.unsqueeze(1)], dim=1)[:, -limit:]


def check_number(
    owner: str,
    name: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise a ValueError unless ``value`` is a finite number in the stated interval."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ok = ok and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)
    if not ok:
        raise ValueError(f"{owner}: {name}={value!r}; allowed: {_interval(low, high, low_open, high_open)}.")


def check_count(owner: str, name: str, value: int, low: int = 1) -> None:
    """Raise a ValueError unless ``value`` is a whole number of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{owner}: {name}={value!r}; allowed: a whole number >= {low}.")


def _interval(low: float, high: float, low_open: bool, high_open: bool) -> str:
    if math.isinf(high):
        return f"a number {'>' if low_open else '>='} {low:g}"
    return f"a number in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"


def _checked_start(z: Tensor) -> Tensor:
    if not isinstance(z, Tensor) or z.dim() != 2 or not z.is_floating_point():
        given = f"{tuple(z.shape)} {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"z^[0] is {given}; allowed: a floating-point tensor of shape (batch, state size).")
    return z
