"""What an attack says beforehand that it asks at most: no more is ever counted, and as much where no image falls."""

from dataclasses import astuple, replace

import pytest
import torch
from attack_table import ATTACKS, SOLVERS, VIEWS, of_a_deq
from small_models import images_for, own

import robustdeq as rd
from robustdeq.attacks import PGD, AutoAttack, JointOptimisation, autoattack
from robustdeq.attacks.views import summands
from robustdeq.evaluation.forecast import Prices

CLASSES, FAR, NEAR = 4, 0.3, 1e-6


def _counted(attack, view, model, x, y):
    """What ``calls`` says and what is counted: evaluations of f, backward passes, updates of the input."""
    _, _, *told = astuple(Prices(x).of(view, attack.calls(view, CLASSES)) * len(x))
    before = vars(model.tally).copy()
    attack(view, x, y)
    return told, [vars(model.tally)[name] - before[name] for name in ("evaluations", "backward", "updates")]


def _cases():
    """Every attack that tells its calls, and the views it is counted through."""
    for name, attack in ATTACKS.items():
        views = [view for view in VIEWS if view != "reversible"]
        if of_a_deq(name):
            views = ["model"]
        elif isinstance(attack, AutoAttack):  # slow; the deployed model beside a view of other logits, for one
            views = ["model", "EndToEnd", "IntermediateState", "early states"] if name == "autoattack" else ["model"]
        yield from ((name, view) for view in views if hasattr(attack, "calls"))


@pytest.mark.parametrize(("name", "view"), list(_cases()))
def test_an_attack_asks_no_more_than_it_says(name, view, monkeypatch):
    attack = ATTACKS[name]
    if isinstance(attack, AutoAttack):  # enough to outweigh its checks of the defence, which look at one image
        attack = replace(attack, iterations=9, queries=40)
        monkeypatch.setattr(autoattack, "FAB", 20)
    model = own(CLASSES, side=5, sharpness=8.0, steps=3, solver=SOLVERS.get(view, "picard"))
    x, seen = images_for(model, 40), VIEWS[view](model)
    labels = torch.stack([module(x).argmax(1) for module in (getattr(seen, "deployed", seen), *summands(seen))])
    agreed = torch.nonzero((labels == labels[0]).all(0)).flatten()[:4]  # none has fallen before an attack begins
    x, y = x[agreed], labels[0, agreed]
    assert len(x) == 4
    for eps in (FAR, NEAR):
        told, counted = _counted(replace(attack, threat=replace(attack.threat, eps=eps)), seen, model, x, y)
        assert all(now <= most for now, most in zip(counted, told)), (eps, counted, told)
        if eps == NEAR:  # nothing falls; the reference looks at a first image and at a gradient of its own
            (*units, updates), (*most_units, most_updates) = counted, told
            assert sum(units) >= 0.9 * sum(most_units) and updates >= 0.9 * most_updates, (counted, told)


@pytest.mark.parametrize("solver", ["anderson", "broyden", {"name": "reversible", "mixing": 0.8}])
def test_with_every_solver(solver):
    """A solve that runs backwards evaluates f again in its backward pass; so it is measured, and an iteration not."""
    model = own(CLASSES, steps=3, solver=solver)
    x = images_for(model, 3)
    for attack in (PGD(rd.Linf(FAR), 0.05, 3, keep="highest"), JointOptimisation(rd.Linf(NEAR), 5, finish=2)):
        told, counted = _counted(attack, model, model, x, model(x).argmax(1))
        assert counted == told


def test_pgd_in_closed_form():
    """S steps: S + 1 solves of N steps, and S ways back."""
    model = own(CLASSES, steps=3)
    x = torch.zeros(1, 1, 4, 4)
    most = Prices(x).of(model, PGD(rd.Linf(FAR), steps=7, keep="highest").calls(model, CLASSES))
    assert (most.evaluations, most.backward, most.updates, most.asked) == (3 * 8, 3 * 7, 0, 8)
