"""Broyden's estimate of the inverse Jacobian: the secant equation, limited memory, and degenerate denominators."""

import pytest
import torch

from robustdeq.dynamics import Broyden, drive
from robustdeq.gradients import Unrolled
from robustdeq.testing import assert_near, assert_same
from robustdeq.testing.problems import affine, tanh, zeros

MEMORIES = pytest.mark.parametrize("memory", [1, 2, 3, 16])


@MEMORIES
def test_the_newest_secant_equation_holds_although_columns_were_dropped(memory):
    """B dg = s, so <B^T w, dg> = <w, s> for every w."""
    f, w = tanh(6, norm=2.0), tanh(6, seed=1).u
    solver = Broyden(memory=memory)
    before = drive(solver, f, zeros(f), 1).state
    for _ in range(6):
        after = solver.step(f, before)
        s = before.z - before.z_prev
        dg = (after.f_prev - after.z_prev) - (before.f_prev - before.z_prev)
        assert_near((solver.transposed_inverse(after, w) * dg).sum(1), (w * s).sum(1), 1e-9)
        before = after


def test_it_is_good_broyden_with_a_dense_jacobian():
    """z <- z + s with J s = -g, then J <- J + (dg - J s) s^T / <s, s>, from J = -I (Broyden 1965): dg - J s = g(z)."""
    f = tanh(4, norm=1.5, batch=1)
    found = drive(Broyden(), f, zeros(f), 7, record=True)
    jacobian, z = -torch.eye(4, dtype=torch.float64), zeros(f)
    for state in found.states:
        s = -torch.linalg.solve(jacobian, (f(z) - z)[0])
        z = z + s
        assert_near(state, z, 1e-9)
        jacobian = jacobian + torch.outer((f(z) - z)[0], s) / (s @ s)


@MEMORIES
def test_memory_is_limited_to_the_newest_columns(memory):
    f = tanh(6)
    solver = Broyden(memory=memory)
    before = drive(solver, f, zeros(f), 6).state
    after = solver.step(f, before)
    kept = min(memory, 6)
    assert len(after.left) == len(after.right) == kept
    old = min(kept - 1, len(before.left))
    assert_same(after.left[kept - 1 - old : kept - 1], before.left[len(before.left) - old :])


def test_an_estimate_without_columns_is_minus_identity():
    f = tanh(6)
    state = drive(Broyden(), f, zeros(f), 1).state
    assert_same(Broyden().transposed_inverse(state, f.u), -f.u)


def test_a_residual_that_never_changes_adds_no_column():
    """f(z) = z + 1: dg = 0, the denominator is zero, and z^[t] = t, in value and in gradient."""
    one = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    state = drive(Broyden(), lambda z: z + one, torch.zeros(2, 3, dtype=torch.float64), 6).state
    assert not any(column.any() for column in state.left)
    assert_same(state.z.detach(), torch.full_like(state.z, 6.0))
    assert_same(torch.autograd.grad(state.z.sum(), one)[0], torch.full_like(state.z, 6.0))


def test_a_pair_at_right_angles_adds_no_column_to_that_sample_only():
    """f(z) = z + K z + u with K^T = -K: <s, dg> = <s, K s> = 0 exactly. The other sample has f(z) = u."""
    k = torch.tensor([[0.0, -1], [1, 0]], dtype=torch.float64)
    u = torch.tensor([[1.0, 2], [1, 2]], dtype=torch.float64, requires_grad=True)
    turning = torch.tensor([[1.0], [0]], dtype=torch.float64)
    state = drive(Broyden(), lambda z: turning * (z + z @ k.mT) + u, torch.zeros_like(u).detach(), 2).state
    assert not any(column[0].any() for column in state.left)
    assert all(column[1].isfinite().all() for column in state.left)
    assert_near(state.z[1], u[1], 1e-12)
    assert torch.autograd.grad(state.z.sum(), u)[0].isfinite().all()


@pytest.mark.parametrize("dtype, exponents", [(torch.float32, (8, 12, 16, 18)), (torch.float64, (8, 40, 120, 150))])
def test_a_state_of_tiny_numbers_has_the_gradient_of_a_large_one(dtype, exponents):
    """The whole solve of an affine map from zero scales with u, so its Jacobian does not depend on the scale."""

    def gradient(exponent):
        f = affine(4, 2, norm=0.9, dtype=dtype)
        u = (f.u * 10.0**-exponent).requires_grad_()
        z = Unrolled()(Broyden(), lambda z: z @ f.a.mT + u, torch.zeros_like(u), 6)
        return torch.autograd.grad(z.sum(), u)[0]

    for exponent in exponents:
        torch.testing.assert_close(gradient(exponent), gradient(0), rtol=1e-2, atol=1e-2)
