"""At which wrong classes a targeted loss aims, and in what order."""

import pytest
import torch
from torch import nn

from robustdeq.attacks import APGD, L2, PGD, JointOptimisation, Linf
from robustdeq.attacks.starts import goals

CLASSES = 5


def linear(classes=CLASSES, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes, dtype=torch.float64)).eval()


def batch(model, count=6):
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, model(x).argmax(1)


def order_of(attack, model, x, y):
    return torch.stack([goal.target for goal in goals(attack, model, x, y)], dim=1)


@pytest.mark.parametrize("make", [PGD, APGD, JointOptimisation])
def test_the_likeliest_come_first_unless_another_order_is_asked_for(make):
    model = linear()
    x, y = batch(model)
    found = order_of(make(Linf(0.1), loss="cw-targeted"), model, x, y)
    assert torch.equal(found, model(x).argsort(dim=1, descending=True)[:, 1:])


@pytest.mark.parametrize(("threat", "norm"), [(Linf(0.1), 1), (L2(0.1), 2)], ids=["Linf", "L2"])
@pytest.mark.parametrize("loss", ["cw-targeted", "ce-targeted", "dlr-targeted"])
def test_of_a_linear_model_the_nearest_class_has_the_nearest_boundary(threat, norm, loss):
    """The distance to the boundary between y and j is (z_y - z_j) / ||w_y - w_j||, in the norm dual to the threat's."""
    model = linear()
    x, y = batch(model)
    logits, weight = model(x), model[1].weight
    distance = (logits.gather(1, y[:, None]) - logits) / (weight[y, None] - weight[None]).norm(norm, dim=2)
    wanted = distance.scatter(1, y[:, None], torch.inf).argsort(dim=1)[:, : CLASSES - 1]
    assert torch.equal(order_of(PGD(threat, loss=loss, order="nearest"), model, x, y), wanted)
    assert torch.equal(order_of(PGD(threat, loss=loss, order="nearest", targets=2), model, x, y), wanted[:, :2])
    assert not torch.equal(wanted, logits.argsort(dim=1, descending=True)[:, 1:])  # here the two differ


def test_of_many_classes_the_likeliest_hundred_are_looked_at():
    model = linear(classes=150)
    x, y = batch(model)
    found = order_of(PGD(Linf(0.1), loss="cw-targeted", order="nearest", targets=149), model, x, y)
    likeliest = model(x).argsort(dim=1, descending=True)[:, 1:101]
    assert torch.equal(found.sort(dim=1).values, likeliest.sort(dim=1).values)


@pytest.mark.parametrize("make", [PGD, APGD, JointOptimisation])
def test_an_unknown_order_names_the_allowed_ones(make):
    with pytest.raises(ValueError, match=r"unknown order 'nearst'.*did you mean 'nearest'.*allowed: likeliest"):
        make(Linf(0.1), order="nearst")


@pytest.mark.parametrize("make", [PGD, APGD, JointOptimisation])
def test_an_order_without_a_target_is_refused(make):
    """The attack was a plain one, and the record said that it was MALT's."""
    with pytest.raises(ValueError, match=r"order='nearest' with loss='pm', which aims at no class"):
        make(Linf(0.1), loss="pm", order="nearest")


def test_what_a_linear_function_rises_over_a_distance_of_one():
    slope = torch.tensor([[3.0, -4.0]]).view(1, 1, 1, 2)
    for threat, wanted in ((Linf(0.1), 7.0), (L2(0.1), 5.0)):
        assert threat.dual(slope).item() == wanted
