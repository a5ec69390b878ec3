"""What every attack keeps through every view: ball and box, its seed, and the model as it was."""

import pytest
import torch
from small_models import images_for, left_untouched, lived_in, own
from torch import nn

from robustdeq import L2, DEQClassifier, EntropyReduction, Linf
from robustdeq.attacks import (
    APGD,
    PGD,
    AutoAttack,
    EndToEnd,
    Frozen,
    IntermediateState,
    JointOptimisation,
    Static,
    Summed,
    ThroughGradient,
    predictions,
)
from robustdeq.defences import EarlyState, Ensemble
from robustdeq.models.modes import evaluating

LINF, L_2 = Linf(0.2), L2(0.4)


def bare(classes, solver="picard"):
    """As training leaves it, and with parts that tell train mode from eval mode; there one image is an error."""
    model = own(classes, side=5, steps=3, solver=solver)
    model.readout = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5), model.readout)
    return lived_in(model)


def guarded(classes):
    return EntropyReduction(eps=0.05, step_size=0.02, updates=2)(bare(classes))


def both(defended):
    return Summed([Frozen(defended), EndToEnd(defended)])


def early_states(classes):
    model = bare(classes)
    return Summed([EarlyState(model, 1), EarlyState(model, 3)], deployed=model)


VIEWS = {
    "model": bare,
    "reversible": lambda classes: bare(classes, "reversible"),
    "EarlyState": lambda classes: EarlyState(bare(classes), 2),
    "Ensemble": lambda classes: Ensemble(bare(classes)),
    "ThroughGradient": lambda classes: ThroughGradient(bare(classes), {"name": "phantom", "unroll": 2}),
    "simultaneous": lambda classes: ThroughGradient(bare(classes, "broyden"), "simultaneous"),
    "early states": early_states,
    "IntermediateState": lambda classes: IntermediateState(bare(classes), state=2, unroll=1),
    "Summed": lambda classes: IntermediateState.several(bare(classes), states=(1, 3), unroll=1),
    "Summed defended": lambda classes: both(guarded(classes)),
    "defended": guarded,
    "Frozen": lambda classes: Frozen(guarded(classes)),
    "EndToEnd": lambda classes: EndToEnd(guarded(classes)),
    "Static": lambda classes: Static(guarded(classes)),
    "Static phantom": lambda classes: Static(guarded(classes), "phantom"),
}
ATTACKS = {
    "ce": PGD(LINF, 0.05, 2, restarts=2),
    "ce highest L2": PGD(L_2, 0.1, 2, restarts=2, keep="highest"),
    "ce last": PGD(LINF, 0.05, 2, keep="last"),
    "kl L2": PGD(L_2, 0.1, 2, loss="kl"),
    "kl last": PGD(LINF, 0.05, 2, loss="kl", start="gaussian", keep="last"),
    "dlr": PGD(LINF, 0.05, 2, loss="dlr", start="clean"),
    "dlr-targeted": PGD(LINF, 0.05, 2, loss="dlr-targeted", targets=2),
    "ce-targeted L2": PGD(L_2, 0.1, 2, loss="ce-targeted", targets=2),
    "ce-targeted highest": PGD(LINF, 0.05, 1, loss="ce-targeted", targets=2, restarts=2, keep="highest"),
    "pm": PGD(LINF, 0.05, 2, loss="pm"),
    "cw L2": PGD(L_2, 0.1, 2, loss="cw"),
    "cw-targeted nearest": PGD(LINF, 0.05, 2, loss="cw-targeted", targets=2, order="nearest"),
    "apgd": APGD(LINF, 2, restarts=2),
    "apgd dlr L2": APGD(L_2, 2, loss="dlr"),
    "apgd pm": APGD(LINF, 2, loss="pm"),
    "apgd cw nearest": APGD(LINF, 2, loss="cw-targeted", targets=2, order="nearest"),
    "apgd dlr-targeted": APGD(LINF, 2, loss="dlr-targeted", targets=2),
    "apgd targeted L2": APGD(L_2, 2, loss="ce-targeted", targets=2, stack=3),
    "autoattack": AutoAttack(LINF, attacks=["apgd-ce", "square"], iterations=2, queries=3),
    "square L2": AutoAttack(L_2, attacks=["square"], queries=3),
}


JOINT = {
    "joint": JointOptimisation(LINF, 3, restarts=2),
    "joint dlr L2": JointOptimisation(L_2, 3, loss="dlr"),
    "joint targeted": JointOptimisation(LINF, 3, loss="cw-targeted", targets=2, solver="anderson"),
}
"""Of a bare DEQ alone, whose fixed point they move."""


class ShortFAB(AutoAttack):
    def reference(self, model, x):
        made = super().reference(model, x)
        made.fab.n_iter = 2
        return made


PLUS = {
    "autoattack plus": ShortFAB(LINF, "plus", iterations=2, queries=3),
    "autoattack L2": ShortFAB(L_2, attacks=["fab-t", "apgd-t", "apgd-dlr"], iterations=2),
}
SOME = ["model", "Ensemble", "Summed", "EndToEnd"]
EVERY = {**ATTACKS, **PLUS, **JOINT}
TABLE = [
    (attack, view)
    for attack in [*ATTACKS, *PLUS]
    for view in VIEWS
    if view in SOME or attack in ("ce", "ce-targeted highest", "autoattack", "apgd")
]
TABLE += [(attack, view) for attack in JOINT for view in ("model", "reversible")]
"""Every attack through some views, and through every view some attacks."""


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


@pytest.mark.parametrize(("name", "view"), TABLE)
def test_stays_inside_has_a_seed_and_leaves_the_model_as_it_was(name, view):
    attack, seen = EVERY[name], VIEWS[view](5)
    torch.manual_seed(1)
    x, _, found = attacked(seen, attack, 3)
    torch.manual_seed(2)
    assert torch.equal(attacked(seen, attack, 3)[2], found)
    assert isinstance(attack, AutoAttack) or (found != x).any()


@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize(("name", "view"), [(n, v) for n in EVERY for v in ("model", "EndToEnd") if (n, v) in TABLE])
def test_one_image_and_few_or_many_classes(name, view, classes):
    attack, seen = EVERY[name], VIEWS[view](classes)
    if classes == 2 and name in ("dlr-targeted", "apgd dlr-targeted", *PLUS):
        with pytest.raises(ValueError, match=r"on 2 classes.*; allowed: (at least 4|attacks=\[...\])"):
            attacked(seen, attack, 1)
        return
    attacked(seen, attack, 1)


@pytest.mark.parametrize("name", [*JOINT, *(name for name, attack in ATTACKS.items() if isinstance(attack, APGD))])
def test_a_sample_has_the_image_that_it_has_alone(name):
    """Law 2; ``test_pgd_samples`` has it of PGD, and the reference's AutoAttack draws for a whole batch."""
    attack, model = EVERY[name], own(5, side=5, steps=3)
    x = images_for(model, 4)
    y, numbers = predictions(model(x)), torch.arange(4) + 7
    together = attack(model, x, y, indices=numbers)
    alone = [attack(model, x[i : i + 1], y[i : i + 1], indices=numbers[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
