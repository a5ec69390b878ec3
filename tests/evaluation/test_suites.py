"""Every suite runs on every kind of model, cheap attacks first, each in the column of its threat setting."""

import pytest
import torch
from pyautoattack import AutoAttack as Reference
from pyautoattack.autopgd_base import APGDAttack
from small_models import Linear, images_for, own

import robustdeq as rd
from robustdeq.defences import Defended
from robustdeq.evaluation import SUITES, suite

THREAT = rd.Linf(0.1)
FEW = {"steps": 2, "iterations": 3, "queries": 5, "attacks": ["apgd-ce", "apgd-t", "square"]}


def _model(kind):
    model = own(4, solver="broyden", steps=4)
    if kind == "defended":
        return rd.EntropyReduction(eps=0.1, step_size=0.03, updates=2)(model)
    return model if kind == "bare" else Linear.random(4)


COLUMNS = {
    ("quick", "bare"): ["PGD", "joint"],
    ("quick", "plain"): ["PGD"],
    ("quick", "defended"): ["static", "frozen"],
    ("paper", "bare"): ["PGD", "AA"],
    ("paper", "plain"): ["PGD", "AA"],
    ("paper", "defended"): ["static"],
    ("standard", "bare"): ["PGD", "joint", "AA"],
    ("standard", "plain"): ["PGD", "AA"],
    ("standard", "defended"): ["static", "frozen"],
    ("adaptive", "bare"): ["PGD", "white-box", "black-box"],
    ("adaptive", "plain"): ["PGD", "white-box", "black-box"],
    ("adaptive", "defended"): ["static", "frozen", "end-to-end", "black-box"],
}


@pytest.mark.parametrize("name, kind", COLUMNS)
def test_a_suite_by_name(name, kind):
    model = _model(kind)
    x = images_for(own(), 5)
    y = model(x).argmax(1)
    budget = {key: value for key, value in FEW.items() if name != "quick" or key == "steps"}
    found = rd.evaluate(model, x, y, suite=name, threat=THREAT, checks=0, **budget)
    shares = found.shares()
    assert list(shares) == ["clean", *COLUMNS[name, kind], "All"]
    assert shares["All"].count <= min(share.count for share in shares.values())
    assert all(f"| {column} | " in found.table() for column in shares)
    assert ("The defence costs" in found.table()) == (kind == "defended")


def _entries(name, kind="bare", **options):
    return {entry.name: entry for entry in suite(name, _model(kind), THREAT, step_size=0.02, **options)}


def test_the_adaptive_suite_tries_everything():
    assert list(_entries("adaptive", steps=7, restarts=3)) == [
        "pgd-7 unrolled", "pgd-7 phantom", "pgd-7 dlr",
        "joint-14", "pgd-7 implicit", "pgd-7 simultaneous", "joint-28 targeted",
        "pgd-7 state 1", "pgd-7 state 2", "pgd-7 state 3", "apgd-100 pm", "apgd-100 cw",
        "pgd-7 x3", "pgd-7 dlr x3", "pgd-7 summed", "pgd-7 targeted", "apgd-100 ce", "apgd-100 dlr-targeted", "fab-t",
        "square black-box",
    ]  # fmt: skip
    assert list(_entries("adaptive", "plain", steps=7, restarts=1, iterations=9, attacks=["apgd-dlr", "square"])) == [
        "pgd-7", "pgd-7 dlr", "apgd-9 pm", "apgd-9 cw", "pgd-7 targeted", "apgd-9 dlr", "square black-box",
    ]  # fmt: skip
    defended = _entries("adaptive", "defended", steps=7, restarts=3)
    assert list(defended) == [
        "pgd-7 static", "pgd-7 static phantom", "pgd-7 static dlr", "pgd-7 static first look",
        "pgd-7 static first look dlr", "pgd-7 static every look", "pgd-7 static targeted",
        "apgd-100 ce static", "apgd-100 dlr-targeted static", "fab-t static", "square static",
        "pgd-7 frozen", "pgd-7 frozen dlr", "apgd-100 ce frozen", "apgd-100 dlr-targeted frozen", "pgd-7 frozen x3",
        "pgd-7 end-to-end", "pgd-7 end-to-end dlr", "apgd-100 ce end-to-end", "apgd-100 dlr-targeted end-to-end",
        "pgd-7 end-to-end x3", "pgd-7 summed", "square black-box",
    ]  # fmt: skip
    static = [entry.attack for name, entry in defended.items() if name.startswith("pgd-7 static")]
    assert {attack.keep for attack in static} == {"highest"}
    assert defended["pgd-7 static targeted"].attack.loss == "ce-targeted"


def test_a_defended_model_meets_the_losses_that_the_bare_one_meets():
    """Or its All would stand beside a tighter one."""
    losses = [{entry.attack.loss for entry in _entries("quick", kind).values()} for kind in ("plain", "defended")]
    assert losses[0] == losses[1] == {"ce", "dlr"}


def test_gradients_that_are_compared_are_independent():
    """Equals are compared: the two gradients on cross-entropy. The DLR loss sees what both have left."""
    entries = _entries("quick")
    alone = [name for name, entry in entries.items() if entry.independent]
    assert alone == ["pgd-20 unrolled", "pgd-20 phantom"] and list(entries) == [*alone, "pgd-20 dlr", "joint-40"]
    assert entries["pgd-20 dlr"].column == "PGD" and entries["pgd-20 dlr"].attack.loss == "dlr"
    assert entries["joint-40"].column == "joint"  # where it sees all that is classified correctly
    assert not any(entry.independent for entry in _entries("paper").values())


def test_the_states_whose_readouts_are_attacked_are_all_of_a_short_solve_and_some_of_a_long_one():
    for steps, wanted in ((1, []), (2, [1]), (8, [1, 2, 3, 4, 5, 6, 7]), (30, [4, 7, 11, 14, 18, 22, 25, 29])):
        model = own(4, steps=steps)
        entries = [e for e in suite("adaptive", model, THREAT) if " state " in e.name]
        assert [entry.view(model).state for entry in entries] == wanted
        assert all(entry.attack.keep == "highest" and entry.column == "white-box" for entry in entries)


def test_what_is_dear_sees_the_points_that_it_is_given_and_what_stands():
    entries = _entries("adaptive", points=3)
    cheap = {name for name, entry in entries.items() if entry.points is None}
    assert cheap == set(_entries("quick")) and {entry.points for entry in entries.values()} == {None, 3}
    model = own(4, sharpness=8.0, steps=4)
    x = images_for(model, 12)
    found = rd.evaluate(model, x, model(x).argmax(1), suite="adaptive", threat=THREAT, checks=0, **FEW)
    stands = found.clean.clone()
    for name in (name for name, column in found.columns.items() if column == "white-box"):
        assert torch.equal(found.record.attacks[name].outcomes >= 0, stands)
        stands &= found.robust[name]
    assert stands.sum() < found.clean.sum()


def test_the_states_of_the_papers_attack():
    """By default the last state and the one halfway; by the authors' codes or by number, one by one."""
    assert list(_entries("paper", attacks=["apgd-ce", "square"])) == [
        "pgd-10 Munroll-3-5", "pgd-10 Munroll-1-5", "apgd-ce Munroll-3-5", "square Munroll-3-5",
        "apgd-ce Munroll-1-5", "square Munroll-1-5",
    ]  # fmt: skip
    chosen = _entries("paper", states=["Funroll-0-9", 4], steps=3)
    assert list(chosen)[:2] == ["pgd-3 Funroll-0-9", "pgd-3 Munroll-3-5"]
    model = _model("bare")
    assert chosen["pgd-3 Funroll-0-9"].view(model).settings == {"state": 1, "unroll": 9, "damping": 1.0}
    assert chosen["fab-t Munroll-3-5"].view(model).settings == {"state": 4, "unroll": 5, "damping": 0.5}


def test_standard_is_the_reference_s_own_run_sample_for_sample():
    """Four entries of one column, a batch at a time, against pyautoattack's own run of a batch."""
    model = own(5, side=8, steps=3)
    x = images_for(model, 8)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 5
    threat, few = rd.Linf(0.03), {"iterations": 5, "queries": 20}
    options = {"step_size": 0.01, "seed": 3, "batch_size": 4}
    entries = [entry for entry in suite("standard", model, threat, **options, **few) if entry.column == "AA"]
    found = rd.evaluate(model, x, y, suite=entries, threat=threat, batch_size=4, checks=0)
    wanted = []
    for rows in (slice(0, 4), slice(4, 8)):
        reference = Reference(model, norm="Linf", eps=0.03, seed=3, version="standard")
        reference.verbose, reference.square.n_queries = False, few["queries"]
        for apgd in (reference.apgd, reference.apgd_targeted):
            budget = vars(APGDAttack(model, n_iter=few["iterations"], eps=0.03))
            for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
                setattr(apgd, name, budget[name])
        reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = 4
        with torch.random.fork_rng(devices=[]):
            x_adv, _ = reference.run_standard_evaluation(x[rows], y[rows], batch_size=4)
        wanted.append(model(x_adv).argmax(1) == y[rows])
    stands = found.clean.clone()
    for name in ("apgd-ce", "apgd-t", "fab-t", "square"):
        assert torch.equal(found.record.attacks[name].outcomes >= 0, stands)  # what stood was attacked, nothing else
        stands &= found.robust[name]
    assert torch.equal(stands, torch.cat(wanted)) and 0 < stands.sum() < found.clean.sum()


class Noise(Defended):
    """A test-time defence of one's own, on any classifier."""

    def forward(self, x):
        return self.model((x + (((8 * x).round() / 8) - x).detach()).clamp(0, 1))


@pytest.mark.parametrize("name", SUITES)
def test_a_defence_of_one_s_own_on_a_model_without_states(name):
    defended = Noise(Linear.random(4))
    x = images_for(own(), 5)
    budget = {key: value for key, value in FEW.items() if name != "quick" or key == "steps"}
    found = rd.evaluate(defended, x, defended(x).argmax(1), suite=name, threat=THREAT, checks=3, **budget)
    assert list(found.shares()) == ["clean", *COLUMNS[name, "defended"], "All"]
    views = {attack.view for attack in found.record.attacks.values() if attack.column == "static"}
    assert views == {"Linear"} and found.record.cost.evaluations is None
    assert not any("look" in entry or "phantom" in entry for entry in found.columns)


@pytest.mark.parametrize(
    "name, kind, options, message",
    [
        ("quick", "bare", {"queries": 3}, "suite quick: unknown option 'queries'"),
        ("paper", "bare", {"state": [1]}, "did you mean 'states'"),
        ("paper", "bare", {"states": [5]}, r"state=5; allowed: 1\.\.4"),
        ("paper", "bare", {"states": [0]}, "states=0"),
        ("paper", "bare", {"states": ["unroll-1-2"]}, "allowed: Munroll-STATE-UNROLL"),
        ("paper", "plain", {"states": [1]}, "of a Linear; allowed: a DEQ's"),
        ("adaptive", "bare", {"restarts": 0}, "suite adaptive: restarts=0; allowed: a whole number >= 1"),
        ("standard", "defended", {"iterations": 0}, "suite standard: iterations=0"),
        ("paper", "bare", {"points": 1.5}, r"suite paper: points=1\.5"),
        ("standard", "bare", {"attacks": ["apgd"]}, "did you mean 'apgd-"),
        ("quick", "bare", {"surrogates": 5}, "suite quick: surrogates=5; allowed: a list"),
        ("adaptive", "bare", {"surrogates": [5]}, "surrogate=5; allowed: a torch.nn.Module"),
    ],
)
def test_options_that_do_not_fit(name, kind, options, message):
    with pytest.raises(ValueError, match=message):
        _entries(name, kind, **options)


@pytest.mark.parametrize("kind", ["bare", "defended"])
def test_a_finished_suite_is_not_run_again(kind, tmp_path):
    """The options of every attack can be told, a solver's among them."""
    model = _model(kind)
    x = images_for(own(), 3)
    given = {"suite": "adaptive", "threat": THREAT, "checks": 0, "out": tmp_path, **FEW}
    first = rd.evaluate(model, x, model(x).argmax(1), **given)
    assert all(attack.options for attack in first.record.attacks.values())
    stamps = {name: attack.batches[0].seconds for name, attack in first.record.attacks.items()}
    again = rd.evaluate(model, x, model(x).argmax(1), **given)
    assert {name: attack.batches[0].seconds for name, attack in again.record.attacks.items()} == stamps


def test_few_classes_are_refused_before_the_first_attack(tmp_path):
    model = own(3)
    x = images_for(model, 3)
    given = {"suite": "adaptive", "threat": THREAT, "checks": 0, "out": tmp_path / "out", **FEW}
    with pytest.raises(ValueError, match=r"apgd-t on 3 classes, whose loss needs 4; allowed: attacks=\[...\]"):
        rd.evaluate(model, x, model(x).argmax(1), **given)
    assert not (tmp_path / "out").exists()
    found = rd.evaluate(model, x, model(x).argmax(1), **{**given, "attacks": ["apgd-ce", "apgd-dlr"]})
    assert "apgd-3 dlr" in found.columns


@pytest.mark.parametrize("classes", [2, 3])
def test_quick_takes_any_number_of_classes(classes):
    """With fewer than three the DLR loss has the denominator 1."""
    model = own(classes, sharpness=8.0)
    x = images_for(model, 12)
    found = rd.evaluate(model, x, model(x).argmax(1), suite="quick", threat=THREAT, checks=0, steps=5)
    assert found.shares()["PGD"].count < 12 and "pgd-5 dlr" in found.columns


def test_the_names():
    assert list(SUITES) == ["quick", "paper", "standard", "adaptive"]


@pytest.mark.parametrize("dtype, side, message", [
    (torch.float64, 5, "allowed: torch.float32"), (torch.float32, 4, "allowed: at least 5 x 5"),
])  # fmt: skip
def test_what_the_reference_cannot_take_is_said_before_the_first_attack(dtype, side, message, tmp_path):
    model = own(4, side=side, steps=2, dtype=dtype)
    x = images_for(model, 2)
    with pytest.raises(ValueError, match=message):
        rd.evaluate(model, x, model(x).argmax(1), suite="adaptive", threat=rd.L2(0.1), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
