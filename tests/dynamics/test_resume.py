"""Law 1: stopping after k steps and resuming for m equals k + m steps, bit for bit."""

from dataclasses import replace

import pytest
import torch
from problems import some_solvers

from robustdeq.dynamics import Anderson, Broyden, Picard, Status, drive
from robustdeq.testing import assert_same
from robustdeq.testing.problems import Affine, affine, tanh, zeros


@some_solvers
@pytest.mark.parametrize("split", [(0, 6), (3, 3), (5, 1)])
@pytest.mark.parametrize("tolerance", [None, 0.03])
def test_from_a_solver_state_a_new_record_begins(solver, split, tolerance):
    """(From a trajectory every field is as if uninterrupted: ``SolverLaws``.)"""
    f = tanh(5, batch=6)
    whole = drive(solver, f, zeros(f), sum(split), tolerance=tolerance, record=True)
    part = drive(solver, f, zeros(f), split[0], tolerance=tolerance, record=True)
    rest = drive(solver, f, part.state, split[1], tolerance=tolerance, record=True)
    assert_same(rest.z, whole.z)
    taken = len(whole.states) - split[0]  # the rest needs a step to see that every sample has converged already
    assert_same(rest.states[:taken], whole.states[split[0] :])
    assert_same(rest.residuals[:taken], whole.residuals[split[0] :])


@some_solvers
@pytest.mark.parametrize("tolerance", [None, 1e-12])
def test_a_solve_that_keeps_no_states_is_resumed_alike(solver, tolerance):
    f = tanh(5)
    part = drive(solver, f, zeros(f), 2, tolerance=tolerance)
    assert_same(drive(solver, f, part, 4, tolerance=tolerance), drive(solver, f, zeros(f), 6, tolerance=tolerance))


def some_converged(tolerance):
    """Rows whose rates of convergence differ: (map, trajectory in which some stopped and some did not)."""
    f = Affine(torch.diag(torch.tensor([0.1, 0.9], dtype=torch.float64)), torch.eye(2, dtype=torch.float64))
    part = drive(Picard(), f, zeros(f), 5, tolerance=tolerance)
    assert part.status.tolist() == [Status.CONVERGED, Status.BUDGET_SPENT]
    return f, part


def test_a_tighter_tolerance_takes_a_converged_sample_up_again():
    f, part = some_converged(1e-3)
    found = drive(Picard(), f, part, 200, tolerance=1e-9)
    assert found.status.tolist() == [Status.CONVERGED, Status.CONVERGED]
    assert (found.residuals[-1] <= 1e-9).all()


def test_without_a_tolerance_every_sample_takes_every_step_again():
    f, part = some_converged(1e-3)
    found = drive(Picard(), f, part, 10)
    assert found.status.tolist() == [Status.BUDGET_SPENT, Status.BUDGET_SPENT]
    assert found.evaluations.tolist() == [n + 10 for n in part.evaluations.tolist()]
    assert_same(found.z, drive(Picard(), f, part.state, 10).z)


def test_a_looser_tolerance_leaves_a_converged_sample_alone():
    f, part = some_converged(1e-3)
    found = drive(Picard(), f, part, 3, tolerance=1e-2)
    assert_same(found.z[0], part.z[0])
    assert found.evaluations[0] == part.evaluations[0]


def test_a_record_goes_on_being_recorded():
    f = affine(4)
    found = drive(Picard(), f, drive(Picard(), f, zeros(f), 3, record=True), 2)
    assert len(found.states) == len(found.residuals) == 5


def test_a_record_cannot_begin_in_the_middle():
    f = affine(4)
    part = drive(Picard(), f, zeros(f), 3, tolerance=1e-9)
    with pytest.raises(ValueError, match="states were not kept"):
        drive(Picard(), f, part, 2, record=True)


def test_a_failed_sample_stays_failed():
    f = Affine(torch.diag(torch.tensor([0.5, 3.0], dtype=torch.float64)), torch.eye(2, dtype=torch.float64))
    part = drive(Picard(), f, zeros(f), 30, tolerance=1e-6)
    assert part.status.tolist() == [Status.CONVERGED, Status.DIVERGED]
    found = drive(Picard(), f, part, 5, tolerance=1e-6)
    assert_same(replace(found, residuals=part.residuals), part)


@pytest.mark.parametrize("solver, other", [(Anderson(), Broyden()), (Broyden(), Picard()), (Picard(), Anderson())])
def test_another_solvers_state_is_refused(solver, other):
    f = affine(4)
    state = drive(other, f, zeros(f), 2).state
    with pytest.raises(ValueError, match=f"{type(solver).__name__} from a {type(state).__name__}"):
        drive(solver, f, state, 1)
