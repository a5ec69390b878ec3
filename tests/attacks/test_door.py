"""What an attack is given, and what the model gives it: one line of ours for whatever does not fit."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import Linear, Shifted, images, nano, own
from torch import nn

from robustdeq.analysis.detector import Evading
from robustdeq.attacks import L2, PGD, AutoAttack, EndToEnd, IntermediateState, Linf, Summed, predictions
from robustdeq.defences import EntropyReduction
from robustdeq.evaluation.suites import Budget
from robustdeq.recipes import recipe
from robustdeq.training import TrainConfig

X, Y = images(3), torch.tensor([0, 1, 2])
ATTACKS = {
    "pgd": PGD(Linf(0.1), steps=1),
    "last": PGD(L2(0.5), steps=1, keep="last"),
    "kl": PGD(Linf(0.1), steps=1, loss="kl"),
    "targeted": PGD(L2(0.1), steps=1, loss="ce-targeted"),
    "apgd": AutoAttack(Linf(0.1), attacks=["apgd-ce"], iterations=2),
    "square": AutoAttack(Linf(0.1), attacks=["square"], queries=2),
}
every = pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))


class Gives(nn.Module):
    """A classifier whose logits go through a function."""

    def __init__(self, last):
        super().__init__()
        self.inner, self.last = Linear.random(3), last

    def forward(self, x):
        return self.last(self.inner(x))


class Output(dict):
    """Like the outputs of transformers: a dict with attributes."""


NO_LOGITS = {
    "a tuple": lambda logits: (logits,),
    "a list": lambda logits: [logits],
    "a dict": lambda logits: {"logits": logits},
    "a Output": lambda logits: Output(logits=logits),
    "a NoneType": lambda logits: None,
    "a ndarray": lambda logits: logits.detach().numpy(),
    "a float": lambda logits: logits.sum().item(),
    r"torch.float32 of shape \(\d,\)": lambda logits: logits[:, 0],
    r"torch.float32 of shape \(\d, 1\)": lambda logits: logits[:, :1],
    r"torch.float32 of shape \(\d, 0\)": lambda logits: logits[:, :0],
    r"torch.float32 of shape \(\d, 3, 1, 1\)": lambda logits: logits[..., None, None],
    r"torch.float32 of shape \(\d, 3\)": lambda logits: torch.cat([logits, logits]),
    r"torch.float32 of shape \(\)": lambda logits: logits.sum(),
    "torch.int64 of shape": lambda logits: logits.long(),
    "torch.bool of shape": lambda logits: logits > 0,
    "torch.complex64 of shape": lambda logits: logits + 0j,
}


def refused(call, match):
    with pytest.raises(ValueError, match=match) as seen:
        call()
    assert len(str(seen.value).splitlines()) <= 2


@every
@pytest.mark.parametrize(("kind", "last"), NO_LOGITS.items())
def test_what_is_no_logits_is_named_with_its_module(attack, kind, last):
    why = rf"{type(attack).__name__}: Gives gives {kind}.*; allowed: a floating-point"
    refused(lambda: attack(Gives(last), X, Y), why)


@pytest.mark.parametrize(("kind", "last"), NO_LOGITS.items())
def test_the_deployed_model_of_a_view_is_asked_the_same(kind, last):
    refused(lambda: Summed([Shifted(Gives(last), 0.0)])(X), rf"Summed: Gives gives {kind}")


@pytest.mark.parametrize("logits", [None, (X,), X, torch.zeros(3), np.zeros((3, 3))])
def test_predictions_are_of_logits(logits):
    refused(lambda: predictions(logits), r"predictions: logits are .*; allowed: a tensor \(B, K\)")


@pytest.mark.parametrize("last", [torch.Tensor.detach, lambda logits: torch.zeros(len(logits), 3)])
@pytest.mark.parametrize("attack", [ATTACKS[name] for name in ("pgd", "last", "kl", "targeted", "apgd")])
def test_logits_without_a_gradient_are_refused(attack, last):
    model = Gives(last)
    why = "Gives gives logits without a gradient; allowed: .*no detach"
    refused(lambda: attack(model, X, predictions(model(X))), why)


@every
@pytest.mark.parametrize("model", [None, 5, "resnet", nn.Linear, lambda x: x.flatten(1), [own()], np.zeros(3)])
def test_the_model_is_a_module(attack, model):
    refused(lambda: attack(model, X, Y), f"{type(attack).__name__}: the model is .*; allowed: a torch.nn.Module")


WRONG_IMAGES = {
    "images are NoneType": None,
    "images are list": X.tolist(),
    "images are ndarray": X.numpy(),
    "images are torch.uint8": (X * 255).byte(),
    r"images lie in \[.*divide 8-bit pixels by 255": X * 255,
    r"images have shape \(1, 4, 4\)": X[0],
    "meta": X.to("meta"),
    "torch.sparse_coo": X.to_sparse(),
}


@every
@pytest.mark.parametrize(("why", "x"), WRONG_IMAGES.items())
def test_wrong_images(attack, why, x):
    refused(lambda: attack(own(), x, Y), why)


WRONG_NUMBERS = [
    None, 5, "0", [0, 1, 2], Y.numpy(), Y.int(), Y.float(), Y[:2], Y[None], Y - 1, Y.to("meta"), Y.to_sparse(),
]  # fmt: skip


@every
@pytest.mark.parametrize("numbers", WRONG_NUMBERS, ids=str)
def test_wrong_labels_and_indices(attack, numbers):
    refused(lambda: attack(own(), X, numbers), "labels (are|lie)")
    if numbers is not None:
        refused(lambda: attack(own(), X, Y, indices=numbers), "indices (are|lie)")


@every
def test_labels_beyond_the_classes(attack):
    refused(lambda: attack(own(), X, Y + 1), r"labels lie in 1\.\.3; allowed: 0\.\.2")


@every
@pytest.mark.parametrize(
    ("args", "options", "why"),
    [
        ((), {}, "missing a required argument: 'model'"),
        ((1, 2), {}, "missing a required argument: 'y'"),
        ((1, 2, 3, 4), {}, "too many positional arguments"),
        ((1, 2, 3), {"index": 4}, "unexpected keyword argument 'index'"),
    ],
)
def test_a_call_is_model_images_labels(attack, args, options, why):
    why = rf"{type(attack).__name__}: .*{why}.*; allowed: attack\(model, x, y, indices="
    refused(lambda: attack(*args, **options), why)


@every
@pytest.mark.parametrize("make", [lambda: own(), lambda: Linear.random(3), lambda: nn.Sequential(own())])
def test_images_that_do_not_fit_the_weights(attack, make):
    fits = attack(make().double(), X.double(), Y) if isinstance(attack, PGD) else X.double()
    assert fits.dtype == torch.float64
    refused(lambda: attack(make().double(), X, Y), r"torch.float64.*cannot take torch.float32")
    refused(lambda: attack(make(), X.double(), Y), r"torch.float32")
    refused(lambda: attack(make().to("meta"), X, Y), "weights of torch.float32 on meta, cannot take")
    refused(lambda: attack(make(), images(3, shape=(1, 5, 5)), Y), r"\(3, 1, 5, 5\)|\(1, 1, 5, 5\)")


@every
def test_weights_of_inference_mode_are_named(attack):
    with torch.inference_mode():
        model = own()
    refused(lambda: attack(model, X, Y), "the model's weights were made in torch.inference_mode")


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype, "an attack has changed torch's default"
    finally:
        torch.set_default_dtype(before)


MODELS = {
    "own": own,
    "nano": nano,
    "defended": lambda: EndToEnd(EntropyReduction(updates=1)(own())),
    "summed": lambda: IntermediateState.several(own(), [1, 2]),
}
AROUND = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "half by default": lambda: default_dtype(torch.half),
    "no grad": torch.no_grad,
    "inference mode": torch.inference_mode,
}
FAB = {"fab": AutoAttack(Linf(0.1), attacks=["fab"]), "gaussian": PGD(L2(0.5), steps=1, start="gaussian")}


@pytest.mark.parametrize("around", AROUND.values(), ids=list(AROUND))
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
@pytest.mark.parametrize("attack", [*ATTACKS.values(), FAB["gaussian"]], ids=[*ATTACKS, "gaussian"])
def test_the_numbers_do_not_depend_on_what_is_set_around_an_attack(attack, make, around):
    model = make()
    x = images(3, shape=(1, 8, 8) if make is nano else (1, 4, 4))
    y = predictions(getattr(model, "deployed", model)(x))
    wanted = attack(model, x, y, indices=Y)
    with around():
        made = attack(model, x.clone(), y.clone(), indices=Y.clone())
    assert torch.equal(made, wanted) and made.dtype == wanted.dtype
    assert not made.is_inference() and not made.requires_grad


def test_fab_does_not_depend_on_the_default_dtype():
    model = own()
    y = predictions(model(X))
    wanted = FAB["fab"](model, X, y)
    with default_dtype(torch.float64):
        assert torch.equal(FAB["fab"](model, X, y), wanted)


@every
def test_images_and_labels_of_inference_mode_are_attacked_outside_of_it(attack):
    wanted = attack(own(), X, Y)
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
    assert torch.equal(attack(own(), x, y), wanted)


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
@pytest.mark.parametrize("attack", [*ATTACKS.values(), PGD(Linf(0.1), steps=1, loss="dlr")], ids=[*ATTACKS, "dlr"])
def test_works_in_autocast(attack, make):
    model = make()
    x = images(3, shape=(1, 8, 8) if make is nano else (1, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        made = attack(model, x, predictions(getattr(model, "deployed", model)(x)))
    assert made.dtype == x.dtype and attack.threat.contains(x, made).all()


@every
@pytest.mark.parametrize("dtype", [torch.half, torch.float64])
def test_logits_of_another_dtype_than_the_images(attack, dtype):
    model = Gives(lambda logits: logits.to(dtype))
    assert attack(model, X, predictions(model(X))).dtype == torch.float32


@every
def test_no_images(attack):
    none, labels = images(0), torch.zeros(0, dtype=torch.int64)
    assert attack(own(), none, labels, indices=labels).shape == none.shape
    refused(lambda: attack(own(), none, Y), r"labels are .*; allowed: int64 of shape \(0,\)")


@pytest.mark.parametrize("seed", [True, "0", None, -1, 0.5, 2**63, 2**70, float("nan"), np.int64(3), torch.tensor(3)])
def test_a_seed_is_one_that_torch_takes(seed):
    refused(lambda: PGD(Linf(0.1), seed=seed), r"PGD: seed=.*; allowed: (a whole number in )?0\.\.9223372036854775807")


@pytest.mark.parametrize("value", [True, "x", "8/0", -1, float("nan"), float("inf"), [0.1], torch.tensor(0.1)])
def test_a_step_size_is_a_distance(value):
    refused(lambda: PGD(Linf(0.1), step_size=value), "PGD: step_size=.*; allowed: a number")
    assert PGD(Linf(0.1), step_size="2/255").step_size == 2 / 255


def test_a_step_is_a_quarter_of_eps_unless_it_is_said():
    """Of an L2 ball of 1 steps of two pixel values would never reach the boundary."""
    for threat in (Linf(8 / 255), Linf(0.15), L2(1.0)):
        config = TrainConfig(phases=[{"epochs": 1, "attack_steps": 2}], threat=threat)
        owners = [PGD(threat), Evading(threat), Budget(threat).pgd, config.phases[0]]
        assert [owner.step_size for owner in owners] == [threat.eps / 4] * 4
    assert EntropyReduction(eps=0.2).step_size == 0.05 and EntropyReduction().step_size == 2 / 255
    for attack in (PGD(Linf(8 / 255)), Evading(L2(2.0))):  # it follows the ball
        assert replace(attack, threat=L2(1.0)).step_size == 0.25
    assert replace(PGD(Linf(0.1), 0.01), threat=L2(1.0)).step_size == 0.01
    plain = recipe("smoke").changed({"phases": [{"epochs": 1, "attack_steps": 2}]}).changed({"eps": 0.6})
    assert plain.training.phases[0].step_size == 0.15
