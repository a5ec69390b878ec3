"""What a classifier is made of is seen below every wrapper that computes the same, and nothing is hidden."""

import pytest
import torch
from small_models import Hiding, images_for, own
from torch import nn

from robustdeq import EntropyReduction
from robustdeq.defences import EarlyState, Ensemble
from robustdeq.models import Wrapper, create_model, load_model, save_model, structure
from robustdeq.models.modes import unwrapped

WRAPPERS = {
    "Sequential of one": nn.Sequential,
    "DataParallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "several": lambda model: nn.Sequential(nn.DataParallel(torch.compile(nn.Sequential(model), backend="eager"))),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@every_wrapper
def test_a_wrapper_that_computes_the_same_is_looked_below(wrap):
    model = own(steps=4)
    kind = structure(wrap(model))
    assert kind.deployed is kind.bare is kind.deq is model
    assert (kind.states, kind.defence, kind.readout, kind.opaque) == (4, None, None, False)


def test_distributed_data_parallel_is_looked_below(monkeypatch):
    """Without a process group: only its class and its module are asked for."""
    model, wrapped = own(), nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert structure(wrapped).deq is model


@every_wrapper
def test_a_defence_and_a_readout_are_seen_inside_and_outside_of_wrappers(wrap):
    model = own(steps=4)
    for defended in (wrap(EntropyReduction()(wrap(model))),):
        kind = structure(defended)
        assert kind.defence is kind.deployed is unwrapped(defended)
        assert kind.bare is kind.deq is model and kind.states == 4
    kind = structure(wrap(EarlyState(wrap(model), 2)))
    assert kind.readout is kind.deployed is kind.bare and kind.deq is model
    assert kind.states == 0 and kind.defence is None  # another function of the dynamics, attacked as it is


def test_a_defence_around_a_readout_has_both():
    class Plain(Wrapper):
        def __init__(self, model):
            super().__init__()
            self.model = model

    readout = Ensemble(own())
    defended = Plain(readout)
    kind = structure(defended)
    assert (kind.defence, kind.readout, kind.bare, kind.deq) == (defended, readout, readout, readout.model)


def test_a_network_without_states_has_none():
    resnet = create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1)
    for model in (resnet, nn.Linear(2, 2)):
        kind = structure(model)
        assert kind.deployed is kind.bare is model and kind.deq is None and kind.states == 0
        assert kind.tally.evaluations == 0


def hooked(model):
    model = nn.Sequential(model)
    model.register_forward_hook(lambda module, args, logits: 2 * logits)
    return model


@pytest.mark.parametrize(
    ("hide", "name"),
    [
        (lambda: Hiding(own()), "DEQClassifier"),
        (lambda: Hiding(EntropyReduction()(own())), "RegulatedClassifier"),
        (lambda: nn.Sequential(nn.Identity(), own()), "DEQClassifier"),
        (lambda: hooked(own()), "DEQClassifier"),
        (lambda: nn.Sequential(Hiding(Ensemble(own()))), "Ensemble"),
    ],
)
def test_a_module_that_hides_a_deq_is_refused_unless_said_to_be_opaque(hide, name):
    model = hide()
    with pytest.raises(ValueError, match=f"that hides a {name}.*or evaluate with opaque=True"):
        structure(model)
    kind = structure(model, opaque=True)
    assert kind.opaque and kind.deployed is kind.bare and kind.deq is None and kind.states == 0


@pytest.mark.parametrize("model", [None, 3, "mdeq-nano", lambda x: x, nn.Linear])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(ValueError, match=r"allowed: a torch\.nn\.Module, logits = model\(images\)"):
        structure(model)


@every_wrapper
def test_a_wrapped_model_is_saved_as_the_model_itself_with_its_classes(tmp_path, wrap):
    model = create_model("mdeq-nano", 3, seed=0, steps=2).eval()
    model.classes = ("a", "b", "c")
    back = load_model(save_model(wrap(model), tmp_path))
    assert back.classes == ("a", "b", "c") and back.config == model.config
    assert torch.equal(back(images_for(back)), model(images_for(model)))
