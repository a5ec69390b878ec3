"""Losses at several states of one solve: their weighted sum, by definition, at the cost of one solve."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_models import SOLVERS, images, nano, own

import robustdeq as rd
from robustdeq.gradients import GRADIENTS
from robustdeq.training import MART, PGDAT, TRADES, Phase, TrainConfig
from robustdeq.training.piece import Reader
from robustdeq.training.states import SeveralStates
from robustdeq.training.step import TrainStep

EPS, BATCH, STEPS = 0.15, 8, 5
CONFIG = TrainConfig(
    phases=(Phase(epochs=1, attack_steps=2, step_size=EPS / 2),), eps=EPS, batch_size=BATCH, clip=1e9, states="several"
)


@pytest.fixture(scope="module")
def batch():
    train = rd.data.digits().train
    return train.images(slice(BATCH)).double(), train.labels[:BATCH]


def update(model, config, batch):
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    return TrainStep(model, optimizer, config, 10)(*batch, 0, 0)


def slopes(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("segment", [None, 2])
def test_several_states_of_one_solve_are_those_of_many(solver, segment):
    model, x = own(steps=STEPS, solver=solver, dtype=torch.float64), images(4, dtype=torch.float64).requires_grad_()
    rule = rd.Unrolled(segment=segment)
    model.tally.evaluations = 0
    together = model(x, steps=(1, 3, 5), gradient=rule)
    assert model.tally.evaluations == 5 * len(x)
    alone = torch.cat([model(x, steps=t, gradient=rule) for t in (1, 3, 5)])
    torch.testing.assert_close(together, alone)
    pulls = [torch.autograd.grad(logits.square().sum(), x)[0] for logits in (together, alone)]
    torch.testing.assert_close(*pulls)
    with torch.no_grad():
        assert torch.equal(model(x, steps=(1, 3, 5)), together)


@pytest.mark.parametrize("steps", [(), (2, 1), (1, 1), (0, 1), (1.0, 2), (True, 2)])
def test_states_that_are_no_ascending_numbers_are_refused(steps):
    with pytest.raises(ValueError, match=r"Unrolled: steps=.*; allowed: "):
        own()(images(), steps=steps)


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "unrolled"])
def test_a_gradient_that_knows_one_state_is_refused(name, batch):
    model = own(10, side=8, steps=STEPS, solver="broyden", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"steps=\(1, .* 5\), several states .*; allowed: one number, or .*'unrolled'"):
        update(model, replace(CONFIG, gradient=name), batch)
    update(model, replace(CONFIG, attack_gradient=name), batch)


def test_the_weights_are_of_the_last_states_relative_to_their_sum():
    assert SeveralStates().shares(3) == pytest.approx({1: 1 / 6, 2: 2 / 6, 3: 3 / 6})
    assert SeveralStates(weights=[1, 3]).shares(8) == {7: 0.25, 8: 0.75}
    assert SeveralStates(weights=[1, 0, 1]).shares(3) == {1: 0.5, 3: 0.5}
    assert SeveralStates(weights=[5, 1, 3]).shares(2) == {1: 0.25, 2: 0.75}
    assert SeveralStates(weights=[5, 1, 3]).shares(1) == {1: 1.0}
    for wrong in ([], [1, 0.0], [-1.0], ["x"], 3):
        with pytest.raises(ValueError, match=r"weights=.*allowed"):
            SeveralStates(weights=wrong)


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_update_descends_the_weighted_sum_of_the_losses(pieces, batch):
    """On clean images, in one piece and in two."""
    x, y = batch
    config = replace(CONFIG, phases=(Phase(epochs=1, attack_steps=0),), accumulate=pieces)
    model = own(10, side=8, steps=STEPS, dtype=torch.float64)
    loss = sum(t / 15 * F.cross_entropy(model(x, steps=t), y) for t in range(1, STEPS + 1))
    loss.backward()
    expected, wanted = loss.item(), slopes(model).clone()
    model.tally.evaluations = 0
    result = update(model, config, batch)
    assert result.loss == pytest.approx(expected, rel=1e-12) and result.solver_steps == STEPS
    torch.testing.assert_close(slopes(model), wanted)
    assert model.tally.evaluations == STEPS * BATCH


@pytest.mark.parametrize("objective", [PGDAT(label_smoothing=0.1), TRADES(), MART()], ids=lambda one: one.name)
def test_any_objective_is_summed_over_the_states_and_every_forward_made_once(objective, batch):
    x, y = batch
    x_adv = (x + 0.1).clamp(0, 1)
    model = own(10, side=8, steps=STEPS, dtype=torch.float64)
    shares = {2: 0.25, 5: 0.75}
    found = Reader(model, lambda: STEPS, shares, gradient=None, solver=None).losses(objective, x, x_adv, y)
    spent = model.tally.evaluations

    def at(t):
        return objective.losses(Reader(model, lambda: t, gradient=None, solver=None), x, x_adv, y)

    torch.testing.assert_close(found.total, 0.25 * at(2).total + 0.75 * at(5).total)
    assert torch.equal(found.correct_adv, at(5).correct_adv)
    assert spent == BATCH * STEPS * (1 if objective.name == "pgd-at" else 2)


def test_the_attack_looks_at_the_last_state(batch):
    seen = []
    model = nano(steps=STEPS, dtype=torch.float64)
    model.register_forward_pre_hook(lambda model, args, options: seen.append(options["steps"]), with_kwargs=True)
    update(model, replace(CONFIG, states={"name": "several", "weights": [1, 1]}), batch)
    assert seen == [STEPS, STEPS, (STEPS - 1, STEPS)]


@pytest.mark.parametrize("states", ["several", "random", {"name": "random", "per": "sample"}])
def test_a_warm_start_and_other_states_than_the_last_are_refused(states):
    phase = Phase(epochs=1, attack={"name": "joint", "warm": 2}, attack_steps=1)
    with pytest.raises(ValueError, match=r"states=.* with warm=2 of attack='joint'; allowed: states='final'"):
        replace(CONFIG, phases=(phase,), states=states)
    replace(CONFIG, phases=(replace(phase, attack="joint"),), states=states)
