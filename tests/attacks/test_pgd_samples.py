"""What PGD does with a sample: inside ball and box, from its own start, until it is broken, whatever the others do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Linear, Watched, images, own
from torch import nn

from robustdeq import L2, Linf
from robustdeq.attacks import LOSSES, PGD, predictions
from robustdeq.attacks.pgd import KEEPS, STARTS

MODEL = own(classes=5)


def weights(seed=0):
    return torch.randn(16, generator=torch.Generator().manual_seed(seed))


@given(
    loss=st.sampled_from(sorted(LOSSES)),
    start=st.sampled_from(sorted(STARTS)),
    keep=st.sampled_from(sorted(KEEPS)),
    restarts=st.integers(1, 2),
    steps=st.integers(0, 3),
    threat=st.one_of(st.floats(0, 1).map(Linf), st.floats(0, 5).map(L2)),
    step_size=st.floats(0, 2),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_stays_inside_and_is_determined_by_its_seed(loss, start, keep, restarts, steps, threat, step_size, seed):
    if keep == "last" and loss.endswith("targeted"):
        loss = "ce"
    restarts = 1 if keep == "last" or start == "clean" else restarts
    attack = PGD(threat, step_size, steps, restarts, seed, loss=loss, targets=2, start=start, keep=keep)
    x = images(4, seed=seed).round(decimals=1)
    y = torch.arange(4)
    before = x.clone()
    found = attack(MODEL, x, y)
    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1
    order = torch.inf if isinstance(threat, Linf) else 2
    length = torch.linalg.vector_norm((found.double() - x.double()).flatten(1), ord=order, dim=1)
    assert (length <= threat.eps + 1e-6).all()
    assert torch.equal(attack(MODEL, x, y), found)
    assert torch.equal(x, before)
    assert found.data_ptr() != x.data_ptr()


def starts(x, seed=0, start="uniform", threat=None, indices=None):
    attack = PGD(threat or Linf(0.1), steps=0, seed=seed, start=start, keep="last")
    return attack(MODEL, x, torch.zeros(len(x), dtype=torch.long), indices=indices)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_a_start_depends_on_seed_and_index_alone(start, threat):
    x = images(6)
    indices = torch.tensor([7, 0, 100, 3, 50_000, 12])
    whole = starts(x, 0, start, threat, indices)
    for rows in ([2], [5, 1], [4, 3, 2, 1, 0, 5]):
        assert torch.equal(starts(x[rows], 0, start, threat, indices[rows]), whole[rows])
    assert torch.equal(starts(x, 0, start, threat, indices), whole)


@pytest.mark.parametrize("indices", [None, torch.arange(6)])
@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_other_seeds_samples_and_restarts_start_elsewhere(start, indices):
    x = torch.full((6, 1, 4, 4), 0.5)
    found = [starts(x, seed, start, indices=indices) for seed in (0, 1, 2)]
    rows = torch.cat(found).flatten(1)
    assert len(rows.unique(dim=0)) == 18
    watched = Watched(Linear.binary(weights(), b=50.0))
    PGD(Linf(0.1), steps=0, restarts=3, start=start)(watched, x, torch.zeros(6, dtype=torch.long), indices=indices)
    assert len(torch.cat(watched.seen).flatten(1).unique(dim=0)) == 18


def test_gaussian_start_is_that_of_trades():
    x = torch.full((50, 1, 16, 16), 0.5)
    shift = starts(x, start="gaussian") - x
    assert shift.std() == pytest.approx(0.001, rel=0.05)
    assert shift.mean().abs() < 0.001 * 4 / shift.numel() ** 0.5


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_global_generators_are_not_touched(start):
    before = torch.get_rng_state()
    starts(images(3), start=start)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_attack_does_not_depend_on_its_batch():
    """In float64, where rounding by another batch size turns no sign."""
    model = own(classes=4, dtype=torch.float64)
    x, y, indices = images(6, dtype=torch.float64), torch.arange(6) % 4, torch.arange(6) + 40
    attack = PGD(Linf(0.03), 0.01, 5)
    whole = attack(model, x, y, indices=indices)
    order = torch.tensor([3, 5, 0])
    torch.testing.assert_close(attack(model, x[order], y[order], indices=indices[order]), whole[order])


def test_a_broken_sample_is_not_worked_on_any_more():
    """A margin falls by step_size ||w||_1 a step; the step at which each sample breaks is known."""
    w = torch.ones(16)
    x = torch.full((5, 1, 4, 4), 0.5)
    x += torch.tensor([0.0, 0.011, 0.021, 0.031, 0.4]).view(-1, 1, 1, 1)
    model = Watched(Linear.binary(w, b=-8.0 + 1e-3))  # margins 16 (x - 0.5): steps of 0.01 needed to break
    y = torch.zeros(5, dtype=torch.long)
    found = PGD(Linf(0.2), step_size=0.01, steps=10, start="clean")(model, x, y)
    needed = [1, 2, 3, 4, 11]  # the last one stands: it is looked at after every step
    assert sum(len(seen) for seen in model.seen) == sum(min(k, 10) + 1 for k in needed)
    assert [len(seen) for seen in model.seen] == [sum(k >= step for k in needed) for step in range(11)]
    with torch.no_grad():
        assert (predictions(model(found)) != y).tolist() == [True, True, True, True, False]


def test_a_broken_sample_is_not_restarted():
    model = Watched(Linear.binary(torch.ones(16), b=-7.0))
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.tensor([0, 0, 1])  # the last is wrong as it stands
    x[1] = 0.9
    PGD(Linf(0.2), step_size=0.1, steps=4, restarts=5)(model, x, y)
    standing = [seen for seen in model.seen if len(seen) == 1]
    assert all((seen > 0.6).all() for seen in standing)
    assert len(model.seen) == 5 * 5


def test_an_already_wrong_sample_costs_one_forward():
    model = Watched(Linear.binary(torch.ones(16), b=-20.0))
    PGD(Linf(0.1), steps=10, restarts=3)(model, images(4), torch.zeros(4, dtype=torch.long))
    assert [len(seen) for seen in model.seen] == [4]


@pytest.mark.parametrize(("keep", "restarts", "wanted"), [("worst", 1, 1 + 5), ("worst", 3, 1 + 3 * 5), ("last", 1, 5)])
def test_kl_computes_the_clean_logits_once_an_attack(keep, restarts, wanted):
    model = Watched(Linear.binary(weights(), b=50.0))
    x = images(3)
    PGD(Linf(0.1), steps=4, loss="kl", keep=keep, restarts=restarts)(model, x, torch.zeros(3, dtype=torch.long))
    assert len(model.seen) == wanted
    assert sum(torch.equal(seen, x) for seen in model.seen) == 1


class Cursed(nn.Module):
    """``inner``, but images with a white first pixel (nearly) have NaN logits, or NaN gradients."""

    def __init__(self, inner, logits=False, gradient=False):
        super().__init__()
        self.inner, self.logits, self.gradient = inner, logits, gradient

    def forward(self, x):
        bad = x.detach()[:, 0, 0, 0] > 0.8
        if self.gradient and x.requires_grad:
            x.register_hook(lambda g: torch.where(bad[:, None, None, None], torch.nan, g))
            x = x + 0
        out = self.inner(x)
        return torch.where(bad[:, None], torch.nan, out) if self.logits else out


@pytest.fixture
def one_bad():
    """Four images of which the second is bad, wherever in the ball of 0.05 it is; labels that the model gives."""
    x = 0.7 * images(4)
    x[1, 0, 0, 0] = 0.99
    with torch.no_grad():
        return x, predictions(MODEL(x))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.1)])
def test_nan_logits_count_as_misclassified_and_spoil_no_other(one_bad, loss, threat):
    x, y = one_bad
    attack = PGD(threat, 0.02, 5, loss=loss)
    found = attack(Cursed(MODEL, logits=True), x, y)
    with torch.no_grad():
        assert predictions(Cursed(MODEL, logits=True)(found))[1] == -1
    assert threat.contains(x, found).all()
    others = torch.tensor([0, 2, 3])
    alike = y.clone()
    alike[1] = (y[1] + 1) % 5  # in the same batch, wrong from the start in the plain model too
    torch.testing.assert_close(found[others], attack(MODEL, x, alike)[others], rtol=0, atol=1e-6)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.1)])
def test_a_nan_gradient_holds_its_sample_and_spoils_no_other(one_bad, threat, keep):
    x, y = one_bad
    attack = PGD(threat, 0.02, 5, keep=keep, start="clean")
    found, fine = attack(Cursed(MODEL, gradient=True), x, y), attack(MODEL, x, y)
    assert torch.equal(found[1], x[1])
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(found[others], fine[others], rtol=0, atol=1e-6)
    assert not torch.equal(fine[1], x[1])


def test_nan_images_are_nobody_s_and_spoil_no_other():
    x, y = images(4), torch.arange(4)
    bad = x.clone()
    bad[2] = torch.nan
    attack = PGD(Linf(0.05), 0.02, 5, keep="last")
    found = attack(MODEL, bad, y)
    others = torch.tensor([0, 1, 3])
    torch.testing.assert_close(found[others], attack(MODEL, x, y)[others], rtol=0, atol=1e-6)
