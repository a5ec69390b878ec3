"""Digits, and a small DEQ that was trained on them."""

import pytest
import torch
from small_models import own
from torch import nn

import robustdeq as rd


@pytest.fixture(scope="session")
def digits():
    """Sixty test digits, an ``ImageSet``."""
    return rd.data.digits().test.take(slice(60))


@pytest.fixture(scope="session")
def sound():
    """A smooth DEQ, right on most digits, whose cell contracts: every gradient is nearly the exact one."""
    train = rd.data.digits().train
    x, y = train.images(slice(400)), train.labels[:400]
    model = own(10, side=8, sharpness=1.0, steps=4).train()
    with torch.no_grad():
        model.cell.mix.weight.mul_(0.3)
    optimizer = torch.optim.Adam([*model.inject.parameters(), *model.readout.parameters()], lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()
