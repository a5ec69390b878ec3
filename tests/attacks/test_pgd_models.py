"""What PGD asks of models, images, labels and options; a model that breaks down is left as it was."""

import pytest
import torch
from small_models import Linear, Watched, images, images_for, left_untouched, lived_in, nano, own
from torch import nn

from robustdeq import L2, Linf, create_model
from robustdeq.attacks import LOSSES, PGD, AutoAttack, predictions
from robustdeq.attacks.pgd import KEEPS

NAMES = list(LOSSES)


def zeros(count):
    return torch.zeros(count, dtype=torch.long)


@pytest.mark.parametrize("fail_at", [0, 1, 3])
@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_leaves_the_model_as_it_was_when_it_breaks_down(fail_at, loss):
    model = Watched(nano(steps=2), fail_at)
    lived_in(model)
    with left_untouched(model), pytest.raises(RuntimeError, match="broken down"):
        PGD(Linf(0.05), 2 / 255, steps=5, loss=loss)(model, images_for(model.inner), zeros(3))


def test_images_and_labels_are_left_alone():
    model, y = own(), torch.tensor([0, 1, 2])
    x = images(3).requires_grad_()
    before = x.detach().clone()
    for attack in (PGD(Linf(0.1), steps=2), PGD(Linf(0.1), steps=0, start="clean", keep="last")):
        found = attack(model, x, y)
        assert not found.requires_grad and x.grad is None
        found.zero_()
        assert torch.equal(x, before) and y.tolist() == [0, 1, 2]


def test_works_under_no_grad():
    model = own()
    wanted = PGD(Linf(0.05), steps=3)(model, images(3), zeros(3))
    with torch.no_grad():
        assert torch.equal(PGD(Linf(0.05), steps=3)(model, images(3), zeros(3)), wanted)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("classes", [2, 3, 4, 100])
@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("threat", [Linf(0.3), L2(2.0)])
def test_every_loss_breaks_any_batch_of_any_number_of_classes(batch, classes, loss, threat):
    model, x = Linear.random(classes), images(batch)
    with torch.no_grad():
        y = predictions(model(x))
    attack = PGD(threat, step_size=threat.eps / 4, steps=20, loss=loss)
    if loss == "dlr-targeted" and classes < 4:
        with pytest.raises(ValueError, match=rf"dlr-targeted' on {classes} classes; allowed: at least 4"):
            attack(model, x, y)
        return
    found = attack(model, x, y)
    with torch.no_grad():
        broken = predictions(model(found)) != y
    assert broken.all() or loss == "kl"  # which also rises with ever more confident predictions


def test_any_module_of_logits():
    """An explicit network, and images that lie in another memory order."""
    model = create_model("resnet18", seed=0, num_classes=4).eval()
    x = images(2, shape=(3, 32, 32)).contiguous(memory_format=torch.channels_last)
    found = PGD(L2(0.5), 0.1, 2)(model, x, torch.tensor([0, 1]))
    assert L2(0.5).contains(x, found).all()
    assert (found != x).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)])
def test_no_images_at_all(threat, keep, loss):
    if keep == "last" and loss.endswith("targeted"):
        return
    assert PGD(threat, loss=loss, keep=keep)(own(), images(0), zeros(0)).shape == (0, 1, 4, 4)


def test_a_model_without_a_gradient_is_no_success():
    """A detached output must not pass as a robust model."""

    class Detached(nn.Module):
        def forward(self, x):
            return Linear.random(3)(x).detach()

    with pytest.raises(ValueError, match="PGD: Detached gives logits without a gradient"):
        PGD(Linf(0.1))(Detached(), images(3), predictions(Detached()(images(3))))


ATTACKS = {
    "pgd": PGD(Linf(0.1), steps=1),
    "pgd-kl": PGD(Linf(0.1), steps=1, loss="kl"),
    "pgd-targeted": PGD(Linf(0.1), steps=1, loss="ce-targeted"),
    "pgd-highest": PGD(Linf(0.1), steps=1, keep="highest"),
    "pgd-last": PGD(Linf(0.1), steps=1, keep="last"),
    "autoattack": AutoAttack(Linf(0.1), attacks=["apgd-ce"]),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        (images(2) + 0.5, zeros(2), r"images lie in .*; allowed: \[0, 1\]"),
        (images(2) - 0.5, zeros(2), r"images lie in .*; allowed: \[0, 1\]"),
        ((255 * images(2)).byte(), zeros(2), "torch.uint8; allowed: a floating-point tensor"),
        (images(2)[0], zeros(1), r"shape \(1, 4, 4\); allowed: \(batch"),
        (images(2).numpy(), zeros(2), "ndarray; allowed"),
        (images(2), torch.tensor([0, 3]), r"labels lie in 0..3; allowed: 0..2"),
        (images(2), torch.tensor([-1, 0]), r"labels lie in -1..0; allowed: 0..2|allowed: 0..the number"),
        (images(2), zeros(2).int(), r"labels are torch.int32 .*; allowed: int64 of shape \(2,\)"),
        (images(2), zeros(2).float(), r"labels are torch.float32"),
        (images(2), zeros(3), r"of shape \(3,\); allowed: int64 of shape \(2,\)"),
        (images(2), torch.eye(2).long(), r"of shape \(2, 2\); allowed: int64 of shape \(2,\)"),
        (images(2), [0, 1], "labels are list; allowed"),
    ],
)
def test_bad_images_and_labels_are_named(attack, x, y, why):
    with pytest.raises(ValueError, match=why):
        attack(own(), x, y)


@pytest.mark.parametrize(
    ("indices", "why"),
    [
        (torch.tensor([1]), r"indices are torch.int64 of shape \(1,\); allowed: int64 of shape \(2,\)"),
        (torch.tensor([1.0, 2.0]), "indices are torch.float32"),
        (torch.tensor([-1, 2]), r"indices lie in -1..2; allowed: whole numbers >= 0"),
        ([1, 2], "indices are list"),
    ],
)
def test_bad_indices_are_named(indices, why):
    with pytest.raises(ValueError, match=why):
        PGD(Linf(0.1))(own(), images(2), zeros(2), indices=indices)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"threat": 8 / 255}, r"PGD: threat=0.03\d*; allowed: Linf\(eps\) or L2\(eps\)"),
        ({"step_size": -0.1}, "PGD: step_size=-0.1; allowed: a number >= 0"),
        ({"step_size": float("nan")}, "step_size=nan"),
        ({"steps": -1}, "steps=-1; allowed: a whole number >= 0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"restarts": 0}, "restarts=0; allowed: a whole number >= 1"),
        ({"targets": 0}, "targets=0"),
        ({"seed": -1}, "seed=-1"),
        ({"loss": "dlr-target"}, "unknown loss 'dlr-target' .did you mean 'dlr-targeted'"),
        ({"start": "unifrom"}, "did you mean 'uniform'"),
        ({"keep": "lst"}, "did you mean 'last'"),
        ({"keep": "last", "restarts": 2}, "keep='last', restarts=2.*allowed: 'worst'"),
        ({"start": "clean", "restarts": 3}, "start='clean', restarts=3, all of them the same run"),
        ({"keep": "last", "loss": "ce-targeted"}, "keep='last'.*allowed: 'worst'"),
    ],
)
def test_bad_options_are_named(options, why):
    with pytest.raises(ValueError, match=why):
        PGD(**{"threat": Linf(0.1), **options})


def test_an_unknown_option_is_refused():
    with pytest.raises((TypeError, ValueError), match="stepsize"):
        PGD(Linf(0.1), stepsize=0.1)
