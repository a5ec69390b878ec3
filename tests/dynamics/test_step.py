"""Law 1: a step is pure and costs one evaluation; and B^T belongs to the move that was made."""

import copy

import pytest
import torch
from problems import SOLVERS, Counted, assert_near, assert_same, each, every_solver, tanh, zeros

from robustdeq.dynamics import drive


@every_solver
def test_a_step_leaves_the_state_it_was_given_as_it_was(solver):
    f = tanh(4)
    state = solver.init(zeros(f))
    for _ in range(6):
        before = copy.deepcopy(state)
        after = solver.step(f, state)
        assert_same(state, before)
        state = after


@every_solver
def test_a_step_costs_one_evaluation_and_keeps_it(solver):
    f = Counted(tanh(4))
    state = solver.init(zeros(f.f))
    for t in range(1, 7):
        z = state.z
        state = solver.step(f, state)
        assert f.calls == state.t == t
        assert torch.equal(state.z_prev, z)
        assert torch.equal(state.f_prev, f.f(z))


@every_solver
def test_the_same_state_makes_the_same_step(solver):
    f = tanh(4)
    state = drive(solver, f, zeros(f), 3).state
    assert_same(solver.step(f, state), solver.step(f, state))


@each({name: solver for name, solver in SOLVERS.items() if name != "reversible"})
def test_the_transposed_inverse_belongs_to_the_move(solver):
    """The step is -B g, so <B^T w, g> = -<w, step> for every w."""
    f = tanh(6, norm=1.5)
    state = solver.init(zeros(f))
    w = tanh(6, seed=1).u
    for _ in range(6):
        state = solver.step(f, state)
        g, moved = state.f_prev - state.z_prev, state.z - state.z_prev
        assert_near((solver.transposed_inverse(state, w) * g).sum(1), -(w * moved).sum(1), 1e-9)


def test_a_solver_without_an_inverse_says_which_have_one():
    f = tanh(4)
    with pytest.raises(ValueError, match="broyden"):
        SOLVERS["reversible"].transposed_inverse(SOLVERS["reversible"].init(zeros(f)), f.u)
