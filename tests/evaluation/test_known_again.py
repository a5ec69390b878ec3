"""What tells a model, a defence and a view from others: a record of one is never taken for that of another."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from small_models import own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.defences import Defended
from robustdeq.evaluation import Entry

THREAT = rd.Linf(0.1)


class Plain(nn.Module):
    """A classifier that does ``change`` to its images."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.change = nn.Linear(64, 10), change

    def forward(self, x):
        return self.linear(self.change(x).flatten(1))


class Changed(Defended):
    """One that does so in front of another, and knows what by ``kept``."""

    def __init__(self, kept, change):
        super().__init__(Plain(lambda x: x))
        self.kept, self._change = kept, change

    def forward(self, x):
        return self.model(self._change(x))


def entries(view=None):
    pgd = PGD(THREAT, 0.03, 2)
    return [Entry("pgd", "PGD", pgd) if view is None else Entry("pgd", "PGD", pgd, view)]


@pytest.fixture(scope="module")
def points(digits):
    return digits.images(slice(20)), digits.labels[:20]


@pytest.mark.parametrize(
    ("one", "other"),
    [([0.5], [0.1, 0.9]), ({"a": 1}, {"a": 2}), ((1,), (2,)), (torch.zeros(2), torch.ones(2)), (None, 3)],
    ids=["list", "dict", "tuple", "tensor", "none"],
)
def test_a_defence_is_known_by_all_that_is_kept_on_it(one, other, points, tmp_path):
    options = {"suite": entries(), "checks": 0, "out": tmp_path}
    first = rd.evaluate(Changed(one, lambda x: x), *points, **options)
    again = rd.evaluate(Changed(one, lambda x: x), *points, **options)
    assert again.shares() == first.shares()
    with pytest.raises(ValueError, match=r"belongs to another defence\.settings\.kept"):
        rd.evaluate(Changed(other, lambda x: x), *points, **options)


def late(x):
    """The same images, but for those after the first, which are black."""
    return torch.cat([x[:1], 0 * x[1:]])


@pytest.mark.parametrize("made", [Plain, lambda change: Changed(Plain, change)], ids=["module", "defence"])
def test_a_function_inside_is_known_by_what_it_does_to_more_than_the_first_image(made, points, tmp_path):
    options = {"suite": entries(), "checks": 0, "out": tmp_path}
    rd.evaluate(made(lambda x: x), *points, **options)
    rd.evaluate(made(lambda x: x), *points, **options)
    with pytest.raises(ValueError, match="belongs to another peaks"):
        rd.evaluate(made(late), *points, **options)


def test_a_defence_that_answers_at_random_is_gone_on_with(points, tmp_path):
    noisy = Changed(1, lambda x: x + 0.1 * torch.randn_like(x))
    for _ in range(2):
        rd.evaluate(noisy, *points, suite=entries(), checks=0, out=tmp_path)


class Blurred(nn.Module):
    def __init__(self, model, share):
        super().__init__()
        self.model, self.share = model, share

    def forward(self, x):
        return self.model(x) + self.share * 1e3 * x.flatten(1)[:, :10]


def test_a_view_that_cannot_tell_what_it_does_is_never_taken_for_done(points, tmp_path):
    model = own(10, side=8, steps=3)

    def attacked(share, out):
        suite = entries(lambda judged: Blurred(judged, share))
        return rd.evaluate(model, *points, suite=suite, checks=0, out=out).record.attacks["pgd"]

    for share in (0, 1):
        again = attacked(share, tmp_path)
        assert again.options is None and again.outcomes.tolist() == attacked(share, None).outcomes.tolist()
    assert attacked(0, None).outcomes.tolist() != attacked(1, None).outcomes.tolist()


def test_what_an_attack_writes_into_its_arguments_is_not_what_it_is_verified_against(points):
    def far(model, x, y, *, indices):
        at = x.clone().requires_grad_()
        slope = torch.autograd.grad(F.cross_entropy(model(at), y, reduction="sum"), at)[0]
        return x.add_(0.5 * slope.sign()).clamp_(0, 1)

    def relabelled(model, x, y, *, indices):
        indices.fill_(0)
        y.add_(1).remainder_(10)
        return x

    model, (x, y) = Plain(lambda x: x), points
    y = model(x).argmax(1)
    images, labels = x.clone(), y.clone()
    entries = [Entry("far", "A", far), Entry("relabelled", "B", relabelled)]
    found = rd.evaluate(model, x, y, suite=entries, threat=rd.Linf(0.01), checks=0)
    assert found.record.attacks["far"].rejected == 20
    assert [found.shares()[column].count for column in ("A", "B")] == [20, 20]
    assert torch.equal(x, images) and torch.equal(y, labels)


def test_a_model_that_writes_into_its_images_leaves_the_caller_s_alone(points):
    def darker(x):
        return x.mul_(0.7) if not x.requires_grad else 0.7 * x

    x, y = points
    images = x.clone()
    kept, alone = (
        rd.evaluate(Plain(change), x, y, suite=entries(), checks=4, threat=THREAT)
        for change in (darker, lambda x: 0.7 * x)
    )
    assert torch.equal(x, images) and kept.shares()["clean"] == alone.shares()["clean"]


@dataclass(frozen=True)
class Mine(rd.Linf):
    """A threat of one's own."""

    name: ClassVar[str] = "mine"


def test_a_threat_of_one_s_own_is_on_record_by_its_name(points, tmp_path):
    found = rd.evaluate(Plain(lambda x: x), *points, suite="quick", steps=2, threat=Mine(0.1), checks=0, out=tmp_path)
    options = found.record.attacks["pgd-2"].options
    assert (options["threat"]["name"], options["threat"]["eps"], found.record.identity.norm) == ("mine", 0.1, "mine")
    assert rd.evaluation.Evaluation.read(tmp_path).table() == found.table()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_another_dtype_is_one_line(dtype, points):
    with pytest.raises(ValueError, match=r"the model, a Plain with weights of torch\.\w+ on cpu, cannot take"):
        rd.evaluate(Plain(lambda x: x).to(dtype), *points, suite=[], checks=0)
