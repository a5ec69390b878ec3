"""Every state as a model of its own; t* is chosen on held-out images."""

import pytest
import torch
from small_models import Linear, images_for, own

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.data import ImageSet
from robustdeq.defences import EarlyState, Ensemble
from robustdeq.distributed import Distributed
from robustdeq.evaluation import readouts

THREAT = rd.Linf(0.1)


def _points(model, count, seed):
    x = images_for(model, count, seed=seed)
    pixels = (x * 255).round().to(torch.uint8)
    with torch.no_grad():
        labels = model(pixels.float() / 255).argmax(1)
    labels[::5] = (labels[::5] + 1) % 3
    return ImageSet(pixels, labels, ("a", "b", "c"), "noise")


def test_a_readout_stands_its_own_attack_and_that_on_the_last_state(tmp_path):
    model = own(steps=3)
    test, held_out = _points(model, 12, 0), _points(model, 10, 1)
    found = readouts(model, test, held_out, threat=THREAT, steps=3, batch_size=5, seed=2, out=tmp_path)
    x, y, indices = test.images(), test.labels, torch.arange(len(test))
    attack = PGD(THREAT, 0.025, 3, seed=2)
    far = PGD(THREAT, 0.025, 3, seed=2, keep="highest")
    last = EarlyState(model, 3)
    right = last(x).argmax(1) == y
    shown = torch.where(right[:, None, None, None], far(last, x, y, indices=indices), x)
    modules = [EarlyState(model, 1), EarlyState(model, 2), last, Ensemble(model)]
    for module, shares in zip(modules, [*found.states, found.ensemble]):
        clean = module(x).argmax(1) == y
        own_attack = clean & (module(attack(module, x, y, indices=indices)).argmax(1) == y)
        transfer = clean & (module(shown).argmax(1) == y)
        assert shares["clean"].count == clean.sum()
        assert shares["own"].count == own_attack.sum()
        assert shares["transfer"].count == transfer.sum()
        assert shares["All"].count == (own_attack & transfer).sum()
    assert found.table().count("| z^[") == 3 and f"t* = {found.early} " in found.table()
    before = model.tally.evaluations
    again = readouts(model, test, held_out, threat=THREAT, steps=3, batch_size=5, seed=2, out=tmp_path)
    assert again == found and model.tally.evaluations - before <= 3 * 8 * (1 + 5)  # looks, and no attack again


def test_the_early_state_does_not_look_at_the_test_set():
    model = own(steps=3)
    held_out, options = _points(model, 10, 1), {"threat": THREAT, "steps": 2}
    one, other = (readouts(model, _points(model, count, seed), held_out, **options) for count, seed in ((4, 0), (6, 5)))
    robust = [shares["All"].count for shares in one.held_out]
    assert one.early == other.early == robust.index(max(robust)) + 1
    assert one.held_out == other.held_out and one.states != other.states
    alone = readouts(model, held_out, **options)
    assert alone.early is None and alone.to_dict()["early"] is None


def test_readouts_of_something_else_are_refused():
    model = own(steps=3)
    test = _points(model, 2, 0)
    with pytest.raises(ValueError, match="the model is a Linear; allowed: a DEQClassifier"):
        readouts(Linear.random(3), test)
    with pytest.raises(ValueError, match="2 processes without out"):
        readouts(model, test, distributed=Distributed(0, 2))
