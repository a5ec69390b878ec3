"""Anderson's small least-squares problem: solved, limited in memory, and harmless where it is singular."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeq.dynamics import Anderson, drive
from robustdeq.dynamics.anderson import AndersonState
from robustdeq.gradients import Unrolled
from robustdeq.testing import assert_near, assert_same
from robustdeq.testing.problems import affine, tanh, zeros

PLAIN = Anderson(memory=9, ridge=0.0)


def step_from(columns, g, solver=PLAIN):
    """One step at z = 0 with residual g (B, D), stored columns dG (B, M, D) and dZ = 0: what dG cannot explain of g."""
    state = AndersonState(torch.zeros_like(g), 1, dz=torch.zeros_like(columns), dg=columns)
    return solver.step(lambda z: g, state).z


def left_over(columns, g):
    """g minus its projection on the columns, by another method. (D, M), (D,)"""
    return g - columns @ torch.linalg.lstsq(columns, g[:, None], driver="gelsd").solution[:, 0]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), m=st.integers(1, 4), spread=st.integers(0, 10), ridge=st.sampled_from([0.0, None]))
def test_a_step_removes_what_the_columns_explain(seed, m, spread, ridge):
    """Also where the columns shrink by orders of magnitude, as they do when a solve converges."""
    size = 10.0 ** -torch.linspace(0, spread, m, dtype=torch.float64)
    columns, g = random(2, m, 6, seed=seed) * size[:, None], random(2, 6, seed=seed + 1000)
    expected = torch.stack([left_over(c.mT, r) for c, r in zip(columns, g)])
    assert_near(step_from(columns, g, Anderson(ridge=ridge)), expected, 1e-7)


def test_a_column_of_zeros_changes_nothing():
    columns, g = random(2, 2, 6), random(2, 6, seed=1)
    padded = torch.cat([columns[:, :1], torch.zeros(2, 1, 6, dtype=torch.float64), columns[:, 1:]], dim=1)
    assert_near(step_from(padded, g), step_from(columns, g), 1e-12)


def test_a_singular_system_gives_a_plain_mixing_step_to_that_sample_only():
    columns = torch.tensor([[[1.0, 0, 0], [1, 0, 0]], [[1, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    g = torch.tensor([[2.0, 3, 4], [2, 3, 4]], dtype=torch.float64)
    found = step_from(columns, g, Anderson(ridge=0.0, mixing=0.5))
    assert_near(found, torch.tensor([[1, 1.5, 2], [0, 0, 2]], dtype=torch.float64), 1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    picks=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    sizes=st.lists(st.integers(-12, 3), min_size=7, max_size=7),
)
def test_duplicate_and_zero_columns_do_no_harm(seed, picks, sizes):
    """Column 3 is zero. Without a ridge the step is finite, no longer than g, and its gradient is finite."""
    base = random(1, 4, 3, seed=seed)
    base[:, 3] = 0
    size = 10.0 ** torch.tensor(sizes[: len(picks)], dtype=torch.float64)
    columns = (base[:, picks] * size[:, None]).requires_grad_()
    g = random(1, 3, seed=seed + 1000).requires_grad_()
    found = step_from(columns, g)
    grads = torch.autograd.grad(found.square().sum(), (columns, g))
    assert found.norm() <= g.norm() * (1 + 1e-6)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("ridge", [0.0, None])
def test_a_map_whose_residual_never_changes_is_followed(ridge):
    """f(z) = z + 1: every dG is zero, so Anderson falls back to z^[t] = t, in value and in gradient."""
    one = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    z = Unrolled()(Anderson(ridge=ridge), lambda z: z + one, torch.zeros(2, 3, dtype=torch.float64), 6)
    assert_same(z.detach(), torch.full_like(z, 6.0))
    assert_same(torch.autograd.grad(z.sum(), one)[0], torch.full_like(z, 6.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("exponent", [8, 12, 16, 24, 32, 40])
def test_a_state_of_tiny_numbers_has_a_finite_gradient(dtype, size, exponent):
    """The squares of such columns, or the squares of their inverses, leave the range of the dtype."""
    f = affine(size, 2, norm=0.9, dtype=dtype)
    u = (f.u * 10.0**-exponent).requires_grad_()
    z = Unrolled()(Anderson(), lambda z: z @ f.a.mT + u, torch.zeros_like(u), 8)
    assert z.isfinite().all()
    assert torch.autograd.grad(z.sum(), u)[0].isfinite().all()


def test_memory_is_limited_to_the_newest_columns():
    f = tanh(6)
    solver = Anderson(memory=2)
    state = drive(solver, f, zeros(f), 4).state
    after = solver.step(f, state)
    assert after.dg.shape == after.dz.shape == (3, 2, 6)
    g, g_prev = after.f_prev - after.z_prev, state.f_prev - state.z_prev
    assert_same(after.dg[:, 0], state.dg[:, 1])
    assert_same(after.dg[:, 1], g - g_prev)
    assert_same(after.dz[:, 1], state.z - state.z_prev)


def test_a_strong_ridge_leaves_only_the_mixing_step():
    f = tanh(6)
    strong = drive(Anderson(ridge=1e12, mixing=0.5), f, zeros(f), 5).z
    z = zeros(f)
    for _ in range(5):
        z = z + 0.5 * (f(z) - z)
    assert_near(strong, z, 1e-9)
