"""The adapter to AutoAttack: the same images as the reference, and nothing else of the process changed."""

import logging
import random
import sys

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack as Reference
from small_models import Linear, Shifted, Watched, images, images_for, left_untouched, lived_in, nano, own

from robustdeq import L2, EntropyReduction, Linf
from robustdeq.attacks import AutoAttack, EndToEnd, Frozen, IntermediateState, Static, predictions
from robustdeq.attacks.autoattack import VERSIONS

EVERY = ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
MODEL = own(classes=5, side=8)


def cheaper(reference):
    """Budgets that a test can pay for."""
    for part in (reference.apgd, reference.apgd_targeted, reference.fab):
        part.n_iter = 8
    reference.square.n_queries = 30
    return reference


class Cheap(AutoAttack):
    def reference(self, model, x):
        return cheaper(super().reference(model, x))


def points(model=MODEL, count=12):
    x = images_for(model, count)
    with torch.no_grad():
        y = predictions(model(x))
    y[0] = (y[0] + 1) % 3  # one that is wrong already
    return x, y


def direct(model, x, y, threat, attacks, seed, batch_size):
    """pyautoattack as its documentation says, with the number of restarts of its standard version."""
    made = Reference(model, norm=threat.name, eps=threat.eps, seed=seed, version="custom", attacks=attacks)
    made.verbose = False
    made.apgd.n_restarts = made.fab.n_restarts = 1
    made.apgd_targeted.n_target_classes = made.fab.n_target_classes = 4
    return cheaper(made).run_standard_evaluation(x, y, batch_size=batch_size)[0]


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.1)])
@pytest.mark.parametrize("attacks", [["apgd-ce", "square"], EVERY])
@pytest.mark.parametrize(("seed", "batch_size"), [(0, 250), (3, 5)])
def test_is_the_reference_sample_for_sample(attacks, threat, seed, batch_size):
    x, y = points()
    with torch.random.fork_rng(devices=[]):
        wanted = direct(MODEL, x, y, threat, attacks, seed, batch_size)
    found = Cheap(threat, attacks=attacks, seed=seed, batch_size=batch_size)(MODEL, x, y)
    assert torch.equal(found, wanted)
    with torch.no_grad():
        broken = (predictions(MODEL(found)) != y)[1:]
    assert 0 < broken.sum() < len(broken)
    assert ((found == x).flatten(1).all(dim=1)[1:] == ~broken).all()
    assert threat.contains(x, found).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_are_the_reference_s(version):
    made = AutoAttack(Linf(0.03), version=version).reference(own(classes=12), images(1))
    theirs = Reference(MODEL, eps=0.03, version=version)
    assert tuple(made.attacks_to_run) == VERSIONS[version] == tuple(theirs.attacks_to_run)
    for part, options in {
        "apgd": ["n_iter", "n_restarts", "eot_iter"],
        "apgd_targeted": ["n_iter", "n_restarts", "n_target_classes"],
        "fab": ["n_iter", "n_restarts", "n_target_classes"],
        "square": ["n_queries", "p_init"],
    }.items():
        for option in options:
            assert getattr(getattr(made, part), option) == getattr(getattr(theirs, part), option), (part, option)


def test_a_list_has_the_budgets_of_standard():
    listed = AutoAttack(Linf(0.03), attacks=VERSIONS["standard"]).reference(own(classes=12), images(1))
    standard = AutoAttack(Linf(0.03)).reference(own(classes=12), images(1))
    assert listed.attacks_to_run == standard.attacks_to_run
    for part in ("apgd", "apgd_targeted", "fab"):
        assert getattr(listed, part).n_restarts == getattr(standard, part).n_restarts == 1


def test_same_seed_same_images_and_another_seed_others():
    x, y = points()
    attack = {seed: Cheap(Linf(0.03), attacks=["square"], seed=seed) for seed in (0, 1)}
    torch.manual_seed(5)
    first = attack[0](MODEL, x, y)
    torch.manual_seed(6)
    assert torch.equal(attack[0](MODEL, x, y), first)
    assert not torch.equal(attack[1](MODEL, x, y), first)


def test_the_process_is_as_it_was():
    """Generators of torch, Python and numpy, the tracer, the log's level, whether gradients are recorded."""
    x, y = points()
    torch.manual_seed(5)
    calls = []

    def tracer(frame, event, arg):
        calls.append(event)

    logger = logging.getLogger("auto-attack")
    logger.setLevel(logging.INFO)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    previous = sys.gettrace()
    sys.settrace(tracer)
    try:
        Cheap(Linf(0.03), attacks=["apgd-ce", "square"])(MODEL, x, y)
        kept = sys.gettrace()
    finally:
        sys.settrace(previous)
    assert kept is tracer
    assert logger.level == logging.INFO
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("fail_at", [0, 2, 7, 12])
def test_the_process_is_as_it_was_when_the_model_breaks_down(fail_at):
    """Within the reference's own checks too, where it has a tracer of its own in place."""
    model = Watched(own(), fail_at)
    lived_in(model)
    before, tracer, level = torch.get_rng_state(), sys.gettrace(), logging.getLogger("auto-attack").level
    with left_untouched(model), pytest.raises(RuntimeError, match="broken down"):
        Cheap(Linf(0.03), attacks=["apgd-ce"])(model, images(4), torch.zeros(4, dtype=torch.long))
    assert sys.gettrace() is tracer and logging.getLogger("auto-attack").level == level
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_left_alone():
    x, y = points()
    x.requires_grad_()
    before = x.detach().clone()
    found = Cheap(Linf(0.1), attacks=["apgd-ce"])(MODEL, x, y)
    assert not found.requires_grad and x.grad is None
    found.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes):
    model = Linear.random(classes)
    x = images(6)
    with torch.no_grad():
        y = predictions(model(x))
    with pytest.raises(ValueError, match=rf"apgd-t on {classes} classes, whose loss needs 4; allowed: attacks=\[...\]"):
        AutoAttack(Linf(0.3))(model, x, y)
    if classes == 2:
        with pytest.raises(ValueError, match="apgd-dlr on 2 classes, whose loss needs 3"):
            AutoAttack(Linf(0.3), version="rand")(model, x, y)
    listed = [name for name in EVERY if name != "apgd-t" and (classes > 2 or name != "apgd-dlr")]
    for attacks in (listed, *([name] for name in listed)):
        found = Cheap(Linf(0.5), attacks=attacks)(model, x, y)
        with torch.no_grad():
            assert (predictions(model(found)) != y).float().mean() > 0.6, attacks


@pytest.mark.parametrize("batch", [1, 2])
def test_one_image_and_two(batch):
    x, y = points(count=batch + 1)
    found = Cheap(Linf(0.3), attacks=EVERY)(MODEL, x[1:], y[1:])
    with torch.no_grad():
        assert (predictions(MODEL(found)) != y[1:]).all()


def test_no_images_at_all():
    none = AutoAttack(Linf(0.1))(MODEL, images_for(MODEL, 0), torch.zeros(0, dtype=torch.long))
    assert none.shape == (0, 1, 8, 8)


def test_images_in_another_memory_order():
    model = Linear.random(5, size=108)
    x = images(4, shape=(3, 6, 6))
    with torch.no_grad():
        y = predictions(model(x))
    attack = Cheap(L2(0.2), attacks=EVERY)
    apart = x.contiguous(memory_format=torch.channels_last)
    assert not apart.is_contiguous()
    assert torch.equal(attack(model, apart, y), attack(model, x, y))


@pytest.mark.parametrize("view", [Frozen, EndToEnd])
def test_attacks_a_defended_model(view):
    defended = EntropyReduction(eps=0.05, updates=2)(MODEL)
    x = images_for(MODEL, 8)
    with torch.no_grad():
        y = predictions(defended(x))
    found = Cheap(Linf(0.15), attacks=["apgd-ce", "square"])(view(defended), x, y)
    with torch.no_grad():
        assert (predictions(defended(found)) != y).float().mean() > 0.5


@pytest.mark.parametrize("threat", [Linf(0.15), L2(0.5)])
def test_square_on_a_defended_model_costs_forwards_and_no_gradient(threat):
    """As many updates as the forwards make; a backward pass would make more. No view changes its images."""
    model = own(classes=5, side=8)
    defended, x = EntropyReduction(eps=0.05, updates=2)(model), images_for(model, 8)
    with torch.no_grad():
        y = predictions(defended(x))
    model.tally.evaluations = model.tally.updates = 0
    asked = []
    hook = defended.register_forward_hook(lambda _, images, logits: asked.append((len(logits), logits.requires_grad)))
    attack = AutoAttack(threat, attacks=["square"], queries=40)
    found = attack(defended, x, y)
    hook.remove()
    assert len(asked) > 40 and not any(graph for _, graph in asked)
    forwards = sum(count for count, _ in asked)
    assert (model.tally.evaluations, model.tally.updates) == (5 * forwards, 2 * 2 * forwards)
    with torch.no_grad():
        assert (predictions(defended(found)) != y).any()
    for view in (Frozen, EndToEnd):
        assert torch.equal(attack(view(defended), x, y), found)
    assert torch.equal(attack(Static(defended), x, y), attack(model, x, y))


@pytest.mark.parametrize("version", ["standard", "plus"])
def test_queries_are_square_s_budget(version):
    made = AutoAttack(Linf(0.1), version, queries=7).reference(own(classes=12), images(1))
    assert made.square.n_queries == 7
    seen = Watched(Linear.binary(torch.ones(16), b=50.0))
    x, y = images(3), torch.zeros(3, dtype=torch.long)
    counts = []
    for queries in (5, 25):
        seen.seen.clear()
        AutoAttack(Linf(0.1), attacks=["square"], queries=queries)(seen, x, y)
        counts.append(len(seen.seen))
    assert counts[1] - counts[0] == 20


def test_a_view_with_other_logits_is_judged_by_the_deployed_model():
    """Through a view that calls every image wrong the reference would find nothing left to attack."""
    model = Linear.binary(torch.ones(16), b=-7.0)
    x, y = 0.5 + 0.1 * images(6), torch.zeros(6, dtype=torch.long)
    found = Cheap(Linf(0.2), attacks=["apgd-ce"])(Shifted(model, 0.0, 20.0), x, y)
    with torch.no_grad():
        assert (predictions(model(found)) != y).all()
    view = IntermediateState(MODEL, state=2, unroll=2)
    x, y = points()
    found = Cheap(Linf(0.1), attacks=["apgd-ce", "square"])(view, x, y)
    with torch.no_grad():
        broken = predictions(MODEL(found)) != y
    assert broken[1:].any()
    assert ((found == x).flatten(1).all(dim=1)[1:] == ~broken[1:]).all()


def test_images_too_small_for_square_are_refused():
    """Its L2 version starts from squares of a fifth of the height."""
    x, y = images(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"square under L2 on images of 4 x 4 pixels; allowed: at least 5 x 5"):
        AutoAttack(L2(0.1))(own(classes=5), x, y)
    assert Cheap(Linf(0.1), attacks=["square"])(own(classes=5), x, y).shape == x.shape


def test_double_precision_is_refused():
    x, y = images(2, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"images are torch.float64; allowed: torch.float32"):
        AutoAttack(Linf(0.1))(own(dtype=torch.float64), x, y)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"threat": 0.1}, r"AutoAttack: threat=0.1; allowed: Linf\(eps\) or L2\(eps\)"),
        ({"version": "standart"}, "did you mean 'standard'"),
        ({"attacks": ["apgd_ce"]}, "unknown AutoAttack attack 'apgd_ce' .did you mean 'apgd-ce'"),
        ({"attacks": ["square", "fabt"]}, "did you mean 'fab-t'"),
        ({"attacks": "square"}, "attacks='square'; allowed: a list"),
        ({"attacks": []}, r"attacks=\(\); allowed: at least one value"),
        ({"seed": -1}, r"seed=-1; allowed: 0\.\."),
        ({"seed": None}, "seed=None"),
        ({"seed": 2**70}, r"seed=1180591620717411303424; allowed: 0\.\."),
        ({"queries": 0}, r"queries=0; allowed: 1\.\."),
        ({"batch_size": 0}, r"batch_size=0; allowed: 1\.\."),
        ({"iterations": 2**70}, r"iterations=1180591620717411303424; allowed: 1\.\."),
        ({"attacks": ["square", "square"]}, "allowed: every attack once, and no version"),
        ({"attacks": ["square"], "version": "plus"}, "allowed: every attack once, and no version"),
    ],
)
def test_bad_options_are_named(options, why):
    with pytest.raises(ValueError, match=why):
        AutoAttack(**{"threat": Linf(0.1), **options})


def test_fewer_iterations_are_those_of_a_reference_built_with_fewer():
    from pyautoattack.autopgd_base import APGDAttack

    model = nano()
    made = AutoAttack(Linf(0.1), attacks=["apgd-ce"], iterations=7).reference(model.eval(), images_for(model))
    wanted = APGDAttack(model, n_iter=7, eps=0.1)
    for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
        assert getattr(made.apgd, name) == getattr(wanted, name)
        assert getattr(made.apgd_targeted, name) == getattr(wanted, name)
