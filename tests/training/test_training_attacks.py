"""How a phase makes its images: PGD, N-FGSM, the joint attack and what the update goes on from."""

from dataclasses import replace

import pytest
import torch
from small_models import nano, own

import robustdeq as rd
from robustdeq.attacks import L2, PGD, JointOptimisation, Linf
from robustdeq.attacks.losses import Goal
from robustdeq.attacks.starts import numbered
from robustdeq.gradients import Implicit, Resumed
from robustdeq.training import Phase, TrainConfig
from robustdeq.training import attacks as training_attacks
from robustdeq.training.piece import Reader
from robustdeq.training.step import TrainStep

EPS, BATCH, STEPS = 0.15, 8, 6
INDICES = torch.arange(BATCH)


@pytest.fixture(scope="module")
def batch():
    train = rd.data.digits().train
    return train.images(slice(BATCH)), train.labels[:BATCH]


def updated(model, phase, batch, **options):
    config = TrainConfig(phases=(phase,), eps=EPS, batch_size=BATCH, **options)
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    return TrainStep(model, optimizer, config, 10)(*batch, 0, 0)


@pytest.mark.parametrize("threat", [Linf(EPS), L2(0.5)], ids=["Linf", "L2"])
def test_n_fgsm_is_one_step_from_noise_that_nothing_cuts_to_the_ball(threat, batch):
    (x, y), model = batch, nano().eval()
    pgd = PGD(threat, threat.eps, 1, seed=3, keep="last")
    found = training_attacks.NoiseFGSM()(pgd, model, model, x, y, INDICES).images
    start = replace(threat, eps=2 * threat.eps).spread(x, numbered(x, 3, 0, INDICES)).requires_grad_()
    slope = torch.autograd.grad(torch.nn.functional.cross_entropy(model(start), y, reduction="sum"), start)[0]
    assert torch.equal(found, threat.ascend(start.detach(), slope, threat.eps).clamp(0, 1))
    assert (threat.distance(x, found) > threat.eps).any()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_n_fgsm_takes_one_step():
    with pytest.raises(ValueError, match=r"attack_steps=2 of attack='n-fgsm'; allowed: at most 1"):
        Phase(epochs=1, attack_steps=2, attack="n-fgsm")


def test_joint_is_one_run_of_the_joint_attack(batch):
    (x, y), model = batch, nano().eval()
    pgd = PGD(Linf(EPS), 0.5 * EPS, 5, seed=3, keep="last")
    found = training_attacks.Joint(last_step=0.2, warm=2)(pgd, model, model, x, y, INDICES)
    attack = JointOptimisation(Linf(EPS), 5, step=0.5, last_step=0.1, loss="ce")
    images, z, mu = attack.run(model, x, Goal(y), Linf(EPS).spread(x, numbered(x, 3, 0, INDICES)))
    for mine, other in zip((found.images, found.z, found.mu), (images, z, mu)):
        assert torch.equal(mine, other.detach())


def test_the_solves_of_an_attack_may_be_shorter_than_that_of_the_update(batch):
    model = own(10, side=8, steps=STEPS)
    phase = Phase(epochs=1, attack={"name": "pgd", "solver_steps": 2}, attack_steps=3)
    updated(model, phase, batch)
    assert model.tally.evaluations == BATCH * (3 * 2 + STEPS)
    assert model.tally.units == BATCH * (2 * 3 * 2 + 3 * STEPS)


def test_a_carried_state_is_where_the_next_solve_of_the_attack_begins(batch):
    """A second step of two solver steps from z^[2] is one of the gradient there, and not of the one at z^[2] anew."""
    x, y = batch[0].double(), batch[1]
    model, pgd = nano(dtype=torch.float64).eval(), PGD(Linf(EPS), EPS / 4, 2, seed=3, keep="last")
    options = {"gradient": model.gradient, "solver": None}
    attack = training_attacks.Projected(carried=True)
    found = attack(pgd, Reader(model, lambda: 2, **options), model, x, y, INDICES).images
    at, start = Linf(EPS).spread(x, numbered(x, 3, 0, INDICES)), model.zeros(x)
    for _ in range(2):
        at.requires_grad_()
        slope = torch.autograd.grad(torch.nn.functional.cross_entropy(model(at, steps=2, start=start), y), at)[0]
        with torch.no_grad():
            start = model.trajectory(at, 2).states[-1] if start.abs().sum() == 0 else start
            at = Linf(EPS).project(x, Linf(EPS).ascend(at.detach(), slope, EPS / 4))
    assert torch.equal(found, at)
    cold = training_attacks.Projected()(pgd, Reader(model, lambda: 2, **options), model, x, y, INDICES).images
    assert not torch.equal(found, cold) and not model.readout._forward_pre_hooks


@pytest.mark.parametrize("name", ["eps", "step_size"])
def test_steps_that_are_multiples_of_nothing_are_refused(name):
    size = {"step_size": 0.1, name: 0.0}
    with pytest.raises(ValueError, match=rf"TrainConfig: {name}=0 with attack='joint'; allowed: a number > 0"):
        phase = Phase(epochs=1, attack="joint", attack_steps=1, step_size=size["step_size"])
        TrainConfig(phases=(phase,), eps=size.get("eps", EPS))


def test_without_a_warm_start_the_update_solves_from_zero(batch):
    model = own(10, side=8, steps=STEPS)
    updated(model, Phase(epochs=1, attack="joint", attack_steps=3), batch)
    assert model.tally.evaluations == BATCH * (3 + STEPS)
    assert model.tally.units == BATCH * (2 * 3 + 3 * STEPS)


def test_a_warm_start_costs_the_update_so_many_steps(batch):
    model = own(10, side=8, steps=STEPS)
    updated(model, Phase(epochs=1, attack={"name": "joint", "warm": 2}, attack_steps=3), batch)
    assert model.tally.evaluations == BATCH * (3 + 2)
    assert model.tally.units == BATCH * (2 * 3 + 3 * 2)


def test_the_first_forward_of_trades_is_of_other_images_and_starts_from_zero(batch):
    model = own(10, side=8, steps=STEPS)
    updated(model, Phase(epochs=1, attack={"name": "joint", "warm": 2}, attack_steps=3), batch, objective="trades")
    assert model.tally.evaluations == BATCH * (STEPS + 3 + STEPS + 2)  # what it climbs, attack, both forwards


def test_a_warm_update_is_that_of_the_dynamics_from_the_attacks_state(batch):
    model, x = nano(dtype=torch.float64).train(), batch[0].double()
    z = torch.randn(BATCH, model.layout.size, dtype=torch.float64)
    reader = Reader(model, lambda: STEPS, gradient=model.gradient, solver=None)
    reader.resume(training_attacks.Attacked(x, z, z), 3)
    assert torch.equal(reader(x), model(x, start=z, steps=3)) and reader.steps == 3
    assert torch.equal(reader(x.clone()), model(x, steps=STEPS))  # other images, if only by name


def test_a_known_adjoint_of_any_scale_is_where_the_implicit_gradient_begins(batch):
    """From the adjoint itself one step stays there, also where it is of another loss's scale; from zero it does not."""
    (x, y), model = batch, own(10, side=8, steps=60, dtype=torch.float64).eval()
    x = x.double().requires_grad_()

    def slope(gradient):
        loss = torch.nn.functional.cross_entropy(model(x, gradient=gradient), y)
        return torch.autograd.grad(loss, x)[0]

    attack = JointOptimisation(Linf(EPS), 200, last_step=1e-9, step=1e-9, loss="ce")
    _, _, mu = attack.run(model, x.detach(), Goal(y), x.detach())
    exact = slope(Implicit(steps=40))
    size = exact.abs().max()
    assert (slope(Resumed(steps=1, mu=mu)) - exact).abs().max() < 1e-3 * size
    assert (slope(Resumed(steps=1, mu=-7 * mu)) - exact).abs().max() < 1e-3 * size
    assert (slope(Implicit(steps=1)) - exact).abs().max() > 1e-2 * size


def test_joint_and_carried_states_need_states(batch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(ValueError, match="'joint' of a model without states; allowed: pgd or n-fgsm"):
        updated(model, Phase(epochs=1, attack="joint", attack_steps=1), batch)
    with pytest.raises(ValueError, match="carried=True of a model without states; allowed: carried=False"):
        updated(model, Phase(epochs=1, attack={"name": "pgd", "carried": True}, attack_steps=1), batch)


@pytest.mark.parametrize("attack", [{"name": "pgd", "carried": True}, "n-fgsm", "joint", {"name": "joint", "warm": 2}])
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_a_sample_draws_does_not_depend_on_how_the_batch_is_divided(attack, pieces, batch):
    x, y = batch
    steps = 2 if isinstance(attack, dict) else 1
    pgd = PGD(Linf(EPS), EPS / steps, steps, seed=3, keep="last")
    make, model = training_attacks.TRAINING_ATTACKS.resolve(attack), nano(dtype=torch.float64).eval()
    reader = Reader(model, lambda: 2, gradient=model.gradient, solver=None)
    parts = [
        make(pgd, reader, model, images, labels, indices).images
        for images, labels, indices in zip(x.double().chunk(pieces), y.chunk(pieces), INDICES.chunk(pieces))
    ]
    whole = make(pgd, reader, model, x.double(), y, INDICES).images
    assert (torch.cat(parts) - whole).abs().max() < 1e-9


def test_a_run_with_attacks_by_name_is_written_down_and_read_back():
    phases = tuple(Phase(epochs=1, attack_steps=1, attack=name) for name in training_attacks.TRAINING_ATTACKS)
    config = TrainConfig(phases=phases)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_gradient_that_no_attack_takes_is_refused():
    joint, pgd = (Phase(epochs=1, attack_steps=1, attack=name) for name in ("joint", "pgd"))
    with pytest.raises(ValueError, match=r"attack_gradient=Phantom.* with attack='joint' alone.*; allowed: 'unrolled'"):
        TrainConfig(phases=(joint,), attack_gradient="phantom")
    TrainConfig(phases=(joint, pgd), attack_gradient="phantom")
    TrainConfig(phases=(joint, replace(pgd, attack_steps=0)))
