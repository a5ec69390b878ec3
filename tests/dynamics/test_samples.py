"""Laws 2 and 3 of a whole classifier: nothing about an image depends on its batch, whatever happens to the others.

(``SolverLaws`` asks the same of every solver.)
"""

import functools

import pytest
import torch
from problems import every_kind
from torch import nn

from robustdeq.dynamics import SOLVERS, Status, drive
from robustdeq.models.zoo import create_model
from robustdeq.testing import assert_near, assert_same
from robustdeq.testing.problems import varied, zeros

BATCH, ROW = 7, 2
OTHERS = [i for i in range(BATCH) if i != ROW]
PERMUTED = [3, 0, 6, 2, 5, 1, 4]


def report(trajectory, rows):
    """Everything that a trajectory says of some samples."""
    states, residuals = torch.stack(trajectory.states)[:, rows], trajectory.residuals[:, rows]
    judged = (trajectory.status, trajectory.evaluations, trajectory.best, trajectory.best_residual, trajectory.scale)
    return (trajectory.z[rows], states, residuals, *(value[rows] for value in judged))


def test_the_samples_that_the_laws_are_proved_on_do_differ():
    f = varied()
    status = drive(SOLVERS["picard"](), f, zeros(f), 8, tolerance=0.005).status
    assert {Status.CONVERGED, Status.BUDGET_SPENT} == set(status.tolist())


@functools.cache
def nano(name: str) -> nn.Module:
    return create_model("mdeq-nano", solver=name, seed=0).double().eval()


def images(batch: int = BATCH) -> torch.Tensor:
    return torch.rand(batch, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@every_kind
@pytest.mark.parametrize("rows", [[ROW], PERMUTED], ids=["alone", "permuted"])
def test_a_classifier_treats_an_image_alike_in_any_batch(solver, rows):
    model, x = nano(solver.name), images()
    whole, found = model.trajectory(x, tolerance=0.9), model.trajectory(x[rows], tolerance=0.9)
    taken = len(found.states)
    assert_near(torch.stack(found.states), torch.stack(whole.states)[:taken, rows], 1e-6)
    assert_same(found.status, whole.status[rows])
    assert_same(found.evaluations, whole.evaluations[rows])
    assert_near(model(x[rows]), model(x)[rows], 1e-6)


@every_kind
def test_an_image_of_nans_changes_no_bit_of_the_others(solver):
    model, x = nano(solver.name), images()
    y = x.index_fill(0, torch.tensor([ROW]), torch.nan)
    well, ill = model.trajectory(x), model.trajectory(y)
    assert ill.status[ROW] == Status.NON_FINITE
    assert_same(report(ill, OTHERS), report(well, OTHERS))


@every_kind
def test_an_image_of_nans_changes_no_bit_of_the_others_gradients(solver):
    def gradient(x):
        x = x.requires_grad_()
        return torch.autograd.grad(nano(solver.name)(x).square().sum(), x)[0][OTHERS]

    well = gradient(images())
    assert well.flatten(1).norm(dim=1).min() > 0
    assert_same(gradient(images().index_fill(0, torch.tensor([ROW]), torch.nan)), well)
