"""The only loop of a solve: steps, tolerance, per-sample status, regulators, observers, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_count, check_number
from .solver import Map, Solver, SolverState, length, residual
from .trajectory import Status, Trajectory, monitored

Regulator = Callable[[SolverState], Map | None]
"""Called between two steps with the state; returns the map of the next steps, or None to keep the present one."""

Observer = Callable[[SolverState], None]
"""Called after every step with the new state; must not change it."""


def drive(
    solver: Solver,
    f: Map,
    start: Tensor | SolverState | Trajectory,
    steps: int,
    *,
    tolerance: float | None = None,
    record: bool = False,
    regulate: Regulator | None = None,
    observers: Sequence[Observer] = (),
    divergence: float = 1e4,
    throw: bool = False,
) -> Trajectory:
    """Take up to ``steps`` solver steps from ``start``.

    start: z^[0] (B, D); or a ``SolverState``, from which a new record begins; or a ``Trajectory`` to resume, recorded
        and judged as before. A sample that has converged goes on if it misses the present tolerance.
    tolerance: relative residual at which a sample stops. A sample that converged, diverged or is not finite keeps its
        state from then on, whatever the others do. None: every sample takes every step, and nothing synchronises with
        the host.
    record: keep every z^[t], residual and status. Without it and without a tolerance only the final state is returned.
    divergence: a sample has diverged when ||g(z^[t])|| exceeds this many times ||z^[0]|| + ||f(z^[0])||.
    throw: raise ``SolveError`` when a sample diverged or is not finite.
    """
    check_count("drive", "steps", steps, 0)
    if tolerance is not None:
        check_number("drive", "tolerance", tolerance, 0)
    check_number("drive", "divergence", divergence, 1, low_open=True)
    past = start if isinstance(start, Trajectory) else None
    watched = record or tolerance is not None or (past is not None and past.status is not None)
    if throw and not watched:
        raise ValueError("drive: throw=True needs a monitored solve; pass record=True or a tolerance.")

    state = _state(solver, start)
    states = _past_states(past, record)
    record = record or bool(states)
    monitor = _Monitor.of(past, state, tolerance, divergence) if watched else None
    for taken in range(steps):
        if monitor is not None and tolerance is not None and monitor.all_stopped():
            break
        state_next = solver.step(f, state)
        if monitor is not None:
            monitor.watch(state, state_next)
            state_next = monitor.hold(state, state_next)
        state = state_next
        if record:
            states.append(state.z)
        for observer in observers:
            observer(state)
        if regulate is not None and taken + 1 < steps:
            f = regulate(state) or f
    past = Trajectory(state) if past is None else past  # what a subclass knows beside the dynamics stays with it
    trajectory = replace(past, state=state) if monitor is None else monitor.report(past, state, tuple(states))
    if throw:
        trajectory.check()
    return trajectory


def _state(solver: Solver, start: Tensor | SolverState | Trajectory) -> SolverState:
    state = start.state if isinstance(start, Trajectory) else start
    if not isinstance(state, SolverState):
        return solver.init(state)
    own = type(solver.init(state.z))
    if type(state) is not own:
        raise ValueError(f"drive: {type(solver).__name__} from a {type(state).__name__}; allowed: a {own.__name__}.")
    return state


def _past_states(past: Trajectory | None, record: bool) -> list[Tensor]:
    """The states recorded so far, one for every residual."""
    states = [] if past is None else list(past.states)
    if record and past is not None and past.residuals is not None and len(states) != len(past.residuals):
        raise ValueError("drive: record=True, but this trajectory's states were not kept; allowed: record it all.")
    return states


@dataclass
class _Monitor:
    """Per-sample bookkeeping of one solve; nothing here carries a graph or mixes samples."""

    tolerance: float | None
    divergence: float
    status: Tensor
    evaluations: Tensor
    residuals: list[Tensor]
    best: Tensor
    best_residual: Tensor
    scale: Tensor | None

    @classmethod
    def of(cls, past: Trajectory | None, state: SolverState, tolerance: float | None, divergence: float) -> _Monitor:
        if past is not None and past.status is not None:
            best_residual = monitored(past.best_residual)
            missed = best_residual > (-1.0 if tolerance is None else tolerance)
            again = (past.status == int(Status.CONVERGED)) & missed
            status = torch.where(again, int(Status.BUDGET_SPENT), past.status)
            evaluations, residuals = monitored(past.evaluations), list(monitored(past.residuals))
            best = monitored(past.best)
            return cls(tolerance, divergence, status, evaluations, residuals, best, best_residual, past.scale)
        z = state.z.detach()
        status = torch.full((len(z),), int(Status.BUDGET_SPENT), device=z.device)
        infinite = torch.full_like(length(z), torch.inf)
        return cls(tolerance, divergence, status, torch.zeros_like(status), [], z, infinite, None)

    @property
    def running(self) -> Tensor:
        """(B,) which samples have not stopped. (int: a compiler does not know how to compare a tensor with an enum.)"""
        return self.status == int(Status.BUDGET_SPENT)

    def watch(self, old: SolverState, new: SolverState) -> None:
        """Judge the state the step started from."""
        assert new.f_prev is not None  # every step pays for one evaluation
        z, f_z = old.z.detach(), new.f_prev.detach()
        running = self.running
        self.evaluations = self.evaluations + (running if self.tolerance is not None else 1)
        r = residual(f_z, z)
        self.residuals.append(r)
        better = r < self.best_residual
        self.best = torch.where(better[:, None], z, self.best)
        self.best_residual = torch.where(better, r, self.best_residual)
        if self.scale is None:
            self.scale = length(z) + length(f_z)

        diverged = length(f_z - z) > self.divergence * (self.scale + 1e-9)
        finite = f_z.isfinite().all(dim=1) & new.z.detach().isfinite().all(dim=1)
        status = torch.where(diverged, int(Status.DIVERGED), self.status)
        status = torch.where(finite, status, int(Status.NON_FINITE))
        if self.tolerance is not None:
            status = torch.where(r <= self.tolerance, int(Status.CONVERGED), status)
        self.status = torch.where(running, status, self.status)

    def hold(self, old: SolverState, new: SolverState) -> SolverState:
        """With a tolerance, a stopped sample stays where it was judged."""
        if self.tolerance is None:
            return new
        return replace(new, z=torch.where(self.running[:, None], new.z, old.z))

    def all_stopped(self) -> bool:
        return not bool(self.running.any())

    def report(self, past: Trajectory, state: SolverState, states: tuple[Tensor, ...]) -> Trajectory:
        size = len(self.status)
        residuals = torch.stack(self.residuals) if self.residuals else self.best_residual.new_zeros(0, size)
        return replace(
            past, state=state, states=states, residuals=residuals, status=self.status, evaluations=self.evaluations,
            best=self.best, best_residual=self.best_residual, scale=self.scale,
        )  # fmt: skip
