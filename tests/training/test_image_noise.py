"""Noise on the images of a training: what it is, who sees it, and that nothing else changes."""

from dataclasses import replace

import pytest
import torch
from small_models import images, own

import robustdeq as rd
from robustdeq.attacks.starts import numbered
from robustdeq.seeds import mix
from robustdeq.training import Phase, TrainConfig, Trainer
from robustdeq.training.piece import NOISE
from robustdeq.training.step import TrainStep

BATCH = 8
CONFIG = TrainConfig(phases=(Phase(epochs=1, attack_steps=0),), batch_size=BATCH, noise=0.5, seed=3)
X = images(BATCH, shape=(1, 8, 8))


def seen(config, model=None, x=X, step=0):
    """The images of every forward of an update."""
    model, inputs = own(10, side=8) if model is None else model, []
    model.register_forward_pre_hook(lambda model, args: inputs.append(args[0].detach().clone()))
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    TrainStep(model, optimizer, config, 10)(x, torch.arange(BATCH), step, 0)
    return inputs


def noise(step=0):
    return 0.5 * numbered(X, mix(3, NOISE, step), 0, torch.arange(BATCH), torch.randn)


def test_an_update_sees_the_images_with_the_noise_of_its_step_beyond_the_box():
    (one,) = seen(CONFIG, step=4)
    assert torch.equal(one, X + noise(4)) and one.min() < 0 and one.max() > 1
    assert not torch.equal(seen(CONFIG, step=5)[0], one)
    assert torch.equal(seen(replace(CONFIG, noise=0.0))[0], X)
    pieces = seen(replace(CONFIG, accumulate=2), step=4)
    assert torch.equal(torch.cat(pieces), one)


@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
def test_attack_and_update_see_the_same_noise_and_images_in_the_ball(objective):
    phases = (Phase(epochs=1, attack_steps=2),)
    config = replace(CONFIG, phases=phases, objective=objective, threat=rd.Linf(0.15), eps=0.15)
    clean = [one - noise() for one in seen(config)]
    assert len(clean) >= 3 and all(rd.Linf(0.15).contains(X, one, slack=1e-5).all() for one in clean)


def test_penalties_see_it_too_and_so_does_a_network_without_states():
    jacobian = {"weight": 1.0, "share": 1.0}
    config = replace(CONFIG, phases=(Phase(epochs=1, attack_steps=1),), consistency=1.0, jacobian=jacobian)
    model = own(10, side=8)
    injected = []
    model.inject.register_forward_pre_hook(lambda module, args: injected.append(args[0].detach().clone()))
    seen(config, model)
    assert len(injected) == 5 and all(not ((one >= 0) & (one <= 1)).all() for one in injected)
    resnet = rd.create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1, seed=0)
    assert torch.equal(seen(CONFIG, resnet)[0], X + noise())


def test_images_that_are_none_are_still_refused():
    with pytest.raises(ValueError, match="images lie in"):
        seen(CONFIG, x=255 * X)


def test_a_run_with_noise_learns_what_smoothing_can_certify(tmp_path):
    data = rd.data.digits()
    model = rd.create_model("mondeq-nano", seed=0, channels=8, bound=None)
    config = TrainConfig(
        phases=(Phase(epochs=3, attack_steps=0),), batch_size=64, noise=0.25, learning_rate=1e-2, seed=0
    )
    Trainer(model, data.train, config, tmp_path).run()
    few = data.test.take(slice(12))
    certificate = rd.certify(rd.Smoothing(0.25)(model.eval()), few, n0=20, n=200)
    assert certificate.shares((0.0,))[0.0].count >= 8
    assert TrainConfig.from_dict(config.to_dict()) == config
