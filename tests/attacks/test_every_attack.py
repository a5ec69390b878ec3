"""What every attack keeps through every view: ball and box, its seed, and the model as it was."""

import pytest
import torch
from attack_table import ATTACKS, SOLVERS, VIEWS, views_of
from small_models import images_for, left_untouched, lived_in, own
from torch import nn

from robustdeq import DEQClassifier
from robustdeq.attacks import APGD, AutoAttack, JointOptimisation, autoattack, predictions
from robustdeq.models.modes import evaluating


@pytest.fixture(autouse=True)
def short_fab(monkeypatch):
    monkeypatch.setattr(autoattack, "FAB", 2)


def seen_through(view, classes):
    """A model as training leaves it, with parts that tell train from eval mode; in train mode one image is an error."""
    model = own(classes, side=5, steps=3, solver=SOLVERS.get(view, "picard"))
    model.readout = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5), model.readout)
    return VIEWS[view](lived_in(model))


def attacked(view, attack, count):
    """Images, labels and the images found; no parameter asked for a gradient in any forward, and nothing is changed."""
    (model,) = (part for part in view.modules() if isinstance(part, DEQClassifier))
    asking = []
    hook = model.inject.register_forward_hook(
        lambda *_: asking.append(any(parameter.requires_grad for parameter in view.parameters()))
    )
    x = images_for(model, count)
    with torch.no_grad(), evaluating(view):
        y = predictions(getattr(view, "deployed", view)(x))
    asking.clear()
    with left_untouched(view):
        found = attack(view, x, y, indices=torch.arange(count) + 7)
    hook.remove()
    assert asking and not any(asking)
    assert found.shape == x.shape and not found.requires_grad and attack.threat.contains(x, found).all()
    return x, y, found


@pytest.mark.parametrize(("name", "view"), [(name, view) for name in ATTACKS for view in views_of(name)])
def test_stays_inside_has_a_seed_and_leaves_the_model_as_it_was(name, view):
    attack, seen = ATTACKS[name], seen_through(view, 5)
    torch.manual_seed(1)
    x, _, found = attacked(seen, attack, 3)
    torch.manual_seed(2)
    assert torch.equal(attacked(seen, attack, 3)[2], found)
    assert isinstance(attack, AutoAttack) or (found != x).any()


@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize(("name", "view"), [(n, v) for n in ATTACKS for v in ("model", "EndToEnd") if v in views_of(n)])
def test_one_image_and_few_or_many_classes(name, view, classes):
    attack, seen = ATTACKS[name], seen_through(view, classes)
    needs = max(map(autoattack.CLASSES.get, attack.names)) if isinstance(attack, AutoAttack) else 2
    if classes < needs or (classes == 2 and getattr(attack, "loss", "") == "dlr-targeted"):
        with pytest.raises(ValueError, match=r"on 2 classes.*; allowed: (at least 4|attacks=\[...\])"):
            attacked(seen, attack, 1)
        return
    attacked(seen, attack, 1)


@pytest.mark.parametrize("name", [n for n, attack in ATTACKS.items() if isinstance(attack, APGD | JointOptimisation)])
def test_a_sample_has_the_image_that_it_has_alone(name):
    """Law 2; ``test_pgd_samples`` has it of PGD, and the reference's AutoAttack draws for a whole batch."""
    attack, model = ATTACKS[name], own(5, side=5, steps=3)
    x = images_for(model, 4)
    y, numbers = predictions(model(x)), torch.arange(4) + 7
    together = attack(model, x, y, indices=numbers)
    alone = [attack(model, x[i : i + 1], y[i : i + 1], indices=numbers[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
