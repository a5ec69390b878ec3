"""Every suite runs on every kind of model, cheap attacks first, each in the column of its threat setting."""

import pytest
from small_models import Linear, images_for, own

import robustdeq as rd
from robustdeq.evaluation import SUITES, suite

THREAT = rd.Linf(0.1)
FEW = {"steps": 2, "iterations": 3, "queries": 5}


def _model(kind):
    model = own(4, solver="broyden", steps=4)
    if kind == "defended":
        return rd.EntropyReduction(eps=0.1, step_size=0.03, updates=2)(model)
    return model if kind == "bare" else Linear.random(4)


COLUMNS = {
    ("quick", "bare"): ["PGD"],
    ("quick", "plain"): ["PGD"],
    ("quick", "defended"): ["static", "frozen"],
    ("paper", "bare"): ["PGD", "AA"],
    ("paper", "plain"): ["PGD", "AA"],
    ("paper", "defended"): ["static"],
    ("standard", "bare"): ["PGD", "AA"],
    ("standard", "plain"): ["PGD", "AA"],
    ("standard", "defended"): ["static", "frozen"],
    ("adaptive", "bare"): ["PGD", "AA", "black-box"],
    ("adaptive", "plain"): ["PGD", "AA", "black-box"],
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
        "pgd-7 unrolled", "pgd-7 phantom", "pgd-7 implicit", "pgd-7 simultaneous", "pgd-7 summed", "pgd-7 dlr",
        "pgd-7 x3", "pgd-7 targeted", "autoattack", "square",
    ]  # fmt: skip
    defended = _entries("adaptive", "defended", steps=7, restarts=3)
    assert list(defended) == [
        "pgd-7 static", "pgd-7 static phantom", "pgd-7 static dlr", "pgd-7 static first look",
        "pgd-7 static first look dlr", "pgd-7 static every look", "pgd-7 static targeted", "autoattack static",
        "pgd-7 frozen", "pgd-7 frozen dlr", "apgd frozen", "pgd-7 frozen x3",
        "pgd-7 end-to-end", "pgd-7 end-to-end dlr", "apgd end-to-end", "pgd-7 end-to-end x3", "pgd-7 summed",
        "square",
    ]  # fmt: skip
    static = [entry.attack for name, entry in defended.items() if name.startswith("pgd-7 static")]
    assert {attack.keep for attack in static} == {"highest"}
    assert defended["pgd-7 static targeted"].attack.loss == "ce-targeted"


def test_gradients_that_are_compared_are_independent():
    entries = _entries("quick")
    assert all(entry.independent for entry in entries.values()) and len(entries) == 2
    assert not any(entry.independent for entry in _entries("paper").values())


def test_the_states_of_the_papers_attack():
    """By default the last state and the one halfway; by the authors' codes or by number, one by one."""
    assert list(_entries("paper")) == [
        "pgd-10 Munroll-3-5", "pgd-10 Munroll-1-5", "autoattack Munroll-3-5", "autoattack Munroll-1-5",
    ]  # fmt: skip
    chosen = _entries("paper", states=["Funroll-0-9", 4], steps=3)
    assert list(chosen)[:2] == ["pgd-3 Funroll-0-9", "pgd-3 Munroll-3-5"]
    model = _model("bare")
    assert chosen["pgd-3 Funroll-0-9"].view(model).options == {"state": 1, "unroll": 9, "damping": 1.0}
    assert chosen["autoattack Munroll-3-5"].view(model).options == {"state": 4, "unroll": 5, "damping": 0.5}


@pytest.mark.parametrize(
    "name, kind, options, message",
    [
        ("quick", "bare", {"queries": 3}, "suite quick: unknown option 'queries'"),
        ("paper", "bare", {"state": [1]}, "did you mean 'states'"),
        ("paper", "bare", {"states": [5]}, r"state=5; allowed: 1\.\.4"),
        ("paper", "bare", {"states": [0]}, "states=0"),
        ("paper", "bare", {"states": ["unroll-1-2"]}, "allowed: Munroll-STATE-UNROLL"),
        ("paper", "plain", {"states": [1]}, "of a Linear; allowed: a DEQ's"),
        ("adaptive", "bare", {"restarts": 0}, "restarts=0"),
        ("standard", "bare", {"attacks": ["apgd"]}, "did you mean 'apgd-"),
    ],
)
def test_options_that_do_not_fit(name, kind, options, message):
    with pytest.raises(ValueError, match=message):
        _entries(name, kind, **options)


def test_the_names():
    assert list(SUITES) == ["quick", "paper", "standard", "adaptive"]
