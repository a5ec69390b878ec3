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

    states, record = list(past.states), record or bool(past.states)
    # What a subclass of Trajectory knows beside the dynamics stays with it.
    trajectory = _begun(replace(past, state=state), tolerance) if watched else replace(past, state=state)
    for taken in range(steps):
        if tolerance is not None:
            running = _running(trajectory.status)
            if not bool(running.any()):
                break
            looked_at = _of_running(f, running, trajectory.state.f_prev)
        after = _stepped(solver, looked_at, trajectory.state)
        trajectory = _judged(trajectory, after, tolerance, divergence) if watched else replace(trajectory, state=after)
        if record:
            states.append(trajectory.z)
        for observer in observers:
            observer(trajectory.state)
        if regulate is not None and taken + 1 < steps:
            other = regulate(trajectory.state)
            f = f if other is None else other
            looked_at = _looked_at(f)
    trajectory = replace(trajectory, states=tuple(states))
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


def _running(status: Any) -> Tensor:
    """(B,) which samples have not stopped. (int: a compiler does not know how to compare a tensor with an enum.)"""
    return status == int(Status.BUDGET_SPENT)


def _begun(past: Trajectory, tolerance: float | None) -> Trajectory:
    """The record of a solve to go on with: an empty one, or that of a solve before, where a sample that converged by
    another tolerance runs again; one that failed stays failed."""
    if past.status is not None:
        missed = monitored(past.best_residual) > (-1.0 if tolerance is None else tolerance)
        again = (past.status == int(Status.CONVERGED)) & missed
        return replace(past, status=torch.where(again, int(Status.BUDGET_SPENT), past.status))
    z = past.z.detach()
    status = torch.full((len(z),), int(Status.BUDGET_SPENT), device=z.device)
    unknown = torch.full_like(length(z), torch.inf)
    return replace(
        past, residuals=unknown.new_zeros(0, len(z)), status=status, evaluations=torch.zeros_like(status), best=z,
        best_residual=unknown,
    )  # fmt: skip


def _judged(past: Any, after: SolverState, tolerance: float | None, divergence: float) -> Trajectory:
    """The record with one step more: the state that the step started from is judged, of every sample by itself and
    without a graph, and a stopped sample stays there."""
    assert after.f_prev is not None  # every step pays for one evaluation
    before, running = past.state, _running(past.status)
    z, f_z = before.z.detach(), after.f_prev.detach()
    r = residual(f_z, z)
    # Accelerated residuals do not fall monotonically: the last state may be worse than an earlier one. So the best is
    # kept, of those whose residual is known; the last state's would cost one more evaluation.
    better = r < past.best_residual
    # ||z^[0]|| alone would be no yardstick: it is usually zero.
    scale = length(z) + length(f_z) if past.scale is None else past.scale

    diverged = length(f_z - z) > divergence * (scale + 1e-9)
    finite = f_z.isfinite().all(dim=1) & after.z.detach().isfinite().all(dim=1)
    status = torch.where(diverged, int(Status.DIVERGED), past.status)
    status = torch.where(finite, status, int(Status.NON_FINITE))
    if tolerance is not None:
        status = torch.where(r <= tolerance, int(Status.CONVERGED), status)
    status = torch.where(running, status, past.status)
    if tolerance is not None:
        after = replace(after, z=torch.where(_running(status)[:, None], after.z, before.z))
    return replace(
        past, state=after, residuals=torch.cat([past.residuals, r[None]]), status=status, scale=scale,
        evaluations=past.evaluations + (running if tolerance is not None else 1),
        best=torch.where(better[:, None], z, past.best), best_residual=torch.where(better, r, past.best_residual),
    )  # fmt: skip
