"""Randomised smoothing: shares of votes, a gradient, images in the box and noise beyond it, honesty about chance."""

import pytest
import torch
from small_models import Linear, images, images_for, nano, own

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.defences import Ensemble, SmoothedClassifier, Smoothing
from robustdeq.evaluation import Entry
from robustdeq.testing import DefenceLaws

SEEDED = Smoothing(0.5, draws=16, seed=0)


class TestSmoothedDEQ(DefenceLaws):
    @pytest.fixture(autouse=True, params=["own", "nano", "pieces", "clipped", "behind another defence", "ensemble"])
    def choose(self, request, monkeypatch):
        self.name = request.param
        if self.name == "pieces":  # sixteen copies of three images, in forwards of two copies
            monkeypatch.setattr("robustdeq.defences.smoothing.TOGETHER", 6)

    def case(self):
        model = nano(steps=3) if self.name == "nano" else own(steps=4)
        method = Smoothing(0.5, draws=16, seed=0, clip=self.name == "clipped")
        inner = {"behind another defence": rd.EntropyReduction(updates=1, every=2), "ensemble": Ensemble}
        return method(inner.get(self.name, lambda same: same)(model)), images_for(model)


def test_the_shares_are_those_of_a_linear_classifier_s_margin():
    """P(w x + b + sigma w e > 0) = Phi((w x + b) / (sigma ||w||))."""
    w, x = torch.linspace(-1, 1, 16), images(5)
    model = Linear.binary(w, 0.1)
    shares = Smoothing(0.3, draws=40_000, seed=1)(model)(x)
    exact = torch.special.ndtr((x.flatten(1) @ w + 0.1) / (0.3 * w.norm()))
    assert torch.allclose(shares.sum(1), torch.ones(5)) and torch.allclose(shares[:, 0], exact, atol=0.01)


def test_noise_goes_beyond_the_box_unless_it_is_clipped_and_images_do_not():
    class Extremes(torch.nn.Module):
        def forward(self, x):
            seen.append((float(x.min()), float(x.max())))
            return x.flatten(1)[:, :3]

    for clip in (False, True):
        seen = []
        Smoothing(2.0, draws=8, seed=0, clip=clip)(Extremes())(images())
        assert all((low >= 0 and high <= 1) is clip for low, high in seen)
    smoothed, model = SEEDED(own()), own()
    with pytest.raises(ValueError, match="images lie in"):
        smoothed(images() + 1)
    smoothed(images())  # and the door is closed again
    with pytest.raises(ValueError, match="images lie in"):
        model(images() + 1)


def test_the_gradient_is_that_of_the_mean_probabilities():
    model, x = own(dtype=torch.float64), images(dtype=torch.float64).requires_grad_()
    smoothed = SEEDED(model)
    noise = torch.cat(list(smoothed._noise(x)))
    soft = torch.stack([smoothed.respond(x + 0.5 * one).softmax(1) for one in noise]).mean(0)
    weights = torch.arange(3.0, dtype=torch.float64)
    slopes = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (smoothed(x), soft)]
    assert torch.allclose(*slopes, atol=1e-12) and slopes[0].abs().max() > 0


def test_unseeded_it_is_random_and_seeded_it_is_not_and_an_evaluation_says_so():
    model = own(sharpness=1.0)
    x = images_for(model, 12)
    y = model(x).argmax(1)
    entries = [Entry("pgd", "PGD", PGD(rd.L2(0.1), 0.05, 1), rd.attacks.Frozen)]
    for seed, random in ((None, True), (0, False)):
        smoothed = Smoothing(0.5, draws=9, seed=seed)(model)
        assert torch.equal(smoothed(x), smoothed(x)) is not random
        found = rd.evaluate(smoothed, x, y, suite=entries, threat=rd.L2(0.1), checks=12)
        assert {flag.name: flag.fired for flag in found.flags}["random"] is random


@pytest.mark.parametrize("suite", ["quick", "adaptive"])
def test_every_suite_attacks_it_as_a_defence(suite):
    model = own(side=8, sharpness=1.0, steps=3)
    x, short = images_for(model, 4), {"attacks": ["apgd-ce"], "iterations": 2, "queries": 4, "restarts": 1}
    options = short if suite == "adaptive" else {}
    found = rd.evaluate(
        Smoothing(0.2, draws=4, seed=0)(model), x, model(x).argmax(1), suite=suite, threat=rd.L2(0.5), steps=2,
        checks=0, **options,
    )  # fmt: skip
    assert {"static", "frozen"} <= set(found.columns.values())
    assert found.record.identity.defence.settings["sigma"] == 0.2


def test_copies_without_finite_logits_do_not_vote():
    class Broken(torch.nn.Module):
        def forward(self, x):
            return torch.where(x[:, 0, 0, :1] > 0.5, torch.nan, x.flatten(1)[:, :3])

    x = torch.full((1, 1, 4, 4), 0.5)
    assert 0 < float(Smoothing(0.1, draws=40, seed=0)(Broken())(x).sum()) < 1
    assert Smoothing(1e-4, draws=40, seed=0)(Broken())(x + 0.4).isnan().all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Smoothing(0.0), "sigma=0.0; allowed: a number > 0"),
        (lambda: Smoothing(0.1, draws=0), "draws=0"),
        (lambda: Smoothing(0.1, drws=1), "did you mean 'draws'"),
        (lambda: Smoothing(0.1, classes=4, seed=0)(own())(images()), "K >= 4"),
        (lambda: Smoothing(0.1, classes=2)(own())(images()), "classes=2 of a model with 3"),
        (lambda: Smoothing(0.1)(3), "allowed: a torch.nn.Module"),
        (lambda: SmoothedClassifier(own(), None), "allowed: a Smoothing"),
    ],
)
def test_what_does_not_fit_is_one_line(make, told):
    with pytest.raises(ValueError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_majority_of_one_is_one_in_half_precision():
    """251 of 501 votes: bfloat16 holds neither number."""

    class Counted(torch.nn.Module):
        def forward(self, x):
            first = (torch.arange(len(x)) < 250)[:, None]
            return torch.where(first, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).to(x.dtype)

    shares = Smoothing(0.5, draws=501, seed=0)(Counted())(images(1).bfloat16())
    assert shares.dtype == torch.float32 and torch.allclose(shares, torch.tensor([[250 / 501, 251 / 501]]))
