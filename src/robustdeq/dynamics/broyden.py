"""Broyden's "good" method in inverse form with limited memory (Broyden 1965; MDEQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import Count
from .solver import SOLVERS, Map, Solver, SolverState, newest, own_precision


@dataclass(frozen=True, kw_only=True)
class BroydenState(SolverState):
    """u, v: (B, M, D); the estimate of the inverse Jacobian of g is B = -I + sum_i u_i v_i^T."""

    u: Tensor
    v: Tensor


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
        empty = super().init(z).z.new_zeros(len(z), 0, z.shape[1])
        return BroydenState(z, u=empty, v=empty)

    def step(self, f: Map, state: BroydenState) -> BroydenState:
        z, u, v = state.z, state.u, state.v
        f_z = f(z)
        g = f_z - z
        if state.z_prev is not None and state.f_prev is not None:
            u, v = self._update(u, v, z - state.z_prev, g - (state.f_prev - state.z_prev))
        return BroydenState(z - _apply(u, v, g), state.t + 1, z, f_z, u=u, v=v)

    def transposed_inverse(self, state: BroydenState, w: Tensor) -> Tensor:
        return _apply(state.v, state.u, w)

    def _update(self, u: Tensor, v: Tensor, s: Tensor, dg: Tensor) -> tuple[Tensor, Tensor]:
        """The columns with those of the secant pair B dg = s behind them. s, dg: (B, D)"""
        keep = slice(max(0, u.shape[1] - self.memory + 1), None)
        u, v = u[:, keep], v[:, keep]
        # u v^T is the same for a pair of any length, so the pair is brought to length 1 by a constant to the gradient
        # (or to zero where s is nearly zero); at its own length a short pair overflows in the backward pass, which
        # divides by the length three times.
        with torch.no_grad():
            length = s.norm(dim=1, keepdim=True)
            scale = torch.where(length > torch.finfo(s.dtype).tiny, 1 / length, 0.0)
        s, dg = s * scale, dg * scale
        v_new = _apply(v, u, s)
        denominator = (v_new * dg).sum(dim=1, keepdim=True)
        with torch.no_grad():
            scale = v_new.norm(dim=1, keepdim=True) * dg.norm(dim=1, keepdim=True)
            usable = denominator.abs() > torch.finfo(s.dtype).eps * scale
        u_new = (s - _apply(u, v, dg)) / torch.where(usable, denominator, 1.0)
        u = newest(u, torch.where(usable, u_new, 0.0), self.memory)
        return u, newest(v, torch.where(usable, v_new, 0.0), self.memory)


@own_precision
def _apply(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """(-I + sum_i u_i v_i^T) w. u, v: (B, M, D); w: (B, D). With u and v exchanged it is the transpose."""
    if not u.shape[1]:
        return -w
    return torch.einsum("bmd,bm->bd", u, torch.einsum("bmd,bd->bm", v, w)) - w
