"""Defences, readouts and views on what they cannot be put on, and with options that cannot be meant."""

import numpy as np
import pytest
import torch
from small_models import Hiding, Linear, images, own
from torch import nn

from robustdeq import create_model
from robustdeq.analysis import entropy_along
from robustdeq.attacks import EndToEnd, Frozen, IntermediateState, Static, Summed, ThroughGradient
from robustdeq.defences import EarlyState, Ensemble, EntropyReduction, RegulatedClassifier, SmoothSign, entropy
from robustdeq.models import structure

SHORT = EntropyReduction(updates=1)
DEFENDED = SHORT(own())
ON_A_DEQ = {
    "EntropyReduction": SHORT,
    "RegulatedClassifier": lambda model: RegulatedClassifier(model, SHORT),
    "EarlyState": lambda model: EarlyState(model, 2),
    "Ensemble": Ensemble,
    "ThroughGradient": lambda model: ThroughGradient(model, "phantom"),
    "IntermediateState": lambda model: IntermediateState(model, 2),
    "several": lambda model: IntermediateState.several(model, [1, 2]),
    "parse": lambda model: IntermediateState.parse(model, "Munroll-1-1"),
}
ON_A_DEFENDED = {"Frozen": Frozen, "EndToEnd": EndToEnd, "Static": Static}
NO_MODULES = [None, True, 5, "x", [own()], {}, nn.Linear, lambda x: x, np.zeros(3), torch.zeros(3)]
NO_DEQS = {
    "defended": DEFENDED,
    "readout": EarlyState(own(), 2),
    "view": Frozen(DEFENDED),
    "view of a DEQ": ThroughGradient(own(), "phantom"),
    "baseline": create_model("resnet18", channels=(8, 16), stem=8),
    "linear": Linear.random(3),
    "hiding": Hiding(own()),
}
NO_NUMBERS = [None, True, "x", "8", float("nan"), float("inf"), -1, [1], {}, torch.tensor(1), np.int64(1), 1j, b"x"]


def refused(call, match="allowed"):
    with pytest.raises(ValueError, match=match) as seen:
        call()
    assert len(str(seen.value).splitlines()) <= 2


@pytest.mark.parametrize("model", NO_MODULES, ids=type)
def test_what_is_no_module(model):
    for make in [*ON_A_DEQ.values(), *ON_A_DEFENDED.values(), structure]:
        refused(lambda make=make: make(model), "the model is a .*; allowed: ")
    for make in (lambda: Summed([model]), lambda: Summed([EarlyState(own(), 1), model], own()), lambda: Summed(model)):
        refused(make, "Summed: views.*; allowed: ")
    refused(lambda: entropy_along(model, images()), "the model is a .*; allowed: a torch.nn.Module")


@pytest.mark.parametrize("kind", NO_DEQS)
def test_what_is_no_deq(kind):
    for make in ON_A_DEQ.values():
        refused(lambda make=make: make(NO_DEQS[kind]), "the model is a .*; allowed: (a )?DEQClassifier")
    for make in ON_A_DEFENDED.values():
        if kind != "defended":
            refused(lambda make=make: make(NO_DEQS[kind]), "the model is a .*; allowed: Defended")


def test_a_defended_model_may_be_wrapped():
    wrapped = nn.Sequential(DEFENDED)
    for make in ON_A_DEFENDED.values():
        assert torch.equal(make(wrapped)(images()), make(DEFENDED)(images()))


@pytest.mark.parametrize("method", [None, 5, "x", {}, EntropyReduction, SmoothSign()], ids=str)
def test_a_method_is_an_entropy_reduction(method):
    refused(lambda: RegulatedClassifier(own(), method), "the method is a .*; allowed: an EntropyReduction")


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
def test_options_that_are_no_numbers(value):
    for name in ("eps", "updates", "every", *(["step_size"] if value is not None else [])):
        refused(lambda name=name: EntropyReduction(**{name: value}), f"EntropyReduction: {name}=.*; allowed")
    refused(lambda: EarlyState(own(), value), "EarlyState: state=.*; allowed")
    refused(lambda: EndToEnd(DEFENDED, value), "temperature=.*; allowed")
    refused(lambda: IntermediateState(own(), value), "IntermediateState: state=.*; allowed")
    refused(lambda: IntermediateState(own(), 1, value), "unroll=.*; allowed")
    refused(lambda: IntermediateState(own(), 1, 1, value), "damping=.*; allowed")
    refused(lambda: IntermediateState.several(own(), [value]), "IntermediateState: state=.*; allowed")


def test_distances_are_numbers_or_fractions():
    assert EntropyReduction(eps="8/255", step_size="2/255") == EntropyReduction()


@pytest.mark.parametrize("value", [None, 5, [], {}, {"name": []}, {"name": "phantom", 5: 1}, "unroled"], ids=str)
def test_a_gradient_is_one_by_name_or_as_an_object(value):
    refused(lambda: ThroughGradient(own(), value), "(gradient|Phantom).*; allowed")
    refused(lambda: Static(DEFENDED, value), "(gradient|Phantom).*; allowed")


CODES = [None, 5, [], "", "Munroll-1", "munroll-1-1", "Munroll--1-1", "Munroll-1-1 ", "Munroll-1-1\n", "Munroll-7-5"]
CODES += ["Munroll-1-0", "Munroll-1-" + "9" * 5000, f"Munroll-{2**70}-1"]


@pytest.mark.parametrize("code", CODES, ids=lambda code: str(code)[:20])
def test_codes_of_the_authors(code):
    refused(lambda: IntermediateState.parse(own(), code), "(code|state|unroll).*; allowed")


@pytest.mark.parametrize("states", [None, 5, "12", [], (), {}, {1, 2}, torch.tensor([1, 2])], ids=str)
def test_several_states_are_a_list(states):
    refused(lambda: IntermediateState.several(own(), states))


def test_views_that_are_summed_are_of_one_model():
    one, other = (ThroughGradient(own(), "phantom") for _ in range(2))
    for views in ([], (), "ab", {"a": one}, one, [one, other], [one, None], None, 5):
        refused(lambda views=views: Summed(views), "Summed: views.*; allowed: ")


MADE = [EarlyState, Ensemble, EndToEnd, Static, Frozen, IntermediateState, ThroughGradient, Summed]


@pytest.mark.parametrize("make", MADE)
def test_unknown_options(make):
    refused(lambda: make(own(), tempratur=1), rf"{make.__name__}: unknown option 'tempratur'")


@pytest.mark.parametrize("part", ["inject", "cell", "readout"])
def test_a_defence_without_a_gradient_in_the_image_says_so(part):
    model = own()
    getattr(model, part).register_forward_hook(lambda module, given, value: value.detach())
    if part == "cell":  # whose halves are called by themselves
        finish = model.cell.finish
        model.cell.finish = lambda *given: finish(*given).detach()
    for defended in (SHORT(model), EndToEnd(SHORT(model))):
        x = images().requires_grad_()
        refused(lambda defended=defended, x=x: defended(x), "the prediction has no gradient in the image")


@pytest.mark.parametrize("logits", [None, 5, [[1.0, 2.0]], np.zeros((3, 3)), torch.zeros(3)], ids=type)
def test_entropy_is_of_logits(logits):
    refused(lambda: entropy(logits), r"entropy: logits are .*; allowed: a tensor \(B, K\)")


def test_entropy_along_needs_states():
    refused(lambda: entropy_along(Linear.random(3), images()), "entropy_along: the model is a Linear; allowed: a DEQ")
