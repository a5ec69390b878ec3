"""What is read off the states along t is what the model says there."""

import math

import pytest
import torch
from small_models import SOLVERS, images_for, nano, own

import robustdeq as rd
from robustdeq.analysis import entropy_along, probabilities_along, states_along, variant
from robustdeq.testing import left_untouched

MODELS = {solver: variant(own(), solver=solver) for solver in SOLVERS}
MODELS["defended"] = rd.EntropyReduction(eps=0.2, step_size=0.1, updates=2)(own())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_state_is_read_as_the_trajectory_reads_it(model):
    x = images_for(own(), 4)
    path, states = model.trajectory(x), states_along(model, x)
    for t in range(1, 6):
        logits = path.logits(t)
        torch.testing.assert_close(states.probabilities[t - 1], logits.softmax(1))
        assert torch.equal(states.prediction[t - 1], logits.argmax(1))
        # r(z^[t-1]) is what step t measured: the residuals of the states are the trajectory's, one further on.
        if model is not MODELS["defended"] and t > 1:
            torch.testing.assert_close(states.residual[t - 2], path.residuals[t - 1])
    torch.testing.assert_close(states.probabilities[-1], model(x).softmax(1))
    assert torch.equal(probabilities_along(model, x), states.probabilities)
    assert torch.equal(entropy_along(model, x), states.entropy)
    p = states.probabilities.double()
    torch.testing.assert_close(states.entropy.double(), -(p * p.log()).sum(2), rtol=1e-4, atol=1e-6)
    assert (states.entropy >= 0).all() and (states.entropy <= math.log(3) + 1e-6).all()


def test_the_residual_of_a_defended_state_is_under_the_image_its_step_used():
    bare, model = own(), MODELS["defended"]
    x = images_for(bare)
    path = model.trajectory(x)
    for t, (z, used) in enumerate(zip(path.states, path.inputs)):
        f_z = model.model.cell(z, model.model.inject(used))
        torch.testing.assert_close(states_along(model, x).residual[t], (f_z - z).norm(dim=1) / f_z.norm(dim=1))


def test_a_variant_shares_weights_and_counts_and_changes_nothing_of_the_model():
    model = nano().train()
    x = images_for(model)
    with left_untouched(model):
        other = variant(model, solver={"name": "anderson", "memory": 2}, steps=11)
        before = model.tally.evaluations
        states_along(other, x)
    assert model.tally.evaluations - before == 2 * 11 * len(x)
    assert other.steps == 11 and model.steps == 8 and other.solver != model.solver
    assert all(a is b for a, b in zip(model.parameters(), other.parameters()))


def test_the_tables_hold_the_tensors():
    x = images_for(own(), 3)
    states = states_along(own(), x)
    frame = states.frame()
    assert list(frame.columns) == ["sample", "t", "prediction", "entropy", "residual", "p0", "p1", "p2"]
    assert list(frame[["sample", "t"]].itertuples(index=False, name=None))[4:7] == [(0, 5), (1, 1), (1, 2)]
    for row in frame.itertuples():
        assert row.p1 == states.probabilities[row.t - 1, row.sample, 1]
    middle = states.quantiles((0.5,)).set_index(["term", "t"])["value"]
    assert middle["entropy", 3] == states.entropy[2].median().double()


def test_quantiles_of_no_samples_are_refused():
    with pytest.raises(ValueError, match="entropy of 0 samples; allowed: 1 or more"):
        states_along(own(), images_for(own(), 3)[:0]).quantiles()


def test_a_state_that_is_not_finite_is_said_and_leaves_the_others_alone():
    model, x = own(), images_for(own(), 3)
    bad = x.clone()
    bad[1] = float("nan")
    found, plain = states_along(model, bad), states_along(model, x)
    assert (found.prediction[:, 1] == -1).all() and found.entropy[:, 1].isnan().all()
    assert torch.equal(found.entropy[:, [0, 2]], plain.entropy[:, [0, 2]])
    assert found.quantiles((0.5,))["value"].notna().all()
