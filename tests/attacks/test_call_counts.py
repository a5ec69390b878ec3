"""What an attack says beforehand that it asks at most: no more is ever counted, and as much where no image falls."""

from dataclasses import astuple, replace

import pytest
import torch
from small_models import images_for, own

import robustdeq as rd
from robustdeq.attacks import APGD, PGD, AutoAttack, EndToEnd, Frozen, IntermediateState, JointOptimisation, Summed
from robustdeq.attacks import ThroughGradient as Through
from robustdeq.defences import EarlyState
from robustdeq.evaluation.forecast import Prices

CLASSES, FAR, NEAR = 4, rd.Linf(0.3), rd.Linf(1e-6)
ATTACKS = {
    "pgd": PGD(FAR, 0.05, 4, restarts=2),
    "pgd far": PGD(FAR, 0.05, 4, loss="dlr", keep="highest"),
    "pgd last": PGD(FAR, 0.05, 4, loss="kl", start="gaussian", keep="last"),
    "pgd targeted": PGD(FAR, 0.05, 3, loss="ce-targeted", targets=2),
    "pgd nearest": PGD(FAR, 0.05, 3, loss="cw-targeted", order="nearest"),
    "apgd": APGD(FAR, 6, restarts=2),
    "apgd targeted": APGD(FAR, 6, loss="dlr-targeted", stack=3),
    "apgd-ce": AutoAttack(FAR, attacks=["apgd-ce"], iterations=9),
    "apgd-dlr": AutoAttack(FAR, attacks=["apgd-dlr"], iterations=9),
    "apgd-t": AutoAttack(FAR, attacks=["apgd-t"], iterations=9),
    "fab": AutoAttack(FAR, attacks=["fab"]),
    "fab-t": AutoAttack(FAR, attacks=["fab-t"]),
    "square": AutoAttack(FAR, attacks=["square"], queries=40),
    "standard": AutoAttack(FAR, iterations=9, queries=9),
    "plus": AutoAttack(FAR, "plus", iterations=9, queries=9),
    "rand": AutoAttack(FAR, "rand", iterations=5),
}
JOINT = {
    "joint": JointOptimisation(FAR, 6, finish=3),
    "joint targeted": JointOptimisation(FAR, 6, loss="cw-targeted", order="nearest", restarts=2, finish=0),
    "joint anderson": JointOptimisation(FAR, 6, solver="anderson"),
}
VIEWS = {
    "deployed": lambda model: model,
    "phantom": lambda model: Through(model, "phantom"),
    "implicit": lambda model: Through(model, "implicit"),
    "state": lambda model: IntermediateState(model, 2),
    "states": lambda model: IntermediateState.several(model, [1, 3]),
    "looks": lambda model: Summed([EarlyState(model, 1), EarlyState(model, 3)], deployed=model),
    "frozen": lambda model: Frozen(_defended(model)),
    "end-to-end": lambda model: EndToEnd(_defended(model)),
    "both": lambda model: Summed([Frozen(defended := _defended(model)), EndToEnd(defended)]),
}


def _defended(model):
    return rd.EntropyReduction(eps=1e-6, step_size=1e-6, updates=2)(model)


def _counted(attack, view, model, x, y):
    """What ``calls`` says and what is counted: evaluations of f, backward passes, updates of the input."""
    _, _, *told = astuple(Prices(x).of(view, attack.calls(view, CLASSES)) * len(x))
    before = vars(model.tally).copy()
    attack(view, x, y)
    return told, [vars(model.tally)[name] - before[name] for name in ("evaluations", "backward", "updates")]


def _check(attack, view_of):
    model = own(CLASSES, sharpness=8.0, steps=3)
    x = images_for(model, 4)
    y = model(x).argmax(1)
    for threat in (FAR, NEAR):
        told, counted = _counted(replace(attack, threat=threat), view_of(model), model, x, y)
        assert all(now <= most for now, most in zip(counted, told)), (threat, counted, told)
        if threat is NEAR:  # nothing falls; the reference looks at a first image and at a gradient of its own
            (*units, updates), (*most_units, most_updates) = counted, told
            assert sum(units) >= 0.9 * sum(most_units) and updates >= 0.9 * most_updates, (counted, told)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_asks_no_more_than_it_says(name):
    if not isinstance(ATTACKS[name], AutoAttack):
        views = list(VIEWS)
    else:  # each of its attacks through the defence, but FAB, which takes 100 iterations
        views = ["deployed", "end-to-end"] if name in ("apgd-ce", "apgd-t", "square") else ["deployed"]
    for view in views:
        _check(ATTACKS[name], VIEWS[view])


@pytest.mark.parametrize("name", JOINT)
def test_the_joint_attack_asks_no_more_than_it_says(name):
    _check(JOINT[name], VIEWS["deployed"])


@pytest.mark.parametrize("name", ["apgd-ce", "square"])
@pytest.mark.parametrize("view", ["state", "looks"])
def test_the_reference_asks_the_deployed_model_beside_a_view_of_other_logits(name, view):
    _check(ATTACKS[name], VIEWS[view])


@pytest.mark.parametrize("solver", ["anderson", "broyden", {"name": "reversible", "mixing": 0.8}])
def test_with_every_solver(solver):
    """A solve that runs backwards evaluates f again in its backward pass; so it is measured, and an iteration not."""
    model = own(CLASSES, steps=3, solver=solver)
    x = images_for(model, 3)
    for attack in (PGD(FAR, 0.05, 3, keep="highest"), JointOptimisation(NEAR, 5, finish=2)):
        told, counted = _counted(attack, model, model, x, model(x).argmax(1))
        assert counted == told


def test_pgd_in_closed_form():
    """S steps: S + 1 solves of N steps, and S ways back."""
    model = own(CLASSES, steps=3)
    x = torch.zeros(1, 1, 4, 4)
    most = Prices(x).of(model, PGD(FAR, steps=7, keep="highest").calls(model, CLASSES))
    assert (most.evaluations, most.backward, most.updates, most.asked) == (3 * 8, 3 * 7, 0, 8)
