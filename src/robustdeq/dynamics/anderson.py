"""Anderson acceleration, type II, in the difference form of Walker and Ni (2011)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import Count, NonNegative, PositiveShare
from .solver import SOLVERS, Map, Solver, SolverState, own_precision


@dataclass(frozen=True, kw_only=True)
class AndersonState(SolverState):
    """dz, dg: (B, M, D) differences of the newest iterates and of their residuals, oldest first."""

    dz: Tensor
    dg: Tensor


@SOLVERS.register
@dataclass(frozen=True)
class Anderson(Solver[AndersonState]):
    """Least squares over the newest residuals g = f(z) - z.

    gamma = argmin ||g - dG gamma||;  z <- z + mixing g - (dZ + mixing dG) gamma.

    memory: how many residual differences are kept.
    ridge: Tikhonov term on the columns of dG, which are scaled to unit length first. None: 10 machine epsilons.
    mixing: step along the residual, in (0, 1].
    A sample whose small system is singular takes a plain mixing step instead.
    """

    name: ClassVar[str] = "anderson"
    estimates_inverse: ClassVar[bool] = True
    memory: Count = 5
    ridge: NonNegative | None = None
    mixing: PositiveShare = 1.0

    @property
    def columns(self) -> int:
        return 2 * self.memory

    def init(self, z: Tensor) -> AndersonState:
        empty = super().init(z).z.new_zeros(len(z), 0, z.shape[1])
        return AndersonState(z, dz=empty, dg=empty)

    def step(self, f: Map, state: AndersonState) -> AndersonState:
        z, dz, dg = state.z, state.dz, state.dg
        f_z = f(z)
        g = f_z - z
        if state.z_prev is not None and state.f_prev is not None:
            dz = _newest(dz, z - state.z_prev, self.memory)
            dg = _newest(dg, g - (state.f_prev - state.z_prev), self.memory)
        moved = z + self.mixing * g
        if dg.shape[1]:
            with own_precision(z):
                unit, scale, gram, usable = self._system(dg)
                # The weights of the unit columns, times the scales, are those of dG; none where the system is singular.
                gamma = scale * _solve(gram, torch.where(usable, _products(unit, g), 0.0))
                moved = moved - _combine(gamma, dz + self.mixing * dg)
        return AndersonState(moved, state.t + 1, z, f_z, dz=dz, dg=dg)

    def transposed_inverse(self, state: AndersonState, w: Tensor) -> Tensor:
        """B = -mixing I + (dZ + mixing dG) (dG^T dG)^-1 dG^T, transposed (the ridge included)."""
        out = -self.mixing * w
        if state.dg.shape[1]:
            with own_precision(w):
                unit, scale, gram, usable = self._system(state.dg)
                small = scale * _products(state.dz + self.mixing * state.dg, w)
                out = out + _combine(_solve(gram, torch.where(usable, small, 0.0)), unit).to(w.dtype)
        return out

    def _system(self, dg: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unit columns, their scales, their Gram matrix plus the ridge, and which samples can use it (B, 1)."""
        work = torch.promote_types(dg.dtype, torch.float32)
        norm = torch.linalg.vector_norm(dg, dim=2, dtype=work)
        # Columns shrink by orders of magnitude as a solve converges, and the Gram matrix would square that spread: so
        # all are scaled to unit length. One so short that its square loses digits counts as zero.
        long = norm > (torch.finfo(work).tiny / torch.finfo(work).eps) ** 0.5
        scale = torch.where(long, 1 / torch.where(long, norm, 1.0), 0.0)
        unit = dg.to(work) * scale.unsqueeze(2)
        eye = torch.eye(dg.shape[1], dtype=work, device=dg.device)
        ridge = 10 * torch.finfo(work).eps if self.ridge is None else self.ridge
        gram = unit @ unit.mT + ridge * eye + torch.diag_embed((~long).to(work))
        info = torch.linalg.cholesky_ex(gram.detach()).info
        usable = (info == 0) & gram.detach().isfinite().all(dim=(1, 2))
        # The identity stands in before anything is solved, so that no gradient passes through a singular matrix.
        return unit, scale, torch.where(usable[:, None, None], gram, eye), usable[:, None]


def _products(columns: Tensor, w: Tensor) -> Tensor:
    """(B, M, D), (B, D) to (B, M), at least in float32: the products of short columns would underflow in half."""
    dtype = torch.promote_types(columns.dtype, torch.float32)
    return torch.einsum("bmd,bd->bm", columns.to(dtype), w.to(dtype))


def _combine(weights: Tensor, columns: Tensor) -> Tensor:
    """(B, M), (B, M, D) to (B, D), in the columns' dtype."""
    return torch.einsum("bm,bmd->bd", weights, columns.to(weights.dtype)).to(columns.dtype)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(2), torch.linalg.cholesky_ex(gram).L).squeeze(2)


def _newest(columns: Tensor, column: Tensor, limit: int) -> Tensor:
    """Append ``column`` (B, D) to ``columns`` (B, M, D) and keep the newest ``limit`` of them."""
    return torch.cat([columns, column.unsqueeze(1)], dim=1)[:, -limit:]
