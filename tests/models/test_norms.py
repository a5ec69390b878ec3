"""Bounds of circular convolutions: exact in Fourier space, from above whenever they end, and steps that contract."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeq.models.norms import OUTWARD, circular, gram_bound, step_size, transfer, transposed

GRIDS = [(4, 4), (5, 3), (1, 1), (2, 6), (3, 8)]


def kernel(out=3, into=2, seed=0, sides=(3, 3)):
    return torch.randn(out, into, *sides, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(weight, grid):
    """The matrix of the convolution, column by column."""
    waves = torch.eye(weight.shape[1] * grid[0] * grid[1], dtype=weight.dtype).view(-1, weight.shape[1], *grid)
    return circular(waves, weight).flatten(1).mT


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sides", [(3, 3), (1, 3), (5, 1)])
def test_the_blocks_have_the_singular_values_of_the_convolution(grid, sides):
    if sides[0] // 2 > grid[0] or sides[1] // 2 > grid[1]:
        pytest.skip("a pad larger than the image")
    weight = kernel(sides=sides)
    blocks = torch.linalg.svdvals(transfer(weight, grid)).amax()
    assert float(blocks) == pytest.approx(float(torch.linalg.matrix_norm(dense(weight, grid), 2)), rel=1e-12)
    assert torch.allclose(dense(transposed(weight), grid), dense(weight, grid).mT, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 4, 4), (3, 9, 2), (3, 2, 9), (5, 1, 1), (2, 40, 40)])
def test_a_bound_that_ends_early_is_never_below_the_norm_and_falls_to_it(shape):
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        blocks = torch.randn(*shape, generator=draw, dtype=torch.complex128)
        blocks = blocks * 10.0 ** torch.randint(-3, 4, (shape[0], 1, 1), generator=draw)
        exact = float(torch.linalg.matrix_norm(blocks, 2).amax())
        bounds = [float(gram_bound(blocks, squarings)) * OUTWARD for squarings in range(13)]
        assert min(bounds) >= exact and bounds[-1] <= 1.001 * exact
        assert all(later <= earlier * OUTWARD for earlier, later in itertools.pairwise(bounds))
        for squarings, bound in enumerate(bounds):
            assert bound <= exact * min(shape[1:]) ** (0.5 ** (squarings + 2)) * (1 + 1e-8)


def test_equal_singular_values_are_the_worst_case_and_nothing_is_almost_nothing():
    identity = torch.eye(64, dtype=torch.complex128)[None]
    assert float(gram_bound(identity, 3)) == pytest.approx(64 ** (1 / 32), rel=1e-12)
    assert 0 <= float(gram_bound(torch.zeros_like(identity))) < 1e-70
    free = kernel(2, 2).requires_grad_()
    slope = torch.autograd.grad(gram_bound(transfer(free, (4, 4)), 4), free)[0]
    assert slope.isfinite().all() and slope.abs().max() > 0
    assert torch.autograd.gradcheck(lambda w: gram_bound(transfer(w, (4, 4)), 4), free)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 5), st.floats(0, 20), st.floats(0, 20))
def test_a_step_contracts_at_its_rate_whatever_the_two_parts_are(seed, modulus, gram, skew):
    draw = torch.Generator().manual_seed(seed)
    s, k = (torch.randn(6, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    s, k = s.mT @ s, k - k.mT
    s, k = gram * s / torch.linalg.matrix_norm(s, 2), skew * k / torch.linalg.matrix_norm(k, 2)
    step, rate = step_size(modulus, torch.tensor(gram, dtype=torch.float64), torch.tensor(skew, dtype=torch.float64))
    identity = torch.eye(6, dtype=torch.float64)
    known = float(torch.linalg.matrix_norm(identity - step * (modulus * identity + s + k), 2))
    assert known <= float(rate) * OUTWARD + 1e-15 and float(step) > 0 and float(rate) < 1


def test_without_a_skew_part_the_step_is_the_best_one():
    step, rate = step_size(0.5, torch.tensor(3.0), torch.tensor(0.0))
    assert float(step) == pytest.approx(2 / 4) and float(rate) == pytest.approx(3 / 4)
