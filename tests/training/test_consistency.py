"""The consistency penalty is the relative deviation of the attacked from the clean states, by its definition."""

from dataclasses import replace

import pytest
import torch
from small_models import images, nano, own
from torch import nn

import robustdeq as rd
from robustdeq.training import Phase, TrainConfig, Trainer
from robustdeq.training import piece as piece_of_training
from robustdeq.training.regularise import state_deviation
from robustdeq.training.step import TrainStep

BATCH, STEPS, EPS = 6, 4, 0.15
CONFIG = TrainConfig(phases=(Phase(epochs=1, attack_steps=1),), batch_size=BATCH, eps=EPS, clip=1e9)


class AffineCell(nn.Module):
    """f(z; u) = A z + u, so z^[t] = (I + A + ... + A^(t-1)) u from zero."""

    def __init__(self, size):
        super().__init__()
        self.a = nn.Parameter(0.3 * torch.eye(size) + 0.02 * torch.ones(size, size))

    def forward(self, z, u):
        return z @ self.a.mT + u


def affine():
    inject = nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False))
    return rd.DEQClassifier(inject, AffineCell(5), nn.Linear(5, 3), [(5,)], steps=STEPS).double()


def pair(shape=(1, 4, 4)):
    x, other = (images(BATCH, seed=seed, shape=shape, dtype=torch.float64) for seed in (0, 1))
    return x, (x + EPS * (2 * other - 1)).clamp(0, 1)


@pytest.mark.parametrize("begun", [False, True])
def test_on_an_affine_map_it_and_its_gradient_are_the_closed_form(begun):
    model, (x, x_adv) = affine(), pair()
    a, w = model.cell.module.a, model.inject[1].weight
    start = torch.ones(BATCH, 5, dtype=torch.float64) if begun else None
    ratios, power, series = [], torch.eye(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    for _ in range(STEPS):
        series, power = series + power, power @ a
        moved = 0 if start is None else start @ power.mT
        z, z_adv = (images.flatten(1) @ w.mT @ series.mT + moved for images in (x, x_adv))
        ratios.append((z_adv - z).norm(dim=1) / z.norm(dim=1))
    expected, found = torch.stack(ratios).mean(), state_deviation(model, x, x_adv, STEPS, start=start)
    torch.testing.assert_close(found, expected)
    for mine, wanted in zip(*(torch.autograd.grad(value, [a, w]) for value in (found, expected))):
        torch.testing.assert_close(mine, wanted)


def test_equal_images_deviate_by_nothing_whatever_the_dropout_and_leave_no_trace():
    model = nano(dropout=0.5).train()
    x = images(BATCH, shape=(1, 8, 8))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = state_deviation(model, x, x.clone(), STEPS)
    assert found.item() == 0
    found.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def update(model, config):
    x, y = images(BATCH, shape=(1, 8, 8), dtype=torch.float64), torch.arange(BATCH)
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    return TrainStep(model, optimizer, config, 10)(x, y, 0, 0)


def test_an_update_pays_weight_times_it(monkeypatch):
    """Of the images and of those that the attack has made of them, from the same start."""
    seen = []
    kept = lambda *args, **options: seen.append((args, options)) or state_deviation(*args, **options)  # noqa: E731
    monkeypatch.setattr(piece_of_training, "state_deviation", kept)
    losses, config = [], replace(CONFIG, start_noise=0.1)
    for weight in (0.0, 3.0):
        model = own(10, side=8, steps=STEPS, dtype=torch.float64)
        losses.append(update(model, replace(config, consistency=weight)).loss)
    ((_, x, x_adv, steps, _), options), = seen  # fmt: skip
    assert steps == STEPS and options["start"].shape == (BATCH, 12)
    assert 0 < float((x_adv - x).abs().max()) <= EPS + 1e-12
    paid = state_deviation(own(10, side=8, dtype=torch.float64), x, x_adv, STEPS, **options).item()
    assert losses[1] - losses[0] == pytest.approx(3 * paid)


def test_clean_images_pay_nothing():
    config = replace(CONFIG, phases=(Phase(epochs=1, attack_steps=0),))
    models = [own(10, side=8, steps=STEPS, dtype=torch.float64) for _ in range(2)]
    losses = [update(model, replace(config, consistency=w)).loss for model, w in zip(models, (0.0, 3.0))]
    assert losses[0] == losses[1] and models[0].tally.units == models[1].tally.units


def test_a_network_without_states_is_refused(tmp_path):
    resnet = rd.create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1, seed=0)
    with pytest.raises(ValueError, match=r"consistency=1\.0 with a PreActResNet, which has no states; allowed: 0\.0"):
        Trainer(resnet, rd.data.digits().train.take(slice(32)), replace(CONFIG, consistency=1.0), tmp_path)
    with pytest.raises(ValueError, match=r"jacobian with weight=2 with a PreActResNet, which has no states"):
        jacobian = {"weight": 2.0, "share": 1.0}
        Trainer(resnet, rd.data.digits().train.take(slice(32)), replace(CONFIG, jacobian=jacobian), tmp_path)
