"""An update computes what its config asks for and nothing else: states, evaluations of f, gradients."""

from dataclasses import replace

import pytest
import torch
from small_models import PAIRS, nano, own

import robustdeq as rd
from robustdeq.seeds import generator
from robustdeq.training import Phase, TrainConfig
from robustdeq.training.piece import STATES
from robustdeq.training.states import RandomState
from robustdeq.training.step import TrainStep

EPS = 0.15
STEPS = 5
BATCH = 8


def _config(attack_steps=2, **options):
    phase = Phase(epochs=1, attack_steps=attack_steps, step_size=EPS / 2)
    return TrainConfig(phases=(phase,), eps=EPS, batch_size=BATCH, **options)


def _update(model, config, step=0):
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    update = TrainStep(model, optimizer, config, 100)
    train = rd.data.digits().train
    return update(train.images(slice(BATCH)), train.labels[:BATCH], step, 0)


class Spied:
    """Notes the steps of every forward of a model."""

    def __init__(self, model):
        self.steps, self.training = [], []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model, args, options):
        self.steps.append(options["steps"])
        self.training.append(model.training)


@pytest.mark.parametrize("objective, attacked, updated", [("pgd-at", 2, 1), ("trades", 3, 2)])
def test_without_random_states_only_the_last_one_is_read(objective, attacked, updated):
    model = nano(steps=STEPS)
    spied = Spied(model)
    _update(model, _config(objective=objective))
    assert spied.steps == [STEPS] * (attacked + updated)
    assert spied.training == [False] * attacked + [True] * updated


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_random_states_are_the_ones_that_were_drawn_in_order(per):
    model = nano(steps=STEPS)
    spied = Spied(model)
    sampler = RandomState(per)
    _update(model, _config(states=sampler), step=3)
    stream = generator(0, STATES, 3, 0)
    drawn = [sampler.draw(STEPS, stream, BATCH) for _ in range(3)]
    assert len(spied.steps) == 3
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(spied.steps, drawn))


def test_a_phase_with_fewer_solver_steps_never_reads_beyond_them():
    model = nano(steps=STEPS)
    spied = Spied(model)
    config = replace(_config(states="random"), phases=(Phase(epochs=1, attack_steps=6, solver_steps=2),))
    _update(model, config)
    assert set(spied.steps) <= {1, 2}


@pytest.mark.parametrize("attack_steps", [1, 4])
def test_trades_computes_the_natural_logits_once_an_attack(attack_steps):
    """Evaluations of f an image: natural logits and every attack step, then two forwards of the update."""
    model = own(10, side=8, steps=STEPS)
    _update(model, _config(attack_steps, objective="trades"))
    assert model.tally.evaluations == BATCH * STEPS * (1 + attack_steps + 2)


@pytest.mark.parametrize("attack_steps", [0, 1, 4])
def test_pgd_at_costs_one_solve_an_attack_step_and_one_for_the_update(attack_steps):
    model = own(10, side=8, steps=STEPS)
    _update(model, _config(attack_steps))
    assert model.tally.evaluations == BATCH * STEPS * (attack_steps + 1)


@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
@pytest.mark.parametrize("gradient", ["unrolled", "phantom", "implicit"])
def test_an_attack_computes_no_weight_gradient(objective, gradient):
    """While the attack runs in eval mode no parameter asks; in the update every one does, and gets its gradient."""
    model = nano(steps=STEPS)
    asking = {False: set(), True: set()}
    model.register_forward_pre_hook(
        lambda model, args: asking[model.training].update(p.requires_grad for p in model.parameters())
    )
    _update(model, _config(objective=objective, attack_gradient=gradient))
    assert asking == {False: {False}, True: {True}}
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("solver", "gradient"), PAIRS)
def test_a_sample_with_steps_of_its_own_is_read_as_if_alone(gradient, solver):
    model = own(3, steps=STEPS, solver=solver, gradient=gradient, dtype=torch.float64)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    steps = torch.tensor([2, 5, 1, 3])
    together = model(x, steps=steps)
    alone = torch.cat([model(x[i : i + 1], steps=int(t)) for i, t in enumerate(steps)])
    torch.testing.assert_close(together, alone)
    slopes = [torch.autograd.grad(logits.square().sum(), x, retain_graph=True)[0] for logits in (together, alone)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("steps", [torch.tensor([1, 2]), torch.tensor([0, 1, 2, 3]), torch.ones(4)])
def test_wrong_steps_say_what_is_allowed(steps):
    with pytest.raises(ValueError, match=r"steps are torch\..* allowed: a number, or int64 >= 1 of shape \(4,\)"):
        own()(torch.zeros(4, 1, 4, 4), steps=steps)
