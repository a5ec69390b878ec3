"""How a model is judged while it is trained."""

from dataclasses import replace

import torch
from small_models import own

import robustdeq as rd
from robustdeq.attacks import PGD, JointOptimisation, Linf, ThroughGradient, predictions
from robustdeq.distributed import SINGLE
from robustdeq.seeds import mix
from robustdeq.training.watch import judge, memory_gib

EPS, POINTS = 0.02, 40


def images():
    return rd.data.digits().validation.take(slice(POINTS))


def test_robust_is_what_stands_under_both_gradients_and_then_under_the_joint_attack():
    model, held, threat = own(10, side=8, steps=5).eval(), images(), Linf(EPS)
    with torch.no_grad():
        labels = model(held.images()).argmax(1)
    held = replace(held, labels=labels.where(torch.arange(POINTS) > 3, (labels + 1) % 10))
    found = judge(model, held, threat, 3, 7, SINGLE)
    x, y, seed = held.images(), held.labels, mix(7) % 2**31
    right = predictions(model(x)) == y
    left = right.clone()
    for name in ("unrolled", "phantom"):
        x_adv = PGD(threat, EPS / 4, 3, seed=seed)(ThroughGradient(model, name), x, y, indices=torch.arange(POINTS))
        stands = (predictions(model(x_adv)) == y) & right
        assert found[name] == stands.sum() / POINTS
        left &= stands
    rows = torch.nonzero(left).flatten()
    x_adv = JointOptimisation(threat, seed=seed)(model, x[left], y[left], indices=rows)
    assert found["clean"] == right.sum() / POINTS == (POINTS - 4) / POINTS
    assert found["robust"] == (predictions(model(x_adv)) == y[left]).sum() / POINTS < left.sum() / POINTS


def test_a_network_without_states_is_judged_by_its_own_gradient():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    found = judge(model, images(), Linf(EPS), 2, 0, SINGLE)
    assert set(found) == {"clean", "exact", "robust"} and found["robust"] == found["exact"]


def test_the_memory_told_is_that_of_the_device_which_trains(monkeypatch):
    """On a machine with a GPU a training on the CPU was said to take 0.0 GiB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert memory_gib(torch.device("cpu")) > 0.05
