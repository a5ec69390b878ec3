"""Python calls with junk in one or two arguments: a ValueError of two lines at most, or a right result."""

from __future__ import annotations

import inspect

import pytest
from calls import Call, spoiled, tried
from law import cases, every
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
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.attacks import PGD, AutoAttack, EndToEnd, Frozen, IntermediateState, Static, Summed, ThroughGradient
from robustdeq.attacks.autoattack import VERSIONS
from robustdeq.attacks.losses import LOSSES
from robustdeq.attacks.pgd import KEEPS, STARTS
from robustdeq.defences import EarlyState, Ensemble
from robustdeq.dynamics import SOLVERS, Anderson, Broyden, Picard, Reversible, Solver, drive
from robustdeq.gradients import GRADIENTS, Gradient, Implicit, Phantom, Unrolled
from robustdeq.models import DEQClassifier
from robustdeq.training import JacobianPenalty, Phase, TrainConfig

X, Y = images(2), JUNK["labels"]
MODEL = own(3, steps=3)
DEFENDED = rd.EntropyReduction(eps=0.05, step_size=0.02, updates=1)(MODEL)
THREAT = rd.Linf(0.1)
SPEC = lambda table, base: either(word(table), instance(base))  # noqa: E731
DEQ = instance(DEQClassifier)
LOGITS = either(DEQ, one_of(*LOGITS_OF))
CONFIGS = [
    Call("Linf", rd.Linf, {"eps": 0.1}, {"eps": number(0, 1)}),
    Call("L2", rd.L2, {"eps": 0.1}, {"eps": number(0)}),
    Call("EntropyReduction", rd.EntropyReduction, {},
         {"eps": number(0, 1), "step_size": number(0, 1), "updates": whole(0), "every": whole(1)}),
    Call("PGD", PGD, {"threat": THREAT},
         {"threat": nothing, "step_size": number(0), "steps": whole(0), "restarts": whole(1),
          "seed": whole(0, 2**63 - 1),
          "loss": word(LOSSES), "targets": whole(1), "start": word(STARTS), "keep": word(KEEPS)}),
    Call("AutoAttack", AutoAttack, {"threat": THREAT},
         {"threat": nothing, "version": word(VERSIONS), "attacks": none_or(nothing), "seed": whole(0, 2**63 - 1),
          "batch_size": whole(1), "iterations": whole(1), "queries": whole(1)}),
    Call("Anderson", Anderson, {}, {"memory": whole(1), "ridge": none_or(number(0)), "mixing": number(1e-300, 1)}),
    Call("Broyden", Broyden, {}, {name: anything for name in inspect.signature(Broyden).parameters}),
    Call("Picard", Picard, {}, {name: number(1e-300, 1) for name in inspect.signature(Picard).parameters}),
    Call("Reversible", Reversible, {}, {name: number(0, 1) for name in inspect.signature(Reversible).parameters}),
    Call("Unrolled", Unrolled, {}, {"segment": none_or(whole(1))}),
    Call("Phantom", Phantom, {}, {"unroll": whole(1), "damping": number(1e-300, 1)}),
    Call("Implicit", Implicit, {}, {"solver": SPEC(SOLVERS, Solver), "steps": whole(1)}),
    Call("JacobianPenalty", JacobianPenalty, {}, {"weight": number(0), "until": none_or(whole(0))}),
    Call("Phase", Phase, {"epochs": 1, "attack_steps": 1},
         {"epochs": whole(1), "attack_steps": whole(0), "step_size": number(0), "solver_steps": none_or(whole(1)),
          "solver": none_or(SPEC(SOLVERS, Solver)), "gradient": none_or(SPEC(GRADIENTS, Gradient))}),
    Call("TrainConfig", TrainConfig, {"phases": [Phase(epochs=1, attack_steps=1)]},
         {"phases": nothing, "objective": nothing, "states": nothing, "gradient": nothing, "attack_gradient": nothing,
          "threat": nothing, "eps": none_or(number(0, 1)), "batch_size": whole(1), "accumulate": nothing,
          "clip": number(0),
          "optimizer": callable, "schedule": nothing, "learning_rate": number(1e-300), "weight_decay": number(0),
          "ema": number(0, 1 - 1e-9), "awp": number(0), "jacobian": one_of(JUNK["{}"]), "precision": nothing,
          "pad": whole(0), "flip": instance(bool), "validation_points": whole(0), "validation_steps": whole(1),
          "validation_every": whole(1), "checkpoint_seconds": number(0), "seed": whole(0, 2**63 - 1)}),
    Call("TrainConfig.from_dict", TrainConfig.from_dict, {"options": {"phases": [Phase(epochs=1, attack_steps=1)]}},
         {"options": nothing}),
]  # fmt: skip
ATTACKED = {"model": LOGITS, "x": batch(1, 4, 4), "y": labels(), "indices": none_or(labels(None))}
CALLS = [
    Call("PGD(...)(...)", PGD(THREAT, 0.05, 1), {"model": MODEL, "x": X, "y": Y}, ATTACKED),
    Call("PGD dlr(...)", PGD(THREAT, 0.05, 1, loss="dlr"), {"model": MODEL, "x": X, "y": Y}, ATTACKED),
    Call("PGD last(...)", PGD(THREAT, 0.05, 1, keep="last"), {"model": MODEL, "x": X, "y": Y}, ATTACKED),
    Call("PGD L2 targeted", PGD(rd.L2(0.1), 0.05, 1, loss="ce-targeted"), {"model": MODEL, "x": X, "y": Y}, ATTACKED),
    Call("AutoAttack(...)(...)", AutoAttack(THREAT, attacks=["apgd-ce"], iterations=1),
         {"model": MODEL, "x": X, "y": Y}, {**ATTACKED, "indices": anything}),
    Call("AutoAttack square(...)", AutoAttack(THREAT, attacks=["square"], queries=1),
         {"model": MODEL, "x": X, "y": Y}, {**ATTACKED, "indices": anything}),
    Call("EntropyReduction()(...)", rd.EntropyReduction(), {"model": MODEL}, {"model": DEQ}),
    Call("Frozen", Frozen, {"deployed": DEFENDED}, {"deployed": nothing}),
    Call("EndToEnd", EndToEnd, {"deployed": DEFENDED}, {"deployed": nothing, "temperature": number(1e-300)}),
    Call("Static", Static, {"defended": DEFENDED}, {"defended": nothing, "gradient": SPEC(GRADIENTS, Gradient)}),
    Call("Summed", Summed, {"views": [Frozen(DEFENDED)]},
         {"views": nothing, "deployed": instance(nn.Module, type(None))}),
    Call("ThroughGradient", ThroughGradient, {"deployed": MODEL, "gradient": "phantom"},
         {"deployed": DEQ, "gradient": SPEC(GRADIENTS, Gradient)}),
    Call("IntermediateState", IntermediateState, {"deployed": MODEL, "state": 1},
         {"deployed": DEQ, "state": whole(1, 3), "unroll": whole(1), "damping": number(1e-300, 1)}),
    Call("IntermediateState.parse", IntermediateState.parse, {"deployed": MODEL, "code": "Munroll-1-2"},
         {"deployed": DEQ, "code": nothing}),
    Call("IntermediateState.several", IntermediateState.several, {"deployed": MODEL, "states": [1, 2]},
         {"deployed": DEQ, "states": one_of(JUNK["(1, 2, 3)"]), "unroll": whole(1), "damping": number(1e-9, 1)}),
    Call("EarlyState", EarlyState, {"model": MODEL, "state": 1}, {"model": DEQ, "state": whole(1, 3)}),
    Call("Ensemble", Ensemble, {"model": MODEL}, {"model": DEQ}),
    Call("drive", drive, {"solver": Picard(), "f": lambda z: z / 2, "start": X.flatten(1), "steps": 2, "record": True},
         {"solver": instance(Solver), "f": nothing,
          "start": lambda value: isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point(),
          "steps": whole(0), "tolerance": none_or(number(0)), "record": anything, "regulate": none_or(nothing),
          "observers": one_of(*(JUNK[name] for name in ("[]", "()", "{}", "set()"))), "divergence": number(1.0001),
          "throw": anything}, ("steps",), ("f", "regulate")),
    Call("model(...)", MODEL, {"x": X},
         {"x": batch(1, 4, 4, rows=None), "steps": none_or(either(whole(1), labels(2**31))),
          "gradient": none_or(SPEC(GRADIENTS, Gradient))}, ("steps",)),
    Call("model.trajectory(...)", MODEL.trajectory, {"x": X},
         {"x": batch(1, 4, 4, rows=None), "steps": none_or(whole(0)), "tolerance": none_or(number(0))}, ("steps",)),
    Call("defended(...)", DEFENDED, {"x": X}, {"x": batch(1, 4, 4, rows=None)}),
]  # fmt: skip


@cases(200)
def test_a_config_with_junk_in_it(runs):
    every(runs, lambda one: tried(*one, "Python: configs"), spoiled(CONFIGS))


@cases(200)
def test_a_call_with_junk_in_it(runs):
    every(runs, lambda one: tried(*one, "Python: calls"), spoiled(CALLS))


@pytest.mark.parametrize("call", [*CONFIGS, *CALLS], ids=lambda call: call.name)
def test_what_is_right_is_taken(call):
    """Or the other tests would test nothing; an unknown name is a ValueError, or Python's own TypeError."""
    assert call.call(**call.good) is not None
    with pytest.raises((ValueError, TypeError), match="x_y_z") as told:
        call.call(**call.good, x_y_z=1)
    assert len(str(told.value)) < 400
