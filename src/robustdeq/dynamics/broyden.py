"""Broyden's "good" method in inverse form with limited memory (Broyden 1965; MDEQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import Count
from .solver import SOLVERS, Map, Solver, SolverState

Columns = tuple[Tensor, ...]
"""(B, D) each, the oldest first; apart from each other, so that a step copies none of them."""


@dataclass(frozen=True, kw_only=True)
class BroydenState(SolverState):
    """The estimate of the inverse Jacobian of g is B = -I + sum_i left_i right_i^T."""

    left: Columns = ()
    right: Columns = ()


@SOLVERS.register
@dataclass(frozen=True)
class Broyden(Solver[BroydenState]):
    """z <- z - B g(z), B ~ (J_g)^-1 updated by one secant pair a step.

    memory: how many columns are kept; the oldest is dropped *before* an update, so the newest secant equation always
    holds. A degenerate denominator adds a zero column for that sample.
    """

    name: ClassVar[str] = "broyden"
    estimates_inverse: ClassVar[bool] = True
    memory: Count = 16

    @property
    def columns(self) -> int:
        return 2 * self.memory

    def init(self, z: Tensor) -> BroydenState:
        return BroydenState(super().init(z).z)

    def step(self, f: Map, state: BroydenState) -> BroydenState:
        z, left, right = state.z, state.left, state.right
        f_z = f(z)
        g = f_z - z
        if state.z_prev is None or state.f_prev is None:
            return BroydenState(z + _minus(left, right, g), state.t + 1, z, f_z, left=left, right=right)
        keep = max(0, len(left) - self.memory + 1)
        dropped, left, right = list(zip(left, right))[:keep], left[keep:], right[keep:]
        moved, g_prev = _minus(left, right, g), state.f_prev - state.z_prev
        # The last step was s = -B g_prev, so s - B dg = -B g: B need not be applied to the pair. (But for what was
        # dropped, which was still part of B then.)
        rest = moved
        for a, b in dropped:
            rest = rest - a * _product(b, g_prev)
        a, b = _column(left, right, z - state.z_prev, g - g_prev, rest)
        moved = torch.addcmul(moved, a, _product(b, g), value=-1)
        return BroydenState(z + moved, state.t + 1, z, f_z, left=(*left, a), right=(*right, b))

    def transposed_inverse(self, state: BroydenState, w: Tensor) -> Tensor:
        return -_minus(state.right, state.left, w)


def _column(left: Columns, right: Columns, s: Tensor, dg: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """The column a b^T with which B dg = s holds: b = -B^T s, a = (s - B dg) / <b, dg>. rest: s - B dg. (B, D) each."""
    # a b^T is the same for an s of any length, so b is made of one of length 1 by a constant to the gradient (or of
    # zero where s is nearly zero); at its own length a short pair overflows in the backward pass, which divides by the
    # length three times.
    with torch.no_grad():
        length = s.norm(dim=1, keepdim=True)
        scale = torch.where(length > torch.finfo(s.dtype).tiny, 1 / length, 0.0)
    b = _minus(right, left, s * scale)
    denominator = _product(b, dg * scale)
    with torch.no_grad():
        size = b.norm(dim=1, keepdim=True) * dg.norm(dim=1, keepdim=True) * scale
        usable = denominator.abs() > torch.finfo(s.dtype).eps * size
    wide = torch.promote_types(s.dtype, torch.float32)  # a short pair's factor overflows in half
    factor = torch.where(usable, scale.to(wide) / torch.where(usable, denominator, 1.0), 0.0)
    return (rest * factor).to(s.dtype), b


def _minus(left: Columns, right: Columns, w: Tensor) -> Tensor:
    """w - sum_i left_i <right_i, w>, which is -B w, w (B, D). With left and right exchanged it is -B^T w."""
    out = w
    for a, b in zip(left, right):
        out = torch.addcmul(out, a, _product(b, w), value=-1)
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of every sample: two (B, D) to (B, 1). Faster than a batched matrix product of single rows."""
    return torch.linalg.vecdot(a, b).unsqueeze(1)
