"""In half precision a solve is as good as its numbers allow, and what is said of it is said in float32."""

import pytest
import torch
from problems import every_solver

from robustdeq.dynamics import Picard, Status, drive
from robustdeq.gradients import Unrolled
from robustdeq.testing.problems import Affine, affine, zeros

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@every_solver
@DTYPES
def test_a_contraction_is_solved_and_differentiated(solver, dtype):
    """dz*/du = (I - A)^-1. The reversible solver, the slowest, is within 5 percent after 12 steps."""
    p = affine(6, norm=0.5)
    f = Affine(p.a.to(dtype), p.u.to(dtype).requires_grad_())
    z = Unrolled()(solver, f, zeros(f), 12)
    gradient = torch.autograd.grad(z.sum(), f.u)[0]
    expected = Affine(p.a.mT, torch.ones_like(p.u)).solution
    assert z.dtype == gradient.dtype == dtype
    for found, exact in [(z.detach(), p.solution), (gradient, expected)]:
        assert (found.double() - exact).norm() < 0.05 * exact.norm()


@DTYPES
def test_a_map_to_zero_has_the_residual_zero(dtype):
    """The 1e-9 in the denominator is zero in float16."""
    found = drive(Picard(), torch.zeros_like, torch.zeros(2, 3, dtype=dtype), 3, tolerance=1e-3)
    assert found.status.tolist() == [Status.CONVERGED] * 2


@DTYPES
def test_divergence_is_seen_although_its_limit_exceeds_the_dtype(dtype):
    """||z|| of 2^14 numbers 3^t is 128 3^t, and the limit is 128 * 1e4: both are beyond float16."""
    found = drive(Picard(), lambda z: 3 * z + 1, torch.zeros(1, 2**14, dtype=dtype), 20, tolerance=1e-3)
    assert found.status.tolist() == [Status.DIVERGED]
    assert found.evaluations.tolist() == [10]
