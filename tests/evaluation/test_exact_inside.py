"""What is around a DEQ calls it as it is; an attack through that takes its exact gradient, whatever the model's own."""

import pytest
import torch
from small_models import Linear, images, own

import robustdeq as rd
from robustdeq.attacks import EndToEnd, Exact, Frozen
from robustdeq.defences import Defended, Smoothing
from robustdeq.evaluation import suite
from robustdeq.evaluation.entries import exact
from robustdeq.models.structure import Wrapper

THREAT, Y = rd.Linf(0.1), torch.arange(3)


class Halved(Defended):
    """A defence of a user's own, written as the guide says."""

    def forward(self, x):
        return self.model(0.25 + x / 2)


class Read(Wrapper):
    """A readout of a user's own."""

    kind = "readout"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return 2 * self.model(x)


AROUND = {
    "defence": Halved,
    "smoothing": Smoothing(0.2, draws=8, seed=0),
    "entropy reduction": rd.EntropyReduction(updates=2, every=1),
    "readout": Read,
}


def slope(view, x):
    at = x.clone().requires_grad_()
    return torch.autograd.grad(view(at)[:, 0].sum(), at)[0]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("gradient", ["phantom", "implicit"])
def test_the_gradient_of_the_model_is_not_the_attack_s(around, gradient, pieces, monkeypatch):
    if pieces:  # so that smoothing makes a part of its graph again in the backward pass
        monkeypatch.setattr("robustdeq.defences.smoothing.TOGETHER", 6)
    x, plain, given = images(), own(steps=2), own(steps=2, gradient=gradient)
    views = [exact] if around == "readout" else [exact, Frozen, EndToEnd]
    for view in views:
        wanted = slope(view(AROUND[around](plain)), x)
        assert torch.equal(slope(view(AROUND[around](given)), x), wanted)
        assert given.gradient.name == gradient
    if around in ("defence", "readout"):  # asked itself, it is as it was made
        assert not torch.allclose(slope(AROUND[around](given), x), wanted)


def test_a_readout_of_one_s_own_is_attacked_by_its_exact_gradient():
    """Its PGD took the model's own gradient, and a masked one left twice as many standing."""
    model, x = Read(own(steps=2, gradient="phantom")), images()
    assert isinstance(exact(model), Exact)
    record = rd.evaluate(model, x, Y, suite="quick", threat=THREAT, steps=2, checks=0).record
    assert [record.attacks[name].exact for name in ("pgd-2", "pgd-2 dlr")] == [True, True]


@pytest.mark.parametrize("name", ["adaptive", "paper", "standard"])
@pytest.mark.parametrize("behind", [False, True])
def test_points_are_those_of_every_attack_beyond_quick(name, behind):
    model = own(steps=4)
    model = rd.EntropyReduction(updates=1, every=2)(model) if behind else model
    options = {"points": 3, "surrogates": [Linear.random(3)]}
    beyond = {entry.name for entry in suite("quick", model, THREAT)} if name != "paper" else set()
    entries = suite(name, model, THREAT, **options)
    assert {entry.name for entry in entries if entry.points != 3} == (beyond if name != "paper" else set())
