"""What a trajectory lets one ask, and what it refuses."""

import pytest
import torch

from robustdeq.dynamics import Picard, SolveError, Status, Trajectory, drive
from robustdeq.testing.problems import tanh, zeros

F = tanh(4)


def test_check_needs_a_monitored_solve():
    with pytest.raises(ValueError, match="record=True"):
        drive(Picard(), F, zeros(F), 5).check()


def test_check_lists_the_failed_samples_and_shortens_a_long_list():
    start = torch.zeros(20, 1).index_fill(0, torch.arange(3, 20), torch.nan)
    found = drive(Picard(), lambda z: 0.5 * z, start, 3, record=True)
    with pytest.raises(SolveError, match=r"17 of 20 samples non_finite \(3, 4, 5, 6, 7, 8, 9, 10, \.\.\.\)"):
        found.check()


def test_check_passes_a_solve_that_did_not_fail():
    drive(Picard(), F, zeros(F), 5, record=True).check()


def test_every_status_has_a_remedy_of_its_own():
    assert len({status.remedy for status in Status}) == 4


def test_a_recorded_trajectory_carries_no_graph_of_what_it_judged():
    f = tanh(4, grad=True)
    found = drive(Picard(), f, zeros(f), 5, record=True)
    assert found.z.requires_grad
    assert not any(value.requires_grad for value in (found.residuals, found.best, found.best_residual, found.scale))


def test_it_knows_nothing_of_images_or_logits():
    """What does is ``models.ClassifierTrajectory``."""
    assert not {"logits", "readout", "inputs"} & set(dir(Trajectory))
