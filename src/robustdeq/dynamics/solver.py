"""What every solver has in common: a state, a pure ``step``, and checked options.

Legend of shapes: B batch, D packed state size, M stored columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..checks import check_start
from ..options import Registry

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


class Solver(ABC, Generic[S]):
    """A rule that moves a state toward z = f(z; u). Holds hyper-parameters only; all that changes is in the state.

    Every quantity is per sample. ``step`` is pure, costs one evaluation of f, and never loops. S: its kind of state.

    What a solver can do it declares; nobody asks for its type:
    estimates_inverse: ``transposed_inverse`` is there, as the simultaneous adjoint needs it.
    runs_backwards: it moves by z^[t+1] = (1 - mixing) z^[t-1] + mixing f(z^[t]), and ``undo`` and ``max_steps`` are
        there, so that the unrolled gradient needs memory that does not grow with N.
    columns: how many (B, D) tensors its state holds at most, beside z, z_prev and f_prev.
    """

    name: ClassVar[str]
    estimates_inverse: ClassVar[bool] = False
    runs_backwards: ClassVar[bool] = False

    @property
    def columns(self) -> int:
        """How many tensors of the size of z its state holds at most, beside z and the newest pair."""
        return 0

    def init(self, z: Tensor) -> SolverState:
        """The state before the first step. z: (B, D) floating point, z^[0]."""
        check_start(z)
        return SolverState(z)

    @abstractmethod
    def step(self, f: Map, state: S) -> S:
        """One step from z^[t] to z^[t+1], with one evaluation of ``f``."""

    def transposed_inverse(self, state: S, w: Tensor) -> Tensor:
        """B^T w, where B ~ (J_g)^-1 is the estimate that moved ``state.z_prev`` to ``state.z``. w: (B, D)."""
        raise self._cannot("estimates no inverse Jacobian", "estimates_inverse")

    def undo(self, z_next: Tensor, f_z: Tensor) -> Tensor:
        """z^[t-1] from z^[t+1] and f(z^[t]), all (B, D)."""
        raise self._cannot("does not run backwards", "runs_backwards")

    def max_steps(self, dtype: torch.dtype, error: float = 1e-3) -> int:
        """Largest N whose way back amplifies one rounding of ``dtype`` to at most ``error`` (relative)."""
        raise self._cannot("does not run backwards", "runs_backwards")

    def _cannot(self, lacking: str, ability: str) -> ValueError:
        able = ", ".join(name for name, solver in SOLVERS.items() if getattr(solver, ability))
        return ValueError(f"{type(self).__name__} {lacking}; allowed: {able}.")


SOLVERS: Registry[Solver] = Registry("solver", Solver)
"""The solvers by name; ``@SOLVERS.register`` above a class adds one."""


def residual(f_z: Tensor, z: Tensor) -> Tensor:
    """Relative residual r = ||f(z) - z|| / (||f(z)|| + 1e-9), undamped and per sample (P23 sec. 2). (B, D) -> (B,)"""
    return length(f_z - z) / (length(f_z) + 1e-9)


def length(x: Tensor) -> Tensor:
    """Euclidean norm per sample, at least in float32: half precision holds no 1e-9 and no 1e5. (B, D) -> (B,)"""
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))


def own_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, tensors keep their own dtype: autocast is for f; a solver's small systems need the digits."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
