"""The reversible solver runs backwards to its start, as far as it says a dtype can be trusted."""

import pytest
import torch
from problems import Counted

from robustdeq.dynamics import Reversible, drive
from robustdeq.testing import assert_near, assert_same
from robustdeq.testing.problems import tanh, zeros

MIXINGS = pytest.mark.parametrize("mixing", [0.1, 0.5, 0.8])


def back_to_the_start(solver, f, start, steps):
    state = drive(solver, f, start, steps).state
    for _ in range(steps):
        state = solver.reverse_step(f, state)
    return state


@MIXINGS
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_it_returns_to_its_start(mixing, steps):
    f = tanh(6)
    state = back_to_the_start(Reversible(mixing=mixing), f, f.u, steps)
    assert state.t == 0
    assert state.z_prev is None
    assert_near(state.z, f.u, 1e-8)


def test_every_state_on_the_way_back_is_the_one_of_the_way_there():
    f = tanh(6)
    there = drive(Reversible(), f, zeros(f), 8, record=True)
    state = there.state
    for t in range(7, 0, -1):
        state = Reversible().reverse_step(f, state)
        assert state.t == t
        assert_near(state.z, there.states[t - 1], 1e-12)


def test_it_can_turn_round_and_go_on():
    f = tanh(6)
    state = drive(Reversible(), f, zeros(f), 5).state
    again = Reversible().step(f, Reversible().reverse_step(f, state))
    assert again.t == 5
    assert_near(again.z, state.z, 1e-12)


def test_a_step_back_costs_one_evaluation_and_is_pure():
    f = Counted(tanh(6))
    state = drive(Reversible(), f, zeros(f.f), 3).state
    z, z_prev = state.z.clone(), state.z_prev.clone()
    Reversible().reverse_step(f, state)
    assert f.calls == 4
    assert_same((state.z, state.z_prev), (z, z_prev))


def test_there_is_no_step_before_the_start():
    f = tanh(6)
    with pytest.raises(ValueError, match="t=0"):
        Reversible().reverse_step(f, Reversible().init(zeros(f)))


@MIXINGS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_number_of_steps_keeps_the_start_to_a_thousandth(mixing, dtype):
    """Where f is nearly the identity rounding grows by 1 / (1 - b) a step, the most it can; at 3 N nothing is left."""
    solver, u = Reversible(mixing=mixing), tanh(6).u.to(dtype)
    steps = solver.max_steps(dtype)

    def error(n):
        return (back_to_the_start(solver, lambda z: 0.99 * z + u, u, n).z - u).norm() / u.norm()

    assert error(steps) < 1e-2
    assert error(3 * steps) > 1


def test_half_precision_allows_no_steps_rather_than_a_negative_number():
    assert Reversible().max_steps(torch.bfloat16) == Reversible().max_steps(torch.float16) == 0
    assert Reversible().max_steps(torch.float32) < Reversible().max_steps(torch.float64)
