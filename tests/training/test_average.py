"""The moving average of the weights: what it is, that a run ends with it, and that the better model is kept."""

from dataclasses import replace

import pytest
import torch
from small_models import own

import robustdeq as rd
from robustdeq.training import Phase, TrainConfig, Trainer
from robustdeq.training import trainer as training

DECAY = 0.25
CONFIG = TrainConfig(phases=(Phase(epochs=1, attack_steps=1),), eps=0.15, batch_size=16, ema=DECAY, learning_rate=0.1)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def images():
    return rd.data.digits().train.take(slice(64))


def test_a_run_ends_with_the_moving_average_of_its_weights(images, tmp_path):
    model = own(10, side=8)
    average = weights(model)
    steps = []

    def follow(done, total, text):
        nonlocal average
        decay = min(DECAY, done / (9 + done))  # smaller at first: 1/10, 2/11, 3/12 = 0.25
        average = decay * average + (1 - decay) * weights(model)
        steps.append(done)

    ended = Trainer(model, images, CONFIG, tmp_path).run(follow)
    assert steps == [1, 2, 3, 4]
    torch.testing.assert_close(weights(ended), average)


@pytest.mark.parametrize("better", ["validation", "validation_ema"])
def test_the_better_of_the_weights_and_their_average_is_kept(better, images, tmp_path, monkeypatch):
    trainer = Trainer(own(10, side=8), images, replace(CONFIG, validation_points=8), tmp_path, images)
    judged = {}

    def judge(model, *options):
        name = "validation_ema" if model is trainer.averaged else "validation"
        judged[name] = weights(model)
        return {"clean": 0.5, "robust": 0.5 if name == better else 0.25}

    monkeypatch.setattr(training, "judge", judge)
    trainer.run()
    assert not torch.equal(judged["validation"], judged["validation_ema"])
    assert torch.equal(weights(rd.load_model(trainer.best, into=own(10, side=8))), judged[better])
