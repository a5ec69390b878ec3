"""What a solve returns: the iterates, their residuals, and one status per sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from .solver import SolverState


class Status(IntEnum):
    """How a sample's solve ended."""

    CONVERGED = 0
    BUDGET_SPENT = 1
    DIVERGED = 2
    NON_FINITE = 3

    @property
    def remedy(self) -> str:
        """What to do about it, in a few words."""
        return (
            "nothing to do",
            "allow more steps, or loosen the tolerance",
            "damp the solver, or regularise the Jacobian in training",
            "look for NaN in the input or the weights, or solve in float32 or float64",
        )[self]


class SolveError(RuntimeError):
    """Some samples failed to be solved; raised only where asked for (``throw=True``)."""


def monitored(field: Tensor | None) -> Tensor:
    """A field of a ``Trajectory`` whose solve was monitored."""
    if field is None:
        raise ValueError("this solve was not monitored; pass record=True or a tolerance.")
    return field


@dataclass(frozen=True)
class Trajectory:
    """The neural dynamics of a batch (T steps, B samples, D state size).

    state: the solver's state after the last step; ``drive`` resumes from this trajectory.
    states: states[t-1] is z^[t], (B, D); empty unless recorded.
    residuals: (T, B) relative residual of the state each step started from: residuals[t-1] belongs to z^[t-1].
    status: (B,) int64, values of ``Status``.
    evaluations: (B,) int64, evaluations of f spent on each sample.
    best: (B, D) the evaluated state with the smallest residual; best_residual: (B,).
    scale: (B,) ||z^[0]|| + ||f(z^[0])||, the yardstick for divergence.

    Without monitoring (see ``drive``) only ``state`` is set.
    """

    state: SolverState
    states: tuple[Tensor, ...] = ()
    residuals: Tensor | None = None
    status: Tensor | None = None
    evaluations: Tensor | None = None
    best: Tensor | None = None
    best_residual: Tensor | None = None
    scale: Tensor | None = None

    @property
    def z(self) -> Tensor:
        """(B, D) the last state."""
        return self.state.z

    def check(self) -> None:
        """Raise ``SolveError`` if any sample diverged or is not finite."""
        lines, outcomes = [], monitored(self.status).tolist()
        for status in (Status.DIVERGED, Status.NON_FINITE):
            rows = [str(row) for row, outcome in enumerate(outcomes) if outcome == status]
            if rows:
                shown = ", ".join(rows[:8]) + (", ..." if len(rows) > 8 else "")
                failed = f"{len(rows)} of {len(outcomes)} samples {status.name.lower()} ({shown})"
                lines.append(f"{failed}: {status.remedy}.")
        if lines:
            raise SolveError("\n".join(lines))
