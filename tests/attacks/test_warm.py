"""PGD whose solves begin where the one before ended."""

import pytest
import torch
from small_models import images_for, own

from robustdeq import EntropyReduction, Linf
from robustdeq.attacks import PGD, predictions
from robustdeq.attacks.views import Warm
from robustdeq.dynamics import drive

LINF = Linf(0.2)


def fitted(**options):
    """A model and images that it classifies as labelled."""
    model = own(4, dtype=torch.float64, **options)
    x = images_for(model, 12)
    return model, x, predictions(model(x)).detach()


def test_its_steps_follow_the_states():
    """In closed form: the first solve is the deployed one, the others take two steps from the state before; of the
    three images the one of highest loss is kept."""
    model, x, y = fitted(steps=6)
    at, z, steps, images, losses = x, model.zeros(x), 6, [], []
    for _ in range(3):
        at = at.clone().requires_grad_()
        z = drive(model.solver, model.map(at), z, steps).z
        loss = torch.nn.functional.cross_entropy(model.readout(z), y, reduction="none")
        images.append(at.detach())
        losses.append(loss.detach())
        at = LINF.project(x, at.detach() + 0.01 * torch.autograd.grad(loss.sum(), at)[0].sign())
        z, steps = z.detach(), 2
    highest = torch.stack(losses).argmax(0)
    found = PGD(LINF, 0.01, 2, start="clean", keep="highest", warm=2)(model, x, y)
    torch.testing.assert_close(found, torch.stack(images)[highest, torch.arange(len(x))])


def test_it_says_who_is_broken_by_the_deployed_forward_and_drops_them():
    model, x, y = fitted(steps=6, sharpness=8.0)
    cold, warm = (PGD(LINF, 0.04, 10, warm=warm)(model, x, y) for warm in (None, 2))
    broken = [predictions(model(found)) != y for found in (cold, warm)]
    assert 0 < int(broken[0].sum()) < len(x)  # some leave the batch on the way
    assert torch.equal(*broken)
    alone = torch.cat([PGD(LINF, 0.04, 10, warm=2, start="clean")(model, a, b) for a, b in zip(x.split(1), y.split(1))])
    torch.testing.assert_close(alone, PGD(LINF, 0.04, 10, warm=2, start="clean")(model, x, y))


def test_it_costs_its_short_solves():
    model, x, y = fitted(steps=6)
    before = model.tally.units
    PGD(Linf(1e-6), 1e-7, 10, keep="highest", warm=2)(model, x, y)
    assert model.tally.units - before == len(x) * (2 * 6 + 9 * 2 * 2 + 2)


def test_it_is_of_a_bare_model():
    model, x, y = fitted()
    with pytest.raises(ValueError, match="allowed: DEQClassifier"):
        PGD(LINF, 0.04, 2, warm=2)(EntropyReduction(updates=1)(model), x, y)
    with pytest.raises(ValueError, match="allowed: 'worst' or 'highest', or warm=None"):
        PGD(LINF, 0.04, 2, keep="last", warm=2)


def test_its_view_says_how_many_steps_it_takes():
    assert Warm(fitted()[0], 3).settings == {"steps": 3}
