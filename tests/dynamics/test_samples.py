"""Laws 2 and 3: nothing about a sample depends on its batch, whatever happens to the others."""

import functools

import pytest
import torch
from problems import BAD, Spoiled, Tanh, assert_near, assert_same, each, every_solver, tanh, zeros
from torch import nn

from robustdeq.dynamics import SOLVERS, Status, drive
from robustdeq.gradients import Unrolled
from robustdeq.models.zoo import create_model

BATCH, ROW = 7, 2
OTHERS = [i for i in range(BATCH) if i != ROW]
PERMUTED = [3, 0, 6, 2, 5, 1, 4]
TOLERANCES = pytest.mark.parametrize("tolerance", [None, 0.005])

every_kind = each({name: kind() for name, kind in SOLVERS.items()})


def varied(batch: int = BATCH) -> Tanh:
    """A map whose samples converge at different rates: large injections saturate the tanh."""
    f = tanh(5, batch, norm=0.95)
    return Tanh(f.weight, f.u * torch.linspace(0.1, 4, batch, dtype=torch.float64)[:, None])


def report(trajectory, rows, taken=None):
    """Everything that a trajectory says of some samples; of their first ``taken`` steps."""
    states, residuals = torch.stack(trajectory.states)[:taken, rows], trajectory.residuals[:taken, rows]
    judged = (trajectory.status, trajectory.evaluations, trajectory.best, trajectory.best_residual, trajectory.scale)
    return (trajectory.z[rows], states, residuals, *(value[rows] for value in judged))


@every_solver
@TOLERANCES
@pytest.mark.parametrize("rows", [[ROW], PERMUTED, [5, 5, ROW]], ids=["alone", "permuted", "other company"])
def test_a_sample_is_solved_alike_in_any_batch(solver, tolerance, rows):
    f = varied()
    whole = drive(solver, f, zeros(f), 8, tolerance=tolerance, record=True)
    part = Tanh(f.weight, f.u[rows])
    found = drive(solver, part, zeros(part), 8, tolerance=tolerance, record=True)
    taken = len(found.states)  # the batch may have ended sooner without its slowest sample
    assert_near(found.z, whole.z[rows], 1e-6)
    assert_near(torch.stack(found.states), torch.stack(whole.states)[:taken, rows], 1e-6)
    assert_near(found.residuals, whole.residuals[:taken, rows], 1e-6)
    assert_near(found.best, whole.best[rows], 1e-6)
    assert_same(found.status, whole.status[rows])
    assert_same(found.evaluations, whole.evaluations[rows])


def test_the_samples_of_that_proof_do_differ():
    f = varied()
    status = drive(SOLVERS["picard"](), f, zeros(f), 8, tolerance=0.005).status
    assert {Status.CONVERGED, Status.BUDGET_SPENT} == set(status.tolist())


@every_solver
@TOLERANCES
@BAD
def test_a_bad_sample_changes_no_bit_of_the_others(solver, tolerance, bad):
    f = varied()
    well = drive(solver, f, zeros(f), 8, tolerance=tolerance, record=True)
    ill = drive(solver, Spoiled(f, ROW, bad), zeros(f), 8, tolerance=tolerance, record=True)
    taken = min(len(well.states), len(ill.states))  # a batch ends when its slowest sample does
    assert_same(report(ill, OTHERS, taken), report(well, OTHERS, taken))


@every_solver
@BAD
def test_a_bad_sample_changes_no_bit_of_the_others_gradients(solver, bad):
    def gradient(instead):
        f = varied()
        f.u.requires_grad_()
        z = Unrolled()(solver, Spoiled(f, ROW, instead or f), zeros(f), 8)
        return torch.autograd.grad(z.square().sum(), f.u)[0][OTHERS]

    well = gradient(None)
    assert well.abs().min() > 0
    assert_same(gradient(bad), well)


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
