"""A short training on digits, an evaluation of its model, and one behind entropy reduction: real runs, real folders."""

import shutil
from dataclasses import replace

import pytest

import robustdeq as rd
from robustdeq.attacks import PGD, Frozen, ThroughGradient
from robustdeq.cli import main
from robustdeq.evaluation import Entry, Evaluation

THREAT = rd.Linf(0.15)
SAMPLES = "the first 12 test images of scikit-learn digits"
PGD5 = PGD(THREAT, 0.05, 5)
BARE = [
    Entry("pgd-5 unrolled", "PGD", PGD5, lambda model: ThroughGradient(model, "unrolled"), independent=True),
    Entry("pgd-5 phantom", "PGD", PGD5, lambda model: ThroughGradient(model, "phantom"), independent=True),
    Entry("joint", "joint", rd.attacks.JointOptimisation(THREAT, 10)),
]
SHORT = ['phases=[{"epochs": 3, "attack_steps": 1, "step_size": 0.15, "solver_steps": 3}]', "validation_points=20",
         "validation_steps=2", "validation_every=1"]  # fmt: skip


@pytest.fixture(scope="session")
def digits():
    return rd.data.digits().test.take(slice(12))


@pytest.fixture(scope="session")
def whole(tmp_path_factory, digits):
    """A training run; in it ``model``, and evaluations ``bare`` and ``defended``, which kept their images."""
    folder = tmp_path_factory.mktemp("report") / "mine"
    assert main(["train", "smoke", "--out", str(folder), "--set", *SHORT]) == 0
    model = rd.load_model(folder / "model")
    options = {"threat": THREAT, "batch_size": 6, "images": True, "samples": SAMPLES}
    bare = rd.evaluate(model, digits, suite=BARE, out=folder / "bare", checks=2, **options)
    defended = rd.EntropyReduction(eps=0.15, step_size=0.05, updates=2)(model)
    suite = [Entry("pgd-5 frozen", "frozen", PGD5, Frozen), Entry("pgd-5 static", "static", replace(PGD5, seed=1))]
    rd.evaluate(defended, digits, suite=suite, out=folder / "defended", checks=0, beside=bare, **options)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "mine")


@pytest.fixture(scope="session")
def bare(whole):
    return Evaluation.read(whole / "bare")


@pytest.fixture(scope="session")
def defended(whole):
    return Evaluation.read(whole / "defended")
