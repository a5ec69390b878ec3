"""What a monitored solve says of its samples: residual, evaluations, status and best iterate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import SOLVERS, each, some_solvers

from robustdeq.dynamics import Picard, SolveError, Status, drive, residual
from robustdeq.testing import assert_near, assert_same
from robustdeq.testing.problems import explosion, tanh, zeros


def by_hand(f, states):
    """The residuals of z^[0] = 0 and of the given states but the last, from evaluations of their own. (T, B)"""
    started = [torch.zeros_like(states[0]), *states[:-1]]
    return torch.stack([(f(z) - z).norm(dim=1) / (f(z).norm(dim=1) + 1e-9) for z in started])


def four_fates(z):
    """Numbers under Picard from 0: z^[t] = 2 - 2^(1-t); z^[t] creeps to 1000; z^[t] = (3^t - 1) / 2; NaN."""
    gain = torch.tensor([[0.5], [0.999], [3.0], [torch.nan]], dtype=z.dtype)
    return gain[: len(z)] * z + 1


FATES = torch.zeros(4, 1, dtype=torch.float64)


@some_solvers
def test_the_residual_is_the_undamped_one_of_the_state_it_stands_with(solver):
    f = tanh(5)
    found = drive(solver, f, zeros(f), 7, record=True)
    assert_near(found.residuals, by_hand(f, found.states), 1e-12)


def test_the_relative_residual_in_numbers():
    z, f_z = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert residual(f_z, z).tolist() == pytest.approx([0.8, 0.0])


@some_solvers
@settings(max_examples=15, deadline=None, derandomize=True)
@given(tolerance=st.floats(1e-6, 0.5), seed=st.integers(0, 99))
def test_the_tolerance_given_is_the_tolerance_used(solver, tolerance, seed):
    """A sample stops at the first state that meets it, stays there, and pays for nothing after it."""
    f = tanh(3, seed=seed)
    found = drive(solver, f, zeros(f), 12, tolerance=tolerance, record=True)
    for row in range(3):
        met = (found.residuals[:, row] <= tolerance).nonzero().flatten().tolist()
        states = [zeros(f)[row], *(z[row] for z in found.states)]
        if not met:
            assert found.status[row] == Status.BUDGET_SPENT
            assert found.evaluations[row] == 12
            continue
        assert found.status[row] == Status.CONVERGED
        assert found.evaluations[row] == met[0] + 1
        for z in states[met[0] :]:
            assert_same(z, states[met[0]])


@some_solvers
def test_a_state_that_did_not_stop_moves_on_as_if_without_a_tolerance(solver):
    f = tanh(5)
    free = drive(solver, f, zeros(f), 12, record=True)
    held = drive(solver, f, zeros(f), 12, tolerance=0.05, record=True)
    for row, taken in enumerate(held.evaluations.tolist()):
        running = taken - 1 if held.status[row] == Status.CONVERGED else taken
        for moved, expected in zip(held.states[:running], free.states):
            assert_same(moved[row], expected[row])


@some_solvers
def test_the_loop_ends_when_every_sample_has_converged(solver):
    f = tanh(5, norm=0.5)
    found = drive(solver, f, zeros(f), 1000, tolerance=1e-8, record=True)
    assert (found.status == Status.CONVERGED).all()
    assert len(found.states) == found.evaluations.max() < 100


@some_solvers
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), norm=st.sampled_from([0.5, 1.5, 4.0]))
def test_the_best_iterate_is_the_evaluated_state_with_the_smallest_residual(solver, seed, norm):
    f = tanh(3, seed=seed, norm=norm)  # beyond 1 the residual goes up and down
    found = drive(solver, f, zeros(f), 9, record=True)
    assert_same(found.best_residual, found.residuals.min(dim=0).values)
    started = torch.stack([zeros(f), *found.states[:-1]])
    for row, t in enumerate(found.residuals.argmin(dim=0)):
        assert_same(found.best[row], started[t, row])


@each({name: SOLVERS[name] for name in ("picard", "broyden-short", "reversible")})
def test_residuals_do_go_up_and_down_in_that_proof(solver):
    f = tanh(3, norm=4.0)
    best = drive(solver, f, zeros(f), 9, record=True).residuals.argmin(dim=0)
    assert (best < 8).any()


def test_every_status_at_once():
    """3^t exceeds 1e4 times ||z^[0]|| + ||f(z^[0])|| = 1 first at t = 9; 2^-t / (2 - 2^-t) <= 1e-3 first at t = 9."""
    found = drive(Picard(), four_fates, FATES, 50, tolerance=1e-3, record=True)
    assert found.status.tolist() == [Status.CONVERGED, Status.BUDGET_SPENT, Status.DIVERGED, Status.NON_FINITE]
    assert found.evaluations.tolist() == [10, 50, 10, 1]
    assert_near(found.z[[0, 2]], torch.tensor([[2 - 2.0**-8], [(3**9 - 1) / 2]], dtype=torch.float64), 1e-12)
    assert_same(found.z[3], FATES[3])


def test_without_a_tolerance_nothing_stops_and_every_step_is_paid_for():
    found = drive(Picard(), four_fates, FATES, 50, record=True)
    assert found.status.tolist() == [Status.BUDGET_SPENT, Status.BUDGET_SPENT, Status.DIVERGED, Status.NON_FINITE]
    assert found.evaluations.tolist() == [50] * 4
    assert_near(found.z[2], torch.tensor([(3.0**50 - 1) / 2], dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("limit, steps", [(2, 2), (100, 6), (1e6, 14)])
def test_a_sample_has_diverged_at_the_limit_given(limit, steps):
    found = drive(Picard(), four_fates, FATES, 50, tolerance=1e-3, divergence=limit)
    assert found.evaluations[2] == steps


def test_an_overflow_is_not_finite():
    found = drive(Picard(), lambda z: 1e200 * (1 + z * z), FATES, 9, tolerance=1e-3, divergence=1e308)
    assert found.status.tolist() == [Status.NON_FINITE] * 4


def test_the_first_failure_is_the_one_reported():
    found = drive(Picard(), explosion, FATES[:1], 20, record=True)
    assert not found.z.isfinite().any()
    assert found.status.tolist() == [Status.DIVERGED]


def test_a_start_that_is_solved_costs_one_evaluation():
    f = tanh(4)
    z = drive(Picard(), f, zeros(f), 500).z
    found = drive(Picard(), f, z, 9, tolerance=1e-6)
    assert found.evaluations.tolist() == [1, 1, 1]
    assert_same(found.z, z)


def test_a_failed_solve_raises_where_asked_with_the_remedy():
    with pytest.raises(SolveError) as raised:
        drive(Picard(), four_fates, FATES, 50, tolerance=1e-3, throw=True)
    assert "1 of 4 samples diverged (2): damp the solver" in str(raised.value)
    assert "1 of 4 samples non_finite (3): look for NaN" in str(raised.value)


def test_a_failed_solve_is_data_where_not_asked():
    assert drive(Picard(), four_fates, FATES, 50, tolerance=1e-3).status[2] == Status.DIVERGED


def test_a_spent_budget_is_no_failure():
    found = drive(Picard(), four_fates, FATES[:2], 5, record=True, throw=True)
    assert found.status.tolist() == [Status.BUDGET_SPENT] * 2


def test_a_solve_that_nobody_monitors_returns_the_state_only():
    f = tanh(4)
    found = drive(Picard(), f, zeros(f), 5)
    assert found.residuals is found.status is found.best is None
    assert found.states == ()
    assert_same(found.z, drive(Picard(), f, zeros(f), 5, record=True).z)


@some_solvers
def test_the_map_may_change_between_two_steps(solver):
    """A regulator is asked between steps only, N - 1 times; the solver keeps its memory (P23: the lifted orbit)."""
    f, other = tanh(4), tanh(4, seed=1)
    asked = []

    def regulate(state):
        asked.append(state.t)
        return other if state.t == 2 else None

    found = drive(solver, f, zeros(f), 5, regulate=regulate)
    state = drive(solver, other, drive(solver, f, zeros(f), 2).state, 3).state
    assert asked == [1, 2, 3, 4]
    assert_same(found.state, state)


@some_solvers
def test_observers_see_every_state(solver):
    f, seen = tanh(4), []
    found = drive(solver, f, zeros(f), 5, record=True, observers=[seen.append])
    assert_same(tuple(state.z for state in seen), found.states)


@some_solvers
def test_no_steps_return_the_start(solver):
    f = tanh(4)
    found = drive(solver, f, f.u, 0, record=True)
    assert_same(found.z, f.u)
    assert found.evaluations.tolist() == [0, 0, 0]
    assert found.residuals.shape == (0, 3)
