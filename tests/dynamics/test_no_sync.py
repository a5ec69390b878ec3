"""Law 4: with a fixed number of steps nothing waits for the host, so a solve compiles and can be captured in a graph.

``SolverLaws`` asks it of every solver: a tensor on the meta device, or a fake one, has no values, and whatever would
bring one to the host raises.
"""

import pytest
import torch
from problems import every_kind
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from robustdeq.dynamics import SOLVERS, Picard, drive
from robustdeq.gradients import GRADIENTS
from robustdeq.testing.problems import Tanh, tanh, zeros


def on_meta(grad: bool = False) -> Tanh:
    f = tanh(5)
    return Tanh(f.weight.to("meta").requires_grad_(grad), f.u.to("meta").requires_grad_(grad))


@pytest.mark.parametrize("rule", [rule() for rule in GRADIENTS.values()], ids=GRADIENTS)
def test_no_gradient_reads_a_value(rule):
    f = on_meta(grad=True)
    z = rule(SOLVERS["broyden"](), f, zeros(f), 4)
    assert all(g.is_meta for g in torch.autograd.grad(z.sum(), f.tensors))


def test_a_tolerance_does_read_values_so_the_proof_can_fail():
    f = on_meta()
    with pytest.raises((RuntimeError, NotImplementedError)):
        drive(Picard(), f, zeros(f), 6, tolerance=1e-3)
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        drive(Picard(), Tanh(torch.empty(5, 5), torch.empty(3, 5)), torch.zeros(3, 5), 6, tolerance=1e-3)


@every_kind
def test_a_fixed_step_solve_compiles_without_a_graph_break(solver):
    f = tanh(5)

    def solve(z):
        return drive(solver, f, z, 2, record=True).z

    compiled = torch.compile(solve, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(zeros(f)), solve(zeros(f)))
