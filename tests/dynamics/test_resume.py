"""Law 1: stopping after k steps and resuming for m equals k + m steps, bit for bit."""

from dataclasses import replace

import pytest
import torch
from problems import Affine, affine, assert_same, every_solver, tanh, zeros

from robustdeq.dynamics import Anderson, Broyden, Picard, Status, drive

SPLITS = pytest.mark.parametrize("split", [(0, 6), (1, 5), (3, 3), (5, 1), (6, 0)])
TOLERANCES = pytest.mark.parametrize("tolerance", [None, 1e-12, 0.03])


@every_solver
@SPLITS
@TOLERANCES
@pytest.mark.parametrize("record", [True, False])
def test_from_a_trajectory_every_field_is_as_if_uninterrupted(solver, split, tolerance, record):
    f = tanh(5, batch=6)
    options = dict(tolerance=tolerance, record=record)
    whole = drive(solver, f, zeros(f), sum(split), **options)
    part = drive(solver, f, zeros(f), split[0], **options)
    assert_same(drive(solver, f, part, split[1], **options), whole)


@every_solver
@SPLITS
@TOLERANCES
def test_from_a_solver_state_the_states_are_as_if_uninterrupted(solver, split, tolerance):
    f = tanh(5, batch=6)
    whole = drive(solver, f, zeros(f), sum(split), tolerance=tolerance, record=True)
    part = drive(solver, f, zeros(f), split[0], tolerance=tolerance, record=True)
    rest = drive(solver, f, part.state, split[1], tolerance=tolerance, record=True)
    assert_same(rest.z, whole.z)
    taken = len(whole.states) - split[0]  # the rest needs a step to see that every sample has converged already
    assert_same(rest.states[:taken], whole.states[split[0] :])
    assert_same(rest.residuals[:taken], whole.residuals[split[0] :])
    if tolerance is None:
        assert_same(rest.state, whole.state)


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
    part = drive(Picard(), f, zeros(f), 3, record=True).reading(lambda z: z.sum(1))
    found = drive(Picard(), f, part, 2)
    assert len(found.states) == len(found.residuals) == 5
    assert_same(found.logits(5), found.z.sum(1))


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
