"""What is evaluated: a model below its wrappers, or an opaque one that says so; and what is refused at the door."""

from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from sharded import timeless
from small_models import Linear, images_for, own
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import robustdeq as rd
from robustdeq.data import ImageSet
from robustdeq.evaluation import Entry
from robustdeq.models.structure import Defended

THREAT = rd.Linf(0.1)


@pytest.fixture(scope="module")
def model():
    return own(4, steps=3, sharpness=8.0)


@pytest.fixture(scope="module")
def points(model):
    x = images_for(model, 6)
    return x, model(x).argmax(1)


def _evaluate(model, points, **options):
    return rd.evaluate(model, *points, **{"suite": "quick", "steps": 2, "threat": THREAT, "checks": 0, **options})


@contextmanager
def _one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_wrappers_that_compute_the_same_are_looked_through(model, points):
    defended = rd.EntropyReduction(eps=0.1, updates=1)(model)
    with _one_process():
        for bare in (model, defended):
            wanted = timeless(_evaluate(bare, points).record.to_json())
            wanted.pop("cost")
            kinds = (DataParallel, DistributedDataParallel, torch.compile, nn.Sequential)
            for wrapped in [kind(bare) for kind in kinds] + [nn.Sequential(DataParallel(bare))]:
                record = timeless(_evaluate(wrapped, points).record.to_json())
                record.pop("cost")
                assert record == wanted, type(wrapped)


class Hiding(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(1 - x)


@pytest.mark.parametrize("defend", [False, True])
def test_a_module_that_hides_one_is_refused_or_said_to_be_opaque(defend, model, points, tmp_path):
    inner = rd.EntropyReduction(eps=0.1, updates=1)(model) if defend else model
    hiding = Hiding(inner)
    with pytest.raises(ValueError, match=f"hides a {type(inner).__name__}.*opaque=True"):
        _evaluate(hiding, points, out=tmp_path)
    assert not list(tmp_path.iterdir())
    for suite in ("quick", "standard"):
        budget = {} if suite == "quick" else {"iterations": 2, "queries": 3}
        found = _evaluate(hiding, points, opaque=True, out=tmp_path, suite=suite, **budget)
        assert found.record.opaque and rd.Evaluation.read(tmp_path).record.opaque
        assert "The model is opaque" in found.table() and found.to_dict()["opaque"]
        assert set(found.columns.values()) <= {"PGD", "AA"} and found.robustbench()["autoattack_acc"] is None
    plain = _evaluate(Linear.random(4), points, opaque=True)
    assert not plain.record.opaque and "opaque" not in plain.table()


def test_classes_that_differ_are_refused():
    model = own(3)
    images = ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog", "eel"), "pets")
    given = {"suite": [], "threat": THREAT, "checks": 0}
    for names, message in (
        (("cat", "eel", "dog"), "class 1 is 'eel' to the model and 'dog' in the images"),
        (("cat", "dog"), "class 2 is None to the model and 'eel'"),
        (("cat", "dog", "eel"), None),
        (None, None),
    ):
        model.classes = names
        for module in (model, rd.EntropyReduction(updates=1)(model)):
            if message is None:
                rd.evaluate(module, images, **given)
            else:
                with pytest.raises(ValueError, match=message):
                    rd.evaluate(module, images, **given)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda logits: logits[:, :1], r"shape \(1, 1\) on cpu; allowed: a floating-point tensor of logits"),
        (lambda logits: logits.argmax(1), r"torch.int64 of shape \(1,\)"),
        (lambda logits: (logits,), "gives a tuple"),
        (lambda logits: logits.mean(0, keepdim=True).expand(2, -1), r"shape \(2, 10\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused_before_anything_is_written(spoil, message, tmp_path):
    class Spoilt(Linear):
        def forward(self, x):
            return spoil(super().forward(x))

    model = Spoilt(torch.randn(10, 16))
    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=message) as error:
        rd.evaluate(model, x, y, suite="quick", out=tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_takes_gradients_wherever_it_is_called(mode, model, points):
    wanted = timeless(_evaluate(model, points, checks=3).record.to_json())
    with mode():
        x = points[0].clone()
        inside = _evaluate(model, (x, points[1].clone()), checks=3)
        assert not torch.is_grad_enabled()
    assert timeless(inside.record.to_json()) == wanted


def test_an_attack_takes_indices_and_gives_images(model, points):
    with pytest.raises(
        ValueError, match=r"^Entry mine: function cannot be called as attack\(module, x, y, indices=...\)"
    ):
        Entry("mine", "PGD", lambda module, x, y: x)
    for given in (None, points[0][:1]):
        entry = Entry("mine", "PGD", lambda module, x, y, indices, given=given: given)
        with pytest.raises(ValueError, match=r"^function gives .*; allowed: images \(6, "):
            rd.evaluate(model, *points, suite=[entry], threat=THREAT, checks=0)


class Half(Defended):
    pass


def test_a_defence_has_a_forward_and_options_that_can_be_told(model, points):
    with pytest.raises(
        NotImplementedError, match=r"Half has no forward\(x\), which gives the deployed logits; write one"
    ):
        Half(model)(points[0])
    for method in (object(), 5, "x", rd.EntropyReduction):
        with pytest.raises(ValueError, match=r"Half: method is .*; allowed: a dataclass, options by name, or None"):
            Half(model, method)
    assert Half(model, {"eps": 1}).settings == {"eps": 1}
