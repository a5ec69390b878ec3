"""Several views at once: PGD climbs the sum of their losses, other attacks the deployed logits with their pullbacks."""

import json

import pytest
import torch
import torch.nn.functional as F
from small_models import Linear, Shifted, images, images_for, own

from robustdeq import EntropyReduction, Linf
from robustdeq.attacks import APGD, PGD, EndToEnd, Frozen, IntermediateState, Summed, ThroughGradient, predictions
from robustdeq.defences import EarlyState

STATES = (1, 3, 5)


def unrolled(model):
    return ThroughGradient(model, "unrolled")


def phantom(model):
    return ThroughGradient(model, "phantom")


def summed(model):
    return IntermediateState.several(model, states=STATES, unroll=2, damping=0.5)


def test_pgd_climbs_the_sum_of_the_losses():
    model = own(classes=4, dtype=torch.float64)
    x, y = 0.3 + 0.4 * images_for(model, 5), torch.arange(5) % 4
    found = PGD(Linf(0.1), 0.02, 1, start="clean", keep="last")(summed(model), x, y)
    at = x.clone().requires_grad_()
    loss = sum(F.cross_entropy(IntermediateState(model, t, 2, 0.5)(at), y, reduction="sum") for t in STATES)
    torch.testing.assert_close(found, x + 0.02 * torch.autograd.grad(loss, at)[0].sign())


def test_pgd_keeps_the_highest_sum():
    model = own(classes=4)
    x, y = images_for(model, 6), torch.arange(6) % 4

    def value(x_adv):
        with torch.no_grad():
            views = [IntermediateState(model, t, 2, 0.5) for t in STATES]
            return sum(F.cross_entropy(view(x_adv), y, reduction="none") for view in views)

    last, highest = (PGD(Linf(0.1), 0.05, 5, keep=keep)(summed(model), x, y) for keep in ("last", "highest"))
    assert (value(highest) >= value(last) - 1e-6).all()


def test_pgd_through_one_view_is_that_of_the_view():
    model = own(classes=4)
    x, y = images_for(model, 6), torch.arange(6) % 4
    view = IntermediateState(model, state=2, unroll=2)
    for attack in (PGD(Linf(0.1), 0.03, 5), PGD(Linf(0.1), 0.03, 5, loss="dlr-targeted", targets=2, keep="highest")):
        assert torch.equal(attack(Summed([view]), x, y), attack(view, x, y))


@pytest.mark.parametrize("shift", [(4.0, 0.0), (0.0, 20.0)])
def test_the_deployed_model_alone_says_what_is_misclassified(shift):
    model = Linear.binary(torch.ones(16), b=-7.0)  # class 0 where the mean pixel is above 7/16
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long)
    x[1] = 0.99
    found = PGD(Linf(0.2), 0.04, 10, start="clean")(Summed([Shifted(model, *shift), Shifted(model, 1.0, 0.0)]), x, y)
    torch.testing.assert_close(found, x - torch.tensor([0.08, 0.2]).view(2, 1, 1, 1))  # two steps suffice, five do not


def test_a_sum_over_early_states_is_judged_by_the_deployed_model_too():
    """Images that are right, and wrong at z^[1] from the start: no attack is done with them at once."""
    model = own(classes=4)
    x, seen = images_for(model, 400), EarlyState(model, 1)
    y = predictions(model(x)).detach()
    x, y = x[predictions(seen(x)) != y], y[predictions(seen(x)) != y]
    assert len(x) > 5
    view = Summed([EarlyState(model, 1), EarlyState(model, 2)], deployed=model)
    for attack in (PGD(Linf(0.02), 0.005, 5, start="clean"), APGD(Linf(0.02), 5)):
        found = attack(view, x, y)
        assert (found != x).flatten(1).any(1).all()
        assert ((predictions(model(found)) != y).sum() > 0) and view.faithful


def test_forward_has_the_deployed_bits_and_the_sum_of_the_pullbacks():
    model = own(classes=4, dtype=torch.float64)
    x = images_for(model)
    weights = torch.linspace(-1, 1, 4, dtype=torch.float64)

    def slope(view):
        at = x.clone().requires_grad_()
        return torch.autograd.grad((view(at) * weights).sum(), at)[0]

    view = summed(model)
    with torch.no_grad():
        deployed = model(x)
        assert torch.equal(view(x), deployed)
    assert view.faithful and torch.equal(view(x.clone().requires_grad_()), deployed)
    torch.testing.assert_close(slope(view), sum(slope(IntermediateState(model, t, 2, 0.5)) for t in STATES))


def test_a_view_that_is_not_finite_has_no_say():
    model = Linear.random(3)
    x, y = images(4), torch.arange(4) % 3
    nan, inf = Shifted(model, torch.nan, 0.0, 0.0), Shifted(model, 0.0, torch.inf, 0.0)
    at = x.clone().requires_grad_()
    logits = Summed([nan, inf, Shifted(model, 0.0, 0.0, 0.0)])(at)
    with torch.no_grad():
        assert torch.equal(logits, model(x))
    attack, other = PGD(Linf(0.1), 0.03, 3, start="clean", keep="last"), Shifted(model, 1.0, 0.0, 0.0)
    assert torch.equal(attack(Summed([nan, other]), x, y), attack(other, x, y))


def test_a_faithful_first_view_spares_a_forward():
    model = own(classes=4)
    x, y = images_for(model, 4), torch.full((4,), 3)
    y = torch.where(predictions(model(x)) == y, 2, predictions(model(x)))
    costs = []
    for views in ([unrolled, phantom], [lambda m: IntermediateState(m, 5), unrolled]):
        model.tally.evaluations = 0
        PGD(Linf(0.001), 0.001, 0)(Summed([view(model) for view in views]), x, y)
        costs.append(model.tally.evaluations)
    assert costs == [4 * 2 * 5, 4 * (5 + 6 + 5 + 5)]


def test_options_tell_sums_apart():
    model, defended = own(), EntropyReduction(updates=1)(own())
    sums = [
        IntermediateState.several(model, (1, 2)),
        IntermediateState.several(model, (1, 3)),
        IntermediateState.several(model, (1, 2), unroll=3),
        Summed([unrolled(model), phantom(model)]),
        Summed([Frozen(defended), EndToEnd(defended)]),
    ]
    assert len({json.dumps(view.settings) for view in sums}) == len(sums)


@pytest.mark.parametrize(
    "views", [[], [own()], [unrolled(own()), unrolled(own())]], ids=["none", "no view", "two models"]
)
def test_anything_but_views_of_one_model_is_refused(views):
    with pytest.raises(ValueError, match=r"Summed: views=\[.*\]; allowed: one or more views of one deployed model"):
        Summed(views)


def test_states_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"state=6; allowed: 1..5"):
        IntermediateState.several(own(steps=5), states=range(1, 9))


def test_modules_that_are_no_views_say_what_is_deployed():
    """Early states are modules of their own: the sum of their losses is climbed, the model judged."""
    model = own(classes=4, dtype=torch.float64)
    x, y = 0.3 + 0.4 * images_for(model, 5), torch.arange(5) % 4
    view = Summed([EarlyState(model, t) for t in STATES], deployed=model)
    found = PGD(Linf(0.1), 0.02, 1, start="clean", keep="last")(view, x, y)
    at = x.clone().requires_grad_()
    loss = sum(F.cross_entropy(model(at, steps=t), y, reduction="sum") for t in STATES)
    torch.testing.assert_close(found, x + 0.02 * torch.autograd.grad(loss, at)[0].sign())
    assert view.deployed is model and torch.equal(view(x), model(x))
    with pytest.raises(ValueError, match="allowed: one or more views of one deployed model"):
        Summed([EarlyState(model, t) for t in STATES])
