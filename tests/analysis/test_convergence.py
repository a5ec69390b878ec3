"""Spectral radius and path independence against linear cells, whose eigenvalues and fixed points are known."""

import math
from functools import partial

import pytest
import torch
from small_models import SOLVERS, images_for, own
from torch import nn

import robustdeq as rd
from robustdeq.analysis import path_independence, spectral_radius
from robustdeq.testing import left_untouched

SIZE = 6


class LinearCell(nn.Module):
    """f(z; u) = A z + u."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, z, u):
        return z @ self.a.mT + u


def linear(a, steps=5, **options):
    """A DEQ of images (1, 2, 3) with the Jacobian ``a`` everywhere."""
    model = rd.DEQClassifier(
        nn.Flatten(), LinearCell(a), nn.Linear(SIZE, 3, dtype=a.dtype), [(SIZE,)], steps=steps, image_shape=(1, 2, 3),
        **options,
    )  # fmt: skip
    return model.eval()


def basis(seed=0):
    """An invertible (SIZE, SIZE) float64 that is not orthogonal."""
    return torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similar(values, seed=0):
    """A matrix with these eigenvalues, and eigenvectors at any angles."""
    s = basis(seed)
    return s @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ torch.linalg.inv(s)


@pytest.mark.parametrize("values", [(0.9, 0.5, 0.3, 0.2, 0.1, 0.0), (-1.7, 1.0, 0.9, 0.3, 0.2, 0.1)])
def test_the_radius_of_a_linear_cell_is_its_largest_eigenvalue(values):
    model = linear(similar(values))
    found = spectral_radius(model, images_for(model, 4))
    torch.testing.assert_close(found.radius, torch.full((4,), max(map(abs, values)), dtype=torch.float64))
    assert (found.drift < 1e-4).all()


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.0])
def test_a_complex_pair_leads_within_the_error_that_is_stated(angle):
    blocks = torch.block_diag(torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]),
                              0.4 * torch.eye(SIZE - 2)).double()  # fmt: skip
    s = basis(1)
    model = linear(1.2 * s @ blocks @ torch.linalg.inv(s))
    x = images_for(model, 4)
    errors = [(spectral_radius(model, x, iterations=n).radius - 1.2).abs().max() for n in (40, 1000)]
    assert errors[0] < 0.2 and errors[1] < 0.01
    turning = linear(1.2 * blocks)  # normal: every growth is the radius once the rest has died away
    torch.testing.assert_close(spectral_radius(turning, x).radius, torch.full((4,), 1.2).double(), rtol=1e-6, atol=0)


def test_the_radius_of_tanh_is_that_of_its_jacobian_by_autograd():
    model = own(dtype=torch.float64, steps=3)
    x = images_for(model, 3)
    u, z = model.inject(x), model.trajectory(x).states[-1]
    found = spectral_radius(model, x, iterations=600).radius
    for row in range(3):
        f = partial(model.cell, u=u[row : row + 1])
        jacobian = torch.autograd.functional.jacobian(f, z[row : row + 1])
        radius = torch.linalg.eigvals(jacobian[0, :, 0]).abs().max()
        torch.testing.assert_close(found[row], radius, rtol=0.02, atol=0)


def test_nilpotent_and_broken_jacobians():
    shift = torch.diag(torch.ones(SIZE - 1, dtype=torch.float64), 1)
    model = linear(shift)
    x = images_for(model, 3)
    x[1] = float("nan")
    radius = spectral_radius(model, x).radius
    assert radius[1].isnan() and radius[0] == radius[2] == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_contraction_forgets_its_start_at_the_known_rate(solver):
    model = linear(0.5 * torch.eye(SIZE, dtype=torch.float64), steps=4, solver=solver)
    found = path_independence(model, images_for(model, 3), starts=3)
    assert (found.ended < 0.5 * found.started).all()
    if solver == "picard":  # z^[N] = A^N z^[0] + the same for all
        torch.testing.assert_close(found.ended, found.started / 2**4)


def test_an_identity_remembers_its_start_and_a_constant_does_not():
    x = images_for(linear(torch.eye(SIZE, dtype=torch.float64)), 3)
    kept = path_independence(linear(torch.eye(SIZE, dtype=torch.float64)), x)
    torch.testing.assert_close(kept.ended, kept.started)
    gone = path_independence(linear(torch.zeros(SIZE, SIZE, dtype=torch.float64)), x)
    assert not gone.ended.any() and (gone.agree == 1).all()


def test_starts_are_as_long_as_asked_for():
    model = linear(torch.eye(SIZE, dtype=torch.float64))
    x = images_for(model, 2)
    one, three = (path_independence(model, x, scale=scale, seed=3).started for scale in (1.0, 3.0))
    torch.testing.assert_close(3 * one, three)


@pytest.mark.parametrize("measure", [spectral_radius, path_independence])
def test_a_samples_numbers_do_not_depend_on_its_batch_and_the_model_is_left_as_it_was(measure):
    model = own(dtype=torch.float64).train()
    x, numbers = images_for(model, 5), torch.arange(10, 15)
    with left_untouched(model):
        whole = measure(model, x, indices=numbers, seed=7)
    alone = measure(model, x[3:4], indices=numbers[3:4], seed=7)
    for name, values in vars(whole).items():
        torch.testing.assert_close(values[3:4], getattr(alone, name), rtol=1e-9, atol=1e-12)
    other = measure(model, x, indices=numbers, seed=8)
    assert any(not torch.equal(values, getattr(other, name)) for name, values in vars(whole).items())
    frame = whole.frame()
    assert list(frame["sample"]) == [0, 1, 2, 3, 4] and len(frame.columns) == 1 + len(vars(whole))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x: spectral_radius(m, x, iterations=3), "iterations=3; allowed: a whole number >= 4"),
        (lambda m, x: path_independence(m, x, starts=0), "starts=0; allowed"),
        (lambda m, x: path_independence(m, x, scale=0), "scale=0; allowed"),
        (lambda m, x: path_independence(m, x, indices=torch.zeros(1)), "indices are"),
        (lambda m, x: spectral_radius(nn.Flatten(), x), "the model is a Flatten; allowed: a DEQ"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    model = own()
    with pytest.raises(ValueError, match=message):
        make(model, images_for(model))
