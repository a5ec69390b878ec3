"""The only loop of a solve: steps, tolerance, per-sample status, regulators, observers, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count, check_number, described
from ..text import shown
from .solver import SOLVERS, Map, Solver, SolverState, length, residual
from .trajectory import Status, Trajectory, monitored

Regulator = Callable[[SolverState], Map | None]
"""Called between two steps with the state; returns the map of the next steps, or None to keep the present one."""

Observer = Callable[[SolverState], None]
"""Called after every step with the new state; must not change it."""


def drive(
    solver: Solver, f: Map, start: Tensor | SolverState | Trajectory, steps: int, *,
    tolerance: float | None = None, record: bool = False, regulate: Regulator | None = None,
    observers: Sequence[Observer] = (), divergence: float = 1e4, throw: bool = False,
) -> Trajectory:  # fmt: skip
    """Take up to ``steps`` solver steps from ``start``.

    start: z^[0] (B, D); or a ``SolverState``, from which a new record begins; or a ``Trajectory`` to resume, recorded
        and judged as before. A sample that has converged goes on if it misses the present tolerance.
    tolerance: relative residual at which a sample stops. A sample that converged, diverged or is not finite keeps its
        state from then on, whatever the others do; a map with ``rows`` (a DEQ's ``map``) is evaluated on the others
        only. None: every sample takes every step, and nothing synchronises with the host.
    record: keep every z^[t], residual and status. Without it and without a tolerance only the final state is returned.
    divergence: a sample has diverged when ||g(z^[t])|| exceeds this many times ||z^[0]|| + ||f(z^[0])||.
    throw: raise ``SolveError`` when a sample diverged or is not finite.
    """
    check_count("drive", "steps", steps, 0)
    if not isinstance(record, bool) or not isinstance(throw, bool):
        raise ValueError(f"drive: record={shown(record)}, throw={shown(throw)}; allowed: true or false.")
    if tolerance is not None:
        check_number("drive", "tolerance", tolerance, 0)
    check_number("drive", "divergence", divergence, 1, low_open=True)
    solver, looked_at = SOLVERS.resolve(solver), _looked_at(f)
    _check_calls(regulate, observers)
    state = _state(solver, start)
    past = start if isinstance(start, Trajectory) else Trajectory(state)
    watched = record or tolerance is not None or past.status is not None
    if throw and not watched:
        raise ValueError("drive: throw=True needs a monitored solve; pass record=True or a tolerance.")
    if record and past.residuals is not None and len(past.states) != len(past.residuals):
        raise ValueError("drive: record=True, but this trajectory's states were not kept; allowed: record it all.")

    states, monitor = list(past.states), _Monitor(past, tolerance, divergence) if watched else None
    record = record or bool(states)
    for taken in range(steps):
        if monitor is not None and tolerance is not None:
            if not bool(monitor.running.any()):
                break
            looked_at = _of_running(f, monitor.running, state.f_prev)
        state_next = _stepped(solver, looked_at, state)
        state = state_next if monitor is None else monitor.judge(state, state_next)
        if record:
            states.append(state.z)
        for observer in observers:
            observer(state)
        if regulate is not None and taken + 1 < steps:
            other = regulate(state)
            f = f if other is None else other
            looked_at = _looked_at(f)
    # What a subclass of Trajectory knows beside the dynamics stays with it.
    verdict = {} if monitor is None else monitor.verdict()
    trajectory = replace(past, state=state, states=tuple(states), **verdict)
    if throw:
        trajectory.check()
    return trajectory


def _looked_at(f: Map) -> Map:
    """``f``, which must give a state like the one it is given. A look at shape and dtype, never at the numbers."""
    wanted = "a function of a state (B, D) that gives one of the same shape, dtype and device"
    if not callable(f):
        raise ValueError(f"drive: f is {described(f)}; allowed: {wanted}.")

    def looked_at(z: Tensor) -> Tensor:
        try:
            f_z: Any = f(z)
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            raise ValueError(f"drive: f cannot be called with a state ({error}); allowed: {wanted}.") from error
        same = isinstance(f_z, Tensor) and f_z.shape == z.shape and f_z.device == z.device
        if not same or (f_z.dtype != z.dtype and not torch.is_autocast_enabled(z.device.type)):
            raise ValueError(f"drive: f gives {described(f_z)} for {described(z)}; allowed: {wanted}.")
        return f_z

    return looked_at


def _stepped(solver: Solver, f: Map, state: SolverState) -> SolverState:
    """One step, which must give the next state and the f(z) that it paid for."""
    after: Any = solver.step(f, state)
    owner, wanted = type(solver).__name__, "a SolverState with z, t one more than before, z_prev and f_prev"
    if not isinstance(after, SolverState):
        raise ValueError(f"drive: {owner}.step gives {described(after)}; allowed: {wanted}.")
    for name, z in (("z", after.z), ("f_prev", after.f_prev)):
        if not isinstance(z, Tensor) or z.shape != state.z.shape:
            raise ValueError(f"drive: {owner}.step gives a state whose {name} is {described(z)}; allowed: {wanted}.")
    if after.t != state.t + 1:
        raise ValueError(f"drive: {owner}.step gives t={after.t} after t={state.t}; allowed: {wanted}.")
    return after


def _of_running(f: Any, running: Tensor, f_prev: Tensor | None) -> Map:
    """``f`` on the samples that have not stopped, (B,) bool, where it can be cut down to them; one that has stopped was
    evaluated where it is, and keeps that f(z)."""
    rows, fewer = running.nonzero().squeeze(1), None
    if f_prev is not None and hasattr(f, "rows") and len(rows) < len(running):
        fewer = f.rows(rows, len(running))
    if f_prev is None or fewer is None:
        return _looked_at(f)
    fewer = _looked_at(fewer)
    return lambda z: f_prev.index_copy(0, rows, fewer(z[rows]))


def _check_calls(regulate: Any, observers: Any) -> None:
    if regulate is not None and not callable(regulate):
        raise ValueError(f"drive: regulate is {described(regulate)}; allowed: a function of a SolverState, or None.")
    if not isinstance(observers, Sequence) or not all(map(callable, observers)):
        kinds = [described(each) for each in observers] if isinstance(observers, Sequence) else described(observers)
        raise ValueError(f"drive: observers are {kinds}; allowed: a list of functions of a SolverState.")


def _state(solver: Solver, start: Tensor | SolverState | Trajectory) -> SolverState:
    state = start.state if isinstance(start, Trajectory) else start
    if not isinstance(state, SolverState):
        return solver.init(state)
    kind = type(solver.init(state.z))
    for name, z in (("z_prev", state.z_prev), ("f_prev", state.f_prev)):
        if z is not None and getattr(z, "shape", None) != state.z.shape:
            raise ValueError(f"drive: the start's {name} has not the shape of its z; allowed: {tuple(state.z.shape)}.")
    if type(state) is not kind:
        raise ValueError(f"drive: {type(solver).__name__} from a {type(state).__name__}; allowed: a {kind.__name__}.")
    return state


class _Monitor:
    """Per-sample bookkeeping of one solve: what a ``Trajectory`` says of it, with the residuals still in a list.

    Nothing here carries a graph or mixes samples.
    """

    def __init__(self, past: Trajectory, tolerance: float | None, divergence: float) -> None:
        self.tolerance, self.divergence, self.scale = tolerance, divergence, past.scale
        if past.status is None:
            z = past.z.detach()
            self.status = torch.full((len(z),), int(Status.BUDGET_SPENT), device=z.device)
            self.evaluations, self.residuals = torch.zeros_like(self.status), []
            self.best, self.best_residual = z, torch.full_like(length(z), torch.inf)
            return
        self.evaluations, self.residuals = monitored(past.evaluations), list(monitored(past.residuals))
        self.best, self.best_residual = monitored(past.best), monitored(past.best_residual)
        # A sample that converged by another tolerance runs again; one that failed stays failed.
        missed = self.best_residual > (-1.0 if tolerance is None else tolerance)
        again = (past.status == int(Status.CONVERGED)) & missed
        self.status = torch.where(again, int(Status.BUDGET_SPENT), past.status)

    @property
    def running(self) -> Tensor:
        """(B,) which samples have not stopped. (int: a compiler does not know how to compare a tensor with an enum.)"""
        return self.status == int(Status.BUDGET_SPENT)

    def judge(self, old: SolverState, new: SolverState) -> SolverState:
        """Judge the state the step started from; the state to go on with, where a stopped sample stays."""
        assert new.f_prev is not None  # every step pays for one evaluation
        z, f_z, running = old.z.detach(), new.f_prev.detach(), self.running
        self.evaluations = self.evaluations + (running if self.tolerance is not None else 1)
        r = residual(f_z, z)
        self.residuals.append(r)
        # Accelerated residuals do not fall monotonically: the last state may be worse than an earlier one. So the best
        # is kept, of those whose residual is known; the last state's would cost one more evaluation.
        better = r < self.best_residual
        self.best = torch.where(better[:, None], z, self.best)
        self.best_residual = torch.where(better, r, self.best_residual)
        if self.scale is None:  # ||z^[0]|| alone would be no yardstick: it is usually zero
            self.scale = length(z) + length(f_z)

        diverged = length(f_z - z) > self.divergence * (self.scale + 1e-9)
        finite = f_z.isfinite().all(dim=1) & new.z.detach().isfinite().all(dim=1)
        status = torch.where(diverged, int(Status.DIVERGED), self.status)
        status = torch.where(finite, status, int(Status.NON_FINITE))
        if self.tolerance is not None:
            status = torch.where(r <= self.tolerance, int(Status.CONVERGED), status)
        self.status = torch.where(running, status, self.status)
        if self.tolerance is None:
            return new
        return replace(new, z=torch.where(self.running[:, None], new.z, old.z))

    def verdict(self) -> dict[str, Any]:
        residuals = torch.stack(self.residuals) if self.residuals else self.best_residual.new_zeros(0, len(self.status))
        names = ("status", "evaluations", "best", "best_residual", "scale")
        return {"residuals": residuals, **{name: getattr(self, name) for name in names}}
