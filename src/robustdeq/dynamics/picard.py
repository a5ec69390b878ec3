"""Damped fixed-point iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import PositiveShare
from .solver import SOLVERS, Map, Solver, SolverState


@SOLVERS.register
@dataclass(frozen=True)
class Picard(Solver[SolverState]):
    """z <- (1 - a) z + a f(z), with a = ``damping`` in (0, 1]; a = 1 is the undamped iteration."""

    name: ClassVar[str] = "picard"
    estimates_inverse: ClassVar[bool] = True
    damping: PositiveShare = 1.0

    def step(self, f: Map, state: SolverState) -> SolverState:
        f_z = f(state.z)
        moved = f_z if self.damping == 1 else state.z + self.damping * (f_z - state.z)
        return SolverState(moved, state.t + 1, state.z, f_z)

    def transposed_inverse(self, state: SolverState, w: Tensor) -> Tensor:
        return -self.damping * w
