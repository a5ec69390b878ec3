"""A solver, a gradient, an objective, a state sampler, a schedule and an optimizer of a user's own, outside the
package, are accepted wherever a name is and saved; a run with one is resumed, or refused when another one is given."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from small_models import Hiding, nano, own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.dynamics import Solver, SolverState
from robustdeq.gradients import Gradient, reached
from robustdeq.training import Losses, Objective, Phase, Schedule, StateSampler, TrainConfig, Trainer


@dataclass(frozen=True)
class HeavyBall(Solver[SolverState]):
    momentum: float = 0.1

    def step(self, f, state):
        z, f_z = state.z, f(state.z)
        before = z if state.z_prev is None else state.z_prev
        return SolverState(f_z + self.momentum * (z - before), state.t + 1, z, f_z)


@dataclass(frozen=True)
class LastStep(Gradient):
    """Through the last step only."""

    scale: float = 1.0

    def solve(self, solver, f, z, steps, training):
        with torch.no_grad():
            final = reached(solver, f, z, steps)
        h = self.scale * f(final)
        return final + h - h.detach()


@dataclass(frozen=True)
class Margin(Objective):
    margin: float = 1.0

    def attack(self, threat, steps, step_size, seed):
        return PGD(threat, step_size, steps, seed=seed, keep="last")

    def losses(self, model, x, x_adv, y):
        logits = model(x_adv)
        return Losses(F.multi_margin_loss(logits, y, margin=self.margin), logits.argmax(1) == y)


@dataclass(frozen=True)
class FirstStates(StateSampler):
    most: int = 2

    def draw(self, steps, generator, count=1):
        return int(torch.randint(1, self.most + 1, (), generator=generator))


class Linear(Schedule):
    """No dataclass."""

    def __init__(self, last=0.0):
        self.last = last

    def share(self, done):
        return 1 + (self.last - 1) * done


def sign_descent(parameters, lr, weight_decay):
    return torch.optim.Rprop(parameters, lr=lr)


CONFIG = TrainConfig(phases=(Phase(epochs=2, attack_steps=1),), eps=0.15, batch_size=16, checkpoint_seconds=0.0)
OWN = {
    "objective": (Margin(), Margin(2.0)),
    "states": (FirstStates(), FirstStates(3)),
    "gradient": (LastStep(), LastStep(0.5)),
    "attack_gradient": (LastStep(), LastStep(0.5)),
    "schedule": (Linear(), Linear(0.5)),
    "optimizer": (sign_descent, torch.optim.Adagrad),
}


@pytest.fixture(scope="module")
def images():
    return rd.data.digits().train.take(slice(32))


def run(images, folder, config, stop_at=None):
    model = own(10, side=8)

    def stop(done, total, text):
        if done == stop_at:
            raise KeyboardInterrupt

    Trainer(model, images, config, folder).run(stop)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", OWN)
def test_a_run_with_an_object_of_ones_own_is_resumed_and_another_is_refused(images, tmp_path, name):
    mine, other = OWN[name]
    config = replace(CONFIG, **{name: mine})
    assert name == "optimizer" or getattr(config, name) is mine
    whole = run(images, tmp_path / "whole", config)
    assert not torch.equal(whole, run(images, tmp_path / "plain", CONFIG))  # it is not passed over
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "cut", config, stop_at=3)
    for wrong in (replace(CONFIG, **{name: other}), CONFIG):
        with pytest.raises(ValueError, match=rf"of a run with another training\.{name}"):
            run(images, tmp_path / "cut", wrong)
    assert torch.equal(run(images, tmp_path / "cut", config), whole)


def test_a_phase_takes_a_solver_and_a_gradient_of_ones_own(images, tmp_path):
    phase = Phase(epochs=1, attack_steps=1, solver=HeavyBall(), gradient=LastStep())
    assert phase.solver == HeavyBall() and phase.gradient == LastStep()
    first, second = (
        run(images, tmp_path / name, replace(CONFIG, phases=(used,)))
        for name, used in {"own": phase, "other": replace(phase, solver=HeavyBall(0.5))}.items()
    )
    assert not torch.equal(first, second)


def test_a_written_down_config_says_that_no_file_can_bring_the_class_in():
    written = replace(CONFIG, objective=Margin()).to_dict()
    assert written["objective"] == {"class": f"{__name__}.Margin", "margin": 1.0}
    with pytest.raises(ValueError, match=r"Margin is a class outside of this package.*allowed: the Objective itself"):
        TrainConfig.from_dict(written)


@pytest.mark.parametrize(("option", "mine"), [("solver", HeavyBall(0.2)), ("gradient", LastStep())])
def test_a_model_with_an_object_of_ones_own_is_saved_and_loaded_when_it_is_passed(tmp_path, option, mine):
    model = nano(**{option: mine})
    assert getattr(model, option) is mine and model.config[option]["class"].endswith(type(mine).__name__)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rd.save_model(model, tmp_path)
    with pytest.raises(ValueError, match=f"{type(mine).__name__} is a class outside of this package") as raised:
        rd.load_model(tmp_path)
    assert "\n" not in str(raised.value) and option in str(raised.value)
    for back in (rd.load_model(tmp_path, **{option: mine}), rd.load_model(tmp_path, into=nano(**{option: mine}))):
        assert getattr(back, option) == mine
        assert torch.equal(back(x), model(x))


# A model inside a wrapper that computes the same.


@pytest.mark.parametrize(
    "wrap", [nn.Sequential, nn.DataParallel, lambda model: torch.compile(model, backend="eager")],
    ids=["Sequential", "DataParallel", "compiled"],
)  # fmt: skip
def test_a_wrapped_model_is_trained_like_the_model_itself(images, tmp_path, wrap):
    """Its states are drawn and its phase's solver steps taken."""
    config = replace(CONFIG, states="random", phases=(Phase(epochs=1, attack_steps=1, solver_steps=2),))
    plain, wrapped = own(10, side=8), own(10, side=8)
    steps = []
    wrapped.register_forward_pre_hook(lambda m, args, options: steps.append(options.get("steps")), with_kwargs=True)
    Trainer(plain, images, config, tmp_path / "plain").run()
    Trainer(wrap(wrapped), images, config, tmp_path / "wrapped").run()
    assert len(steps) >= 4 and set(steps[:4]) <= {1, 2}
    assert all(map(torch.equal, plain.state_dict().values(), wrapped.state_dict().values()))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Hiding(own(10, side=8)), "Hiding that hides a DEQClassifier"),
        (lambda: nn.Sequential(own(10, side=8), nn.Identity()), "Sequential that hides a DEQClassifier"),
        (lambda: rd.EntropyReduction(updates=1)(own(10, side=8)), "RegulatedClassifier; allowed"),
    ],
)
def test_a_model_that_is_not_the_deq_itself_is_refused(images, tmp_path, make, why):
    with pytest.raises(ValueError, match=why):
        Trainer(make(), images, replace(CONFIG, states="random"), tmp_path)


def test_random_states_of_a_network_without_states_are_refused(images, tmp_path):
    resnet = rd.create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1, seed=0)
    for states in ("random", FirstStates()):
        with pytest.raises(ValueError, match=r"states=.*PreActResNet, which has .*; allowed: final"):
            Trainer(resnet, images, replace(CONFIG, states=states), tmp_path)
    Trainer(resnet, images, replace(CONFIG, phases=(Phase(epochs=1, attack_steps=0),)), tmp_path).run()
