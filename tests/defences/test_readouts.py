"""The readout defences: what they predict, and that their gradient is the exact one."""

import pytest
import torch
from small_models import SOLVERS, images_for, nano, own, whole_map

from robustdeq.defences import EarlyState, Ensemble
from robustdeq.models import structure

MODELS = {"own": own, "nano": nano}
READOUTS = {"EarlyState": lambda model: EarlyState(model, 2), "Ensemble": Ensemble}
every_solver = pytest.mark.parametrize("solver", SOLVERS)
every_model = pytest.mark.parametrize("kind", MODELS)
every_readout = pytest.mark.parametrize("readout", READOUTS)


@every_solver
@every_model
def test_early_state_is_what_the_model_would_say_after_fewer_steps(kind, solver):
    model = MODELS[kind](solver=solver, steps=4)
    x = images_for(model)
    found = model.trajectory(x)
    with torch.no_grad():
        for t in range(1, 5):
            assert torch.equal(EarlyState(model, t)(x), found.logits(t))
        assert torch.equal(EarlyState(model, 4)(x), model(x))


@every_solver
@every_model
def test_ensemble_reads_the_mean_of_all_states(kind, solver):
    model = MODELS[kind](solver=solver, steps=4, dtype=torch.float64)
    x = images_for(model)
    state, states = model.solver.init(model.zeros(x)), []
    for _ in range(4):
        state = model.solver.step(whole_map(model, x), state)
        states.append(state.z)
    torch.testing.assert_close(Ensemble(model)(x), model.readout(torch.stack(states).mean(dim=0)))


@every_solver
@every_readout
def test_gradient_is_that_of_finite_differences(readout, solver):
    """Whatever the model's own gradient is."""
    model = own(solver=solver, steps=4, gradient="phantom", dtype=torch.float64)
    x = images_for(model, 2) * 0.8 + 0.1
    assert torch.autograd.gradcheck(READOUTS[readout](model), x.requires_grad_(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("readout", "steps"), [("EarlyState", 2), ("Ensemble", 4)])
def test_evaluations_are_counted_where_the_model_counts_them(readout, steps):
    model = own(steps=4)
    defence = READOUTS[readout](model)
    defence(images_for(model, 3))
    assert structure(defence).tally is model.tally and model.tally.evaluations == 3 * steps


def test_options_tell_readouts_apart():
    assert EarlyState(own(), 2).settings == {"state": 2} != EarlyState(own(), 3).settings
    assert Ensemble(own()).settings == {}


@pytest.mark.parametrize("state", [0, -1, 6, 2.0, True, "2"])
def test_states_that_the_model_does_not_have_are_refused(state):
    with pytest.raises(ValueError, match=r"EarlyState: state="):
        EarlyState(own(steps=5), state)
