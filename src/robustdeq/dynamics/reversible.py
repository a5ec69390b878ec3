"""The reversible two-step iteration of McCallum, Arora and Foster (2025, arXiv 2509.12917)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..checks import Number
from .solver import SOLVERS, Map, Solver, SolverState


@SOLVERS.register
@dataclass(frozen=True)
class Reversible(Solver[SolverState]):
    """z^[t+1] = (1 - b) z^[t-1] + b f(z^[t]), with z^[-1] = z^[0] and b = ``mixing`` in (0, 1).

    It runs backwards, so its unrolled gradient needs memory that does not grow with the number of steps. Rounding grows
    like (1 - b)^-N on the way back where f grows no distance, and faster where it does; ``max_steps`` says how far a
    dtype can be trusted in the first case.
    """

    name: ClassVar[str] = "reversible"
    runs_backwards: ClassVar[bool] = True
    mixing: Annotated[float, Number(0, 1, low_open=True, high_open=True)] = 0.5

    def step(self, f: Map, state: SolverState) -> SolverState:
        before = state.z if state.z_prev is None else state.z_prev
        f_z = f(state.z)
        return SolverState((1 - self.mixing) * before + self.mixing * f_z, state.t + 1, state.z, f_z)

    def reverse_step(self, f: Map, state: SolverState) -> SolverState:
        """Undo one step: from (z^[t], z^[t+1]) to (z^[t-1], z^[t]), with one evaluation of ``f``."""
        if state.z_prev is None:
            raise ValueError("reverse_step: this state is at t=0; allowed: a state that has taken at least one step.")
        before = self.undo(state.z, f(state.z_prev))
        return SolverState(state.z_prev, state.t - 1, before if state.t > 1 else None)

    def undo(self, z_next: Tensor, f_z: Tensor) -> Tensor:
        return (z_next - self.mixing * f_z) / (1 - self.mixing)

    def max_steps(self, dtype: torch.dtype, error: float = 1e-3) -> int:
        return max(0, int(math.log(error / torch.finfo(dtype).eps) / -math.log(1 - self.mixing)))
