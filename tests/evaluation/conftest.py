"""Digits, and a small DEQ that was trained on them; a DEQ with sharp edges, and noise that it classifies."""

import pytest
import torch
from small_models import fitted, images_for, own

import robustdeq as rd


@pytest.fixture(scope="session")
def digits():
    """Sixty test digits, an ``ImageSet``."""
    return rd.data.digits().test.take(slice(60))


@pytest.fixture(scope="session")
def sound():
    """A smooth DEQ, right on most digits, whose cell contracts: every gradient is nearly the exact one."""
    model = own(10, side=8, sharpness=1.0, steps=4)
    with torch.no_grad():
        model.cell.mix.weight.mul_(0.3)
    return fitted(model, [*model.inject.parameters(), *model.readout.parameters()], lr=2e-2, updates=60)


@pytest.fixture(scope="module")
def model():
    return own(4, sharpness=8.0, steps=3)


@pytest.fixture(scope="module")
def points(model):
    """24 images and their labels, which the model gets right but for every seventh."""
    x = images_for(model, 24)
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return x, y
