"""How strong PGD is: the worst case where it is known in closed form, and more work never gives less."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Linear, images, own

from robustdeq import L2, Linf
from robustdeq.attacks import LOSSES, PGD, predictions

MODEL = own(classes=5)


def weights(seed=0):
    return torch.randn(16, generator=torch.Generator().manual_seed(seed))


def margin(model, x):
    """w x + b of a binary linear model."""
    return (x.flatten(1).double() @ (model.weight[0] - model.weight[1]).double()) + (
        model.bias[0] - model.bias[1]
    ).item()


def ce(model, x, y):
    with torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")


@pytest.mark.parametrize("loss", ["ce", "dlr", "ce-targeted"])
@pytest.mark.parametrize("eps", [0.0, 0.03, 0.3])
def test_linf_worst_case_of_a_linear_model(loss, eps):
    """Every pixel goes to the far end of ball and box: x - eps sign(w), cut."""
    w = weights()
    model = Linear.binary(w, b=6.0)  # stands everywhere, so nothing stops early
    x = images(6)
    wanted = (x - eps * w.sign().view(1, 1, 4, 4)).clamp(0, 1)
    assert (margin(model, wanted) > 0).all()
    found = PGD(Linf(eps), step_size=0.1, steps=10, loss=loss)(model, x, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@given(eps=st.floats(0, 0.5), b=st.floats(-2, 2), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_a_linear_sample_is_broken_exactly_where_its_worst_case_is(eps, b, seed):
    w = weights(seed)
    model, x = Linear.binary(w, b), images(8, seed=seed)
    with torch.no_grad():
        y = predictions(model(x))
    toward = (y * 2 - 1).view(-1, 1, 1, 1) * w.sign().view(1, 1, 4, 4)
    worst = margin(model, (x + eps * toward).clamp(0, 1)) * (1 - 2 * y)
    found = PGD(Linf(eps), step_size=max(eps / 4, 0.01), steps=12)(model, x, y)
    with torch.no_grad():
        broken = predictions(model(found)) != y
    clear = worst.abs() > 1e-4
    assert torch.equal(broken[clear], (worst < 0)[clear])


def test_l2_worst_case_of_a_linear_model():
    """x - eps w / ||w||, where the box does not cut."""
    w = weights()
    model, y = Linear.binary(w, b=8.0), torch.zeros(5, dtype=torch.long)
    x = 0.3 + 0.4 * images(5)
    wanted = x - 0.2 * (w / w.norm()).view(1, 1, 4, 4)
    found = PGD(L2(0.2), step_size=0.05, steps=8, start="clean")(model, x, y)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    started = PGD(L2(0.2), step_size=0.1, steps=60)(model, x, y) - x
    cosine = F.cosine_similarity(started.flatten(1), -w[None])
    assert (cosine > 0.999).all()
    torch.testing.assert_close(started.flatten(1).norm(dim=1), torch.full((5,), 0.2))


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
def test_one_step_from_the_image_is_fgsm(threat):
    model = own(classes=4)
    x, y = 0.3 + 0.4 * images(5), torch.arange(5) % 4
    found = PGD(threat, step_size=0.02, steps=1, start="clean", keep="last")(model, x, y)
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(at), y), at)
    by_length = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    step = slope.sign() if isinstance(threat, Linf) else by_length
    torch.testing.assert_close(found, x + 0.02 * step)


def test_a_targeted_loss_reaches_the_class_that_is_nearest():
    """The likeliest wrong class, 2, is always below class 0; class 1 can rise above it: the second target succeeds."""
    weight = torch.zeros(3, 16)
    weight[1] = 1.0
    model = Linear(weight, torch.tensor([2.0, -9.0, 1.9]))  # class 1 is at -1, and at 7 on a white image
    x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    for targets, wanted in ((1, 0), (2, 1)):
        found = PGD(Linf(0.5), 0.1, 10, loss="ce-targeted", targets=targets, start="clean")(model, x, y)
        with torch.no_grad():
            assert predictions(model(found)) == wanted


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.1)])
@pytest.mark.parametrize("loss", LOSSES)
def test_more_steps_never_give_a_lower_loss(loss, threat):
    """Of what is attacked: the loss itself, infinite where the model errs. The first steps are the same."""
    x = images(12)
    with torch.no_grad():
        y = predictions(MODEL(x))
    reached = []
    for steps in (0, 1, 2, 4, 8, 16):
        attack = PGD(threat, 0.01, steps, loss=loss, targets=1)
        found = attack(MODEL, x, y)
        with torch.no_grad():
            logits, clean = MODEL(found), MODEL(x)
        p, q = logits.log_softmax(1), clean.log_softmax(1)
        target = q.scatter(1, y[:, None], -torch.inf).argmax(1)
        top = logits.topk(4).values
        rows = torch.arange(12)
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        value = {
            "cw": others - logits[rows, y],
            "pm": (others.exp() - logits[rows, y].exp()) / logits.exp().sum(1),
            "ce": -p[rows, y],
            "kl": (q.exp() * (q - p)).sum(1),
            "dlr": (top[:, 1] - logits[rows, y]) / (top[:, 0] - top[:, 2]),
            "ce-targeted": p[rows, target],
            "cw-targeted": logits[rows, target] - logits[rows, y],
            "dlr-targeted": (logits[rows, target] - logits[rows, y]) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2),
        }[loss]
        reached.append(value.masked_fill(logits.argmax(1) != y, torch.inf))
    for fewer, more in pairwise(reached):
        assert (more >= fewer - 1e-6).all()
    assert (reached[-1] > reached[0]).any()


def test_more_restarts_never_give_a_lower_loss():
    x = images(12)
    with torch.no_grad():
        y = predictions(MODEL(x))
    losses = []
    for restarts in (1, 2, 4):
        found = PGD(Linf(0.02), 0.005, 2, restarts)(MODEL, x, y)
        with torch.no_grad():
            wrong = predictions(MODEL(found)) != y
        losses.append(ce(MODEL, found, y).masked_fill(wrong, torch.inf))
    assert (losses[1] >= losses[0]).all() and (losses[2] >= losses[1]).all()
    assert (losses[2] > losses[0]).any()


def test_the_last_iterate_is_the_last_of_the_same_path():
    """Where nothing is broken the loss of a linear model rises with every step, so both ways of keeping agree."""
    model, x = Linear.binary(weights(), b=8.0), images(4)
    y = torch.zeros(4, dtype=torch.long)
    last, worst = (PGD(Linf(0.1), 0.02, 4, keep=keep)(model, x, y) for keep in ("last", "worst"))
    assert torch.equal(last, worst)
