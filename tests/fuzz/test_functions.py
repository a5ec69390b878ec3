"""The large Python calls with junk in them: evaluate, load_model, save_model, data.load, create_model, Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calls import Call, spoiled, tried
from law import cases, every, sandbox
from objects import (
    JUNK,
    LOGITS_OF,
    anything,
    batch,
    either,
    instance,
    labels,
    none_or,
    nothing,
    number,
    one_of,
    whole,
    word,
)
from small_models import images, own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.dynamics import SOLVERS, Solver
from robustdeq.evaluation import Entry
from robustdeq.gradients import GRADIENTS, Gradient
from robustdeq.models.zoo import ARCHITECTURES
from robustdeq.training import Phase, TrainConfig, Trainer

X, Y, MODEL = images(2), JUNK["labels"], own(3, steps=3)
SEED = whole(0, 2**63 - 1)
SOLVER, GRADIENT = either(word(SOLVERS), instance(Solver)), either(word(GRADIENTS), instance(Gradient))
ENTRY = Entry("one", "PGD", PGD(rd.Linf(0.1), 0.05, 1))
WRITABLE = one_of(*(JUNK[name] for name in ("'x'", "'5'", "Path('x')", "'[/x]'", "' '", "'\\x1b[2J'",
                                            "'a\\nb\\nc\\nd'", "'\\udcff'")))
"""What can be the name of a folder, as odd as it is."""


def evaluated(**arguments: Any) -> Any:
    """The table, too: it is what a user sees."""
    evaluation = rd.evaluate(**arguments)
    assert evaluation.table()
    return evaluation


EVALUATE = {
    "model": either(instance(rd.DEQClassifier), one_of(*LOGITS_OF)), "x": batch(1, 4, 4), "y": labels(),
    "suite": nothing,
    "threat": none_or(nothing), "step_size": none_or(number(0)), "batch_size": whole(1), "seed": SEED,
    "out": none_or(WRITABLE), "resume": anything, "images": one_of(False, 0, None),
    "transfers": one_of(None, JUNK["{}"]),
    "checks": whole(0), "samples": none_or(instance(str)), "opaque": anything, "beside": none_or(nothing),
    "distributed": nothing, "progress": none_or(nothing),
}  # fmt: skip
CALLS = [
    Call("evaluate", evaluated, {"model": MODEL, "x": X, "y": Y, "suite": [ENTRY], "checks": 1}, EVALUATE, (),
         ("progress",)),
    Call("evaluate quick", evaluated, {"model": MODEL, "x": X, "y": Y, "suite": "quick", "steps": 1, "checks": 1},
         {**EVALUATE, "model": instance(rd.DEQClassifier), "steps": whole(1)}, ("steps",), ("progress",)),
    Call("certify", lambda **arguments: rd.certify(**arguments).table() or True,
         {"model": rd.Smoothing(0.1, draws=4)(MODEL), "x": X, "y": Y, "n0": 4, "n": 20},
         {**{name: EVALUATE[name] for name in ("x", "y", "batch_size", "seed", "out", "resume", "samples")},
          "distributed": nothing, "model": nothing, "n0": whole(1), "n": whole(10), "alpha": number(0, 1),
          "together": whole(1), "norm": word(["L2"]), "progress": none_or(nothing)}, (), ("progress",)),
    Call("Smoothing", rd.Smoothing, {"sigma": 0.1},
         {"sigma": number(0), "classes": none_or(whole(1)), "draws": whole(1), "clip": anything,
          "seed": none_or(SEED)}),
    Call("Certificate.read", rd.Certificate.read, {"folder": "x"}, {"folder": nothing}),
    Call("Entry", Entry, {"name": "one", "column": "PGD", "attack": ENTRY.attack},
         {"name": instance(str), "column": instance(str), "attack": nothing, "view": nothing,
          "points": none_or(whole(1)),
          "independent": instance(bool)}, (), ("attack", "view")),
    Call("create_model", lambda name, **options: rd.create_model(name, **options), {"name": "mdeq-nano"},
         {"name": word(ARCHITECTURES), "num_classes": whole(1, 10**4), "seed": none_or(SEED), "steps": whole(1),
          "solver": SOLVER, "gradient": GRADIENT, "channels": nothing, "image_shape": nothing,
          "dropout": number(0, 1 - 1e-9),
          "features": whole(1, 10**4), "stem_stride": whole(1, 4), "head_channels": nothing,
          "expansion": whole(1, 100)}),
    Call("create_model mondeq-nano", lambda **options: rd.create_model("mondeq-nano", **options), {},
         {"num_classes": whole(1, 10**4), "seed": none_or(SEED), "steps": whole(1), "solver": SOLVER,
          "gradient": GRADIENT, "image_shape": nothing, "channels": whole(1, 100), "stem_stride": whole(1, 4),
          "pool": whole(1, 4), "modulus": number(0), "bound": none_or(number(0))}),
    Call("create_model resnet18", lambda **options: rd.create_model("resnet18", **options), {},
         {"num_classes": whole(1, 10**4), "seed": none_or(SEED)}),
    Call("load_model", rd.load_model, {"path_or_hub_id": "model"},
         {"path_or_hub_id": nothing, "into": none_or(nothing), "steps": whole(1), "solver": SOLVER,
          "gradient": GRADIENT,
          "channels": nothing}),
    Call("save_model", rd.save_model, {"model": MODEL, "folder": "saved"},
         {"model": instance(nn.Module), "folder": WRITABLE}),
    Call("load_official", lambda path: rd.load_official(path), {"path": "model/model.safetensors"}, {"path": nothing}),
    Call("Evaluation.read", rd.Evaluation.read, {"folder": "x"}, {"folder": nothing}),
    Call("data.load", rd.data.load, {"source": "digits"},
         {"source": nothing, "validation": none_or(whole(1, 1436)), "seed": SEED, "image_size": none_or(one_of(False)),
          "streaming": one_of(False), "image_column": none_or(nothing), "label_column": none_or(nothing)}),
    Call("data.digits", rd.data.digits, {},
         {"test": whole(1, 1696), "validation": whole(1, 1436), "seed": SEED}),
]  # fmt: skip
CONFIG = TrainConfig(phases=[Phase(epochs=1, attack_steps=1, solver_steps=1)], batch_size=2)


def rehearsed(**arguments: Any) -> Any:
    trainer = Trainer(**arguments)
    trainer.rehearse()
    return trainer


@pytest.fixture(scope="module")
def training() -> Call:
    """A trainer, up to the first update of every phase."""
    train = rd.data.digits().train.take(slice(4))
    model = rd.create_model("mdeq-nano", seed=0, steps=1)
    good = {"model": model, "images": train, "config": CONFIG, "folder": Path("run")}
    fine = {"model": nothing, "images": nothing, "config": nothing, "folder": WRITABLE, "validation": anything,
            "wandb": one_of(False, None, 0), "distributed": nothing}  # fmt: skip
    return Call("Trainer", rehearsed, good, fine)


@cases(100)
def test_a_door_with_junk_in_it(runs, model_folder):
    def body(one: Any) -> None:
        with sandbox(model_folder):
            tried(*one, "Python: doors")

    every(runs, body, spoiled(CALLS))


@cases(30)
def test_a_trainer_with_junk_in_it(runs, training):
    def body(one: Any) -> None:
        with sandbox():
            tried(*one, "Python: trainer")

    every(runs, body, spoiled([training]))


def test_what_is_right_is_taken(model_folder, training):
    with sandbox(model_folder):
        for call in (*CALLS, training):
            if call.name not in ("load_official", "Evaluation.read", "Certificate.read"):
                assert call.call(**call.good) is not None
