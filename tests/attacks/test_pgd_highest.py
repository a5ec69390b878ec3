"""keep="highest": every step of every run, and the iterate of the highest loss, for images that must hold elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from small_models import Linear, Watched, images, own

from robustdeq import L2, EntropyReduction, Linf
from robustdeq.attacks import PGD, IntermediateState, Static, predictions
from robustdeq.defences import entropy

MODEL = own(classes=5)


def points(count=12, model=MODEL):
    x = images(count)
    with torch.no_grad():
        return x, predictions(model(x))


def ce(x, y):
    with torch.no_grad():
        return F.cross_entropy(MODEL(x), y, reduction="none")


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.8)])
def test_is_the_highest_of_all_iterates(threat):
    """Of three restarts of five iterates each, misclassified ones among them."""
    x, y = points()
    watched = Watched(MODEL)
    found = PGD(threat, 0.1, 4, restarts=3, keep="highest")(watched, x, y)
    assert [len(seen) for seen in watched.seen] == [len(x)] * 3 * 5
    losses = torch.stack([ce(seen, y) for seen in watched.seen])
    assert torch.equal(ce(found, y), losses.amax(dim=0))
    assert torch.equal(found, torch.stack(watched.seen)[losses.argmax(dim=0), torch.arange(len(x))])


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)])
def test_is_never_below_the_last_or_the_worst(threat):
    x, y = points()
    found = {keep: PGD(threat, 0.03, 8, keep=keep)(MODEL, x, y) for keep in ("highest", "last", "worst")}
    loss = {keep: ce(x_adv, y) for keep, x_adv in found.items()}
    assert (loss["highest"] >= loss["last"]).all() and (loss["highest"] >= loss["worst"]).all()
    with torch.no_grad():
        broken = predictions(MODEL(found["worst"])) != y
    assert broken.any() and (loss["highest"] > loss["worst"])[broken].all()  # it went on


def test_where_nothing_is_broken_it_is_the_worst():
    w = torch.randn(16, generator=torch.Generator().manual_seed(0))
    model, x, y = Linear.binary(w, b=8.0), images(4), torch.zeros(4, dtype=torch.long)
    highest, worst = (PGD(Linf(0.1), 0.02, 4, restarts=2, keep=keep)(model, x, y) for keep in ("highest", "worst"))
    assert torch.equal(highest, worst)


def test_a_targeted_loss_makes_a_confident_wrong_class():
    """Just past the boundary two classes are alike; entropy reduction turns such an image back."""
    x, y = points(24)
    options = {"loss": "ce-targeted", "targets": 4}
    with torch.no_grad():
        worst, highest = (
            MODEL(PGD(Linf(0.25), 0.05, 10, keep=keep, **options)(MODEL, x, y)) for keep in ("worst", "highest")
        )
    broken = (predictions(highest) != y) & (predictions(worst) != y)
    assert broken.sum() > 20
    assert (highest.softmax(1).amax(1) > worst.softmax(1).amax(1))[broken].all()
    assert (entropy(highest) < entropy(worst))[broken].float().mean() > 0.9


def test_a_confident_static_attack_is_the_stronger_on_the_defence():
    defended = EntropyReduction(eps=0.1, step_size=0.02, updates=4)(MODEL)
    x, y = points(48, defended)
    options = {"step_size": 0.03, "steps": 10, "loss": "ce-targeted", "targets": 4}
    standing = {}
    for keep in ("worst", "highest"):
        found = PGD(Linf(0.15), keep=keep, **options)(Static(defended), x, y)
        with torch.no_grad():
            standing[keep] = int((predictions(defended(found)) == y).sum())
    assert standing["highest"] < standing["worst"]


def test_an_image_depends_on_its_seed_and_index_alone():
    """In float64, where rounding by another batch size turns no sign."""
    model = own(classes=4, dtype=torch.float64)
    x, y, indices = images(6, dtype=torch.float64), torch.arange(6) % 4, torch.arange(6) + 40
    attack = PGD(Linf(0.03), 0.01, 5, restarts=2, keep="highest")
    whole = attack(model, x, y, indices=indices)
    order = torch.tensor([3, 5, 0])
    torch.testing.assert_close(attack(model, x[order], y[order], indices=indices[order]), whole[order])


def test_a_view_is_climbed_and_the_deployed_model_not_asked():
    model = own()
    view = IntermediateState(model, state=2, unroll=1)
    PGD(Linf(0.1), 0.03, 3, keep="highest")(view, images(4), torch.zeros(4, dtype=torch.long))
    assert model.tally.evaluations == 4 * (3 + 1) * (2 + 1 + 1)  # z^[2], h_0 and h_1 of every iterate
