"""Attacks of foolbox and of ART: like any other attack here. Skipped where the library is not installed."""

import copy
import importlib.util
import logging
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import Linear, Shifted, Watched, images, images_for, left_untouched, lived_in, own
from torch import nn

import robustdeq as rd
from robustdeq import L2, EntropyReduction, Linf
from robustdeq.attacks import ART, EndToEnd, Foolbox, IntermediateState, predictions
from robustdeq.evaluation import Entry, Evaluation


def installed(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


with_foolbox, with_art = installed("foolbox"), installed("art")
LINF, L_2 = Linf(0.2), L2(0.4)
HSJ = {"steps": 2, "initial_gradient_eval_steps": 5}
TABLE = {
    "FMN": (Foolbox, LINF, "FMN", {"steps": 4}),
    "FMN L2": (Foolbox, L_2, "L2FMNAttack", {"steps": 4}),
    "DDN": (Foolbox, L_2, "DDN", {"steps": 4}),
    "HopSkipJump": (Foolbox, LINF, "HopSkipJump", HSJ),
    "HopSkipJump L2": (Foolbox, L_2, "hopskipjump", HSJ),
    "PGD": (Foolbox, LINF, "PGD", {"steps": 3}),
    "PGD L2": (Foolbox, L_2, "PGD", {"steps": 3}),
    "SimBA": (ART, L_2, "SimBA", {"attack": "px", "max_iter": 6}),
    "SimBA dct": (ART, LINF, "SimBA", {"max_iter": 6}),
    "ART PGD": (ART, L_2, "ProjectedGradientDescentNumpy", {"max_iter": 2, "num_random_init": 1, "eps_step": 0.1}),
    "patch": (ART, Linf(1.0), "AdversarialPatchNumpy", {"max_iter": 2, "scale_max": 0.6}),
}
MARKS = {Foolbox: with_foolbox, ART: with_art}
EVERY = [pytest.param(name, id=name, marks=MARKS[kind]) for name, (kind, *_) in TABLE.items()]


def attack_of(name, **options):
    kind, threat, attack, own_options = TABLE[name]
    return kind(threat, attack, own_options, **options)


def bare(classes):
    model = own(classes, side=5, steps=3)
    model.readout = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5), model.readout)
    return lived_in(model)


VIEWS = {
    "model": bare,
    "IntermediateState": lambda classes: IntermediateState(bare(classes), state=2, unroll=1),
    "EndToEnd": lambda classes: EndToEnd(EntropyReduction(eps=0.05, step_size=0.02, updates=2)(bare(classes))),
}


def labels(model, x):
    with torch.no_grad(), rd.models.modes.evaluating(model):
        return predictions(getattr(model, "deployed", model)(x))


def process():
    states = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    return *states, logging.root.handlers[:], torch.is_grad_enabled(), torch.get_default_dtype()


def attacked(view, attack, count):
    x = images(count, shape=(1, 5, 5))
    y, before = labels(view, x), process()
    with left_untouched(view):
        found = attack(view, x, y, indices=torch.arange(count) + 7)
    assert process() == before
    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert attack.threat.contains(x, found).all()
    return x, y, found


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", EVERY)
def test_stays_inside_has_a_seed_and_leaves_model_and_process_as_they_were(name, view):
    seen = VIEWS[view](5)
    torch.manual_seed(1)
    x, _, found = attacked(seen, attack_of(name), 3)
    torch.manual_seed(2)
    assert torch.equal(attacked(seen, attack_of(name), 3)[2], found)
    assert (found != x).any()


@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize("name", EVERY)
def test_one_image_and_few_or_many_classes(name, classes):
    attacked(bare(classes), attack_of(name), 1)


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_depends_on_the_seed_and_its_number_alone_one_at_a_time(name):
    model, attack = own(5, side=5), attack_of(name, batch_size=1)
    x, numbers = images_for(model, 4), torch.tensor([3, 9, 4, 8])
    y = labels(model, x)
    together, order = attack(model, x, y, indices=numbers), torch.tensor([2, 0])
    apart = attack(model, x[order], y[order], indices=numbers[order])
    torch.testing.assert_close(apart, together[order], rtol=0, atol=1e-5)
    if "HopSkipJump" in name:
        assert not torch.allclose(attack_of(name, batch_size=1, seed=1)(model, x, y, indices=numbers), together)


def linear(count=20):
    """A binary classifier, images whose nearest point of the boundary lies in the box, labels, and their distances."""
    w = torch.randn(16, generator=torch.Generator().manual_seed(1))
    b = 0.6 - 0.5 * float(w.sum())
    x = 0.35 + 0.3 * images(count)
    model = Linear.binary(w, b)
    distance = (x.flatten(1) @ w + b).abs() / w.norm()
    nearest = x - ((x.flatten(1) @ w + b) / w.square().sum())[:, None].mul(w).view_as(x)
    assert nearest.min() >= 0 and nearest.max() <= 1
    return model, x, labels(model, x), distance


@with_foolbox
@pytest.mark.parametrize(
    ("name", "options", "within"),
    [("FMN", {}, 1e-4), ("DDN", {}, 5e-3), ("DeepFool", {}, 0.03), ("HopSkipJump", {"steps": 20}, 0.4)],
)
def test_the_smallest_perturbation_is_that_of_the_closed_form(name, options, within):
    """Of a linear model it has the length |w x + b| / |w|, and everything outside of the ball stands."""
    model, x, y, distance = linear()
    found = Foolbox(L2(3.0), name, options)(model, x, y)
    ratio = L2(3.0).distance(x, found) / distance
    assert (labels(model, found) != y).all()
    assert ratio.min() > 1 - 1e-4 and ratio.max() < 1 + within
    eps = float(distance.median())
    fallen = labels(model, Foolbox(L2(eps), name, options)(model, x, y)) != y
    assert not fallen[distance > eps * (1 + 1e-4)].any()
    assert fallen[distance < eps / (1 + within)].all()


@with_art
@pytest.mark.parametrize("options", [{"attack": "px", "epsilon": 0.05}, {"epsilon": 0.05}])
def test_simba_breaks_what_is_near_and_nothing_that_is_far(options):
    model, x, y, distance = linear()
    threat = L2(0.2)
    fallen = labels(model, ART(threat, "SimBA", options)(model, x, y)) != y
    assert fallen[distance < 0.1].all() and not fallen[distance > 0.2].any()


@with_art
def test_a_patch_changes_a_disc_and_breaks_what_its_pixels_decide():
    model, x = Linear.binary(torch.ones(64), b=-29.5), 0.45 + 0.05 * images(6, shape=(1, 8, 8))
    y, threat = labels(model, x), Linf(1.0)
    found = ART(threat, "AdversarialPatchNumpy", {"max_iter": 30, "scale_min": 0.4, "scale_max": 0.5})(model, x, y)
    changed = ((found - x).abs() > 1e-4).flatten(1).sum(1)
    assert (changed > 0).all() and (changed <= 25).all()  # a disc of half the side, moved by a part of a pixel
    assert (labels(model, found) != y).all()
    if importlib.util.find_spec("torchvision") is None:
        with pytest.raises(ValueError, match=r"AdversarialPatch: .*No module named .torchvision"):
            ART(threat, "AdversarialPatch", {"patch_shape": (1, 4, 4)})(model, x, y)


@with_foolbox
def test_without_a_start_a_sample_stands_and_the_others_are_attacked(caplog):
    """Uniform noise is of class 0 to this model, so HopSkipJump finds no start for images of class 0."""
    model = Linear.binary(torch.ones(16), b=-4.0)
    x = torch.cat([0.9 * torch.ones(2, 1, 4, 4), 0.2 * torch.ones(2, 1, 4, 4)])
    y = torch.tensor([0, 0, 1, 1])
    with caplog.at_level(logging.WARNING, "auto-attack"), pytest.warns(UserWarning, match="failed to draw"):
        found = Foolbox(L2(4.0), "HopSkipJump", HSJ)(model, x, y)
    assert "HopSkipJumpAttack found no start for 2 of 4 samples; they count as standing." in caplog.text
    assert torch.equal(found[:2], x[:2]) and (labels(model, found[2:]) == 0).all()


@with_foolbox
def test_wrong_images_are_left_alone_and_the_deployed_model_decides():
    model, x, y, _ = linear()
    y[::2] = 1 - y[::2]
    found = Foolbox(L2(3.0), "HopSkipJump", HSJ)(model, x, y)
    assert torch.equal(found[::2], x[::2]) and (found[1::2] != x[1::2]).flatten(1).any(1).all()
    y = labels(model, x)
    found = Foolbox(L2(3.0), "FMN")(Shifted(model, 0.0, 20.0), x, y)  # to the view every image is wrong
    assert (labels(model, found) != y).all()
    assert torch.equal(Foolbox(L2(3.0), "FMN")(model, x, 1 - y), x)  # and here to the model, so none is left


@pytest.mark.parametrize("name", [p for p in EVERY if p.id in ("FMN", "HopSkipJump", "SimBA", "ART PGD")])
@pytest.mark.parametrize("fail_at", [0, 1, 3])
def test_all_is_as_it_was_when_the_model_breaks_down(name, fail_at):
    model = Watched(own(side=5), fail_at)
    lived_in(model)
    before, x = process(), images(3, shape=(1, 5, 5))
    with left_untouched(model), pytest.raises(RuntimeError, match="broken down"):
        attack_of(name)(model, x, labels(model.inner, x))
    assert process() == before


@pytest.mark.parametrize("name", [p for p in EVERY if p.id in ("DDN", "SimBA")])
def test_double_precision(name):
    model = own(side=5, dtype=torch.float64)
    x = images_for(model, 3)
    found = attack_of(name)(model, x, labels(model, x))
    assert found.dtype == torch.float64 and attack_of(name).threat.contains(x, found).all() and (found != x).any()


@with_foolbox
def test_an_object_of_foolbox_is_as_good_as_its_name():
    import foolbox

    model, x, y, _ = linear()
    made = Foolbox(L2(0.2), foolbox.attacks.L2FMNAttack(steps=20))
    assert made.attack.startswith("L2FMNAttack(steps=20, max_step") and copy.deepcopy(made).attack == made.attack
    assert torch.equal(made(model, x, y), Foolbox(L2(0.2), "FMN", {"steps": 20})(model, x, y))
    repeated = Foolbox(LINF, foolbox.attacks.LinfPGD(steps=3).repeat(2))
    assert LINF.contains(x, repeated(model, x, y)).all()


@with_art
def test_an_object_of_art_attacks_the_model_that_is_given_not_its_own():
    from art.attacks.evasion import ProjectedGradientDescent, SimBA
    from art.estimators.classification import PyTorchClassifier

    model, x, y, _ = linear()
    other = PyTorchClassifier(Linear.random(2), nn.CrossEntropyLoss(), (1, 4, 4), 2, clip_values=(0, 1))
    options = {"attack": "px", "max_iter": 50, "verbose": False}
    found = ART(L_2, SimBA(other, **options))(model, x, y)
    assert torch.equal(found, ART(L_2, "SimBA", options)(model, x, y)) and (labels(model, found) != y).any()
    options = {"norm": 2, "eps": 0.4, "eps_step": 0.1, "max_iter": 5, "verbose": False}
    found = ART(L_2, ProjectedGradientDescent(other, **options))(model, x, y)
    assert (labels(model, found) != y).all()


@pytest.mark.parametrize("name, options", [
    ("ZooAttack", {"max_iter": 2, "nb_parallel": 4, "use_resize": False, "use_importance": False}),
    ("NewtonFool", {"max_iter": 3}),
    ("VirtualAdversarialMethod", {"max_iter": 3}),
])  # fmt: skip
def test_an_attack_that_looks_outside_the_box_or_at_probabilities_can_attack_a_deq(name, options):
    """What is found is projected; the DEQ's own door refuses images outside the box from anybody else."""
    pytest.importorskip("art")
    model = own(5, side=5)
    x = images_for(model, 3)
    found = ART(L_2, name, options)(model, x, labels(model, x))
    assert L_2.contains(x, found).all()
    with pytest.raises(ValueError, match=r"images lie in"):
        model(x - 1)


def test_an_option_that_the_library_stumbles_over_later_is_one_line():
    pytest.importorskip("foolbox")
    model = own(5, side=5)
    x = images_for(model, 2)
    with pytest.raises(ValueError, match=r"Foolbox: DDN with options=.*'x'.*; allowed: what foolbox .* takes\."):
        Foolbox(L_2, "DDN", {"steps": "x"})(model, x, labels(model, x))


@pytest.mark.parametrize("name", [p for p in EVERY if p.id in ("DDN", "SimBA")])
def test_an_entry_is_verified_resumed_and_recorded(name, tmp_path, monkeypatch):
    model = own(5, side=5)
    x = images_for(model, 8)
    y, attack, entry = labels(model, x), attack_of(name), f"{name} by another"
    suite = [Entry(entry, "black-box", attack), Entry("again", "black-box", attack)]
    result = rd.evaluate(model, x, y, suite=suite, batch_size=4, out=tmp_path, checks=0)
    record = Evaluation.read(tmp_path).record.attacks[entry]
    told = {"attack": name, "options": TABLE[name][3], "seed": 0, "batch_size": attack.batch_size}
    assert record.options.items() >= told.items()
    assert record.attack == type(attack).__name__ and record.options["version"][0].isdigit()
    assert record.options["threat"] == {"name": "L2", "eps": 0.4}
    rows = torch.arange(8).split(4)
    standing = labels(model, torch.cat([attack(model, x[row], y[row], indices=row) for row in rows])) == y
    assert record.outcomes.tolist() == standing.int().tolist()
    assert sum(batch.rejected for batch in record.batches.values()) == 0
    monkeypatch.setattr(type(attack), "__call__", lambda *_, **__: pytest.fail("attacked again"))
    assert rd.evaluate(model, x, y, suite=suite, batch_size=4, out=tmp_path, checks=0).shares() == result.shares()


WRONG = [
    (Foolbox, (L_2, "FNM"), r"unknown attack of foolbox 'FNM'.*; allowed: .*DDNAttack"),
    (Foolbox, (L_2, "FMN", {"step": 1}), "L2FMNAttack: unknown option 'step' .did you mean 'steps'"),
    (Foolbox, (LINF, "DDN"), r"Foolbox: DDNAttack goes by the L2 distance, the threat is Linf\(eps=0.2\); allowed"),
    (Foolbox, (L_2, "HopSkipJump", {"constraint": "l3"}), "'l3'.*; allowed: what foolbox takes"),
    (Foolbox, (L_2, nn.ReLU()), "attack=.*; allowed: the name of an attack of foolbox and its options"),
    (Foolbox, (0.1, "FMN"), r"Foolbox: threat=0.1; allowed: Linf\(eps\) or L2\(eps\)"),
    (ART, (L_2, "SimBa2"), "'SimBa2' .did you mean 'SimBA'"),
    (ART, (L_2, "SimBA", {"epsilom": 1}), "SimBA: unknown option 'epsilom' .did you mean 'eps"),
    (ART, (L_2, "GeoDA", {"norm": "inf"}), "GeoDA goes by the Linf distance, the threat is L2"),
    (ART, (Linf(0.5), "AdversarialPatchNumpy"), r"a patch within .*; allowed: Linf\(1\), in an evaluation of its own"),
]


@pytest.mark.parametrize(
    ("kind", "options", "why"), [pytest.param(*wrong, id=wrong[2][:20], marks=MARKS[wrong[0]]) for wrong in WRONG]
)
def test_bad_options_are_named(kind, options, why):
    with pytest.raises(ValueError, match=why):
        kind(*options)


@with_foolbox
@with_art
def test_the_lines_of_the_readme_run():
    lines = re.findall(r"`((?:Entry|rd.attacks.ART)\(.*?\))`", (Path(__file__).parents[2] / "README.md").read_text())
    made = [eval(line, {"rd": rd, "Entry": Entry, "threat": L_2}) for line in lines]
    assert [type(one) for one in made] == [Entry, ART] and isinstance(made[0].attack, Foolbox)


@with_art
def test_what_art_starts_by_the_clock_is_warned_of():
    with pytest.warns(UserWarning, match="ART: HopSkipJump takes its start from the clock: another run"):
        ART(L_2, "HopSkipJump")


@pytest.mark.parametrize(("kind", "module", "extra"), [(Foolbox, "foolbox", "foolbox"), (ART, "art", "art")])
def test_a_library_that_is_not_installed_is_one_sentence(kind, module, extra, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: .* cannot be imported .*robustdeq\[{extra}\]'\.\Z"):
        kind(L_2, "SimBA")
