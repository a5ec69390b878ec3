"""Attacks of ART, the Adversarial Robustness Toolbox, an optional library: ``pip install 'robustdeq[art]'``."""

from __future__ import annotations

import copy
import importlib
import inspect
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import Count
from ..options import check_options, checked
from .threat import Linf
from .wrapped import Given, Seen, Wrapped

CLOCK = ("HopSkipJump", "BoundaryAttack", "BrendelBethge")
"""Attacks of ART 1.20.1 with a generator of their own that nobody can seed."""

OF_PROBABILITIES = ("SimBA", "VirtualAdversarialMethod")
"""Attacks of ART that see probabilities, the others logits."""


@checked
@dataclass(frozen=True)
class ART(Wrapped):
    """x_adv = attack(model, x, y), by an evasion attack of ART, as ``ART(L2(0.5), "SimBA", {"attack": "px"})``.

    attack: the name of a class in ``art.attacks.evasion`` with its options, without the classifier; or an attack
    object, without options, of which a copy attacks the model given here instead of its own. Where they are not given,
    norm and eps are the threat's. What it finds is projected into the ball. A targeted attack aims at the likeliest
    wrong class. SimBA and VirtualAdversarialMethod see probabilities, the others logits. Images that are wrong already
    are given back as they are. Through a view the deployed logits are attacked with the view's gradient.

    A patch changes some pixels by any amount, so it is in no smaller ball than Linf(1), which is the only threat it is
    taken with: an evaluation of its own, whose number is about this patch alone and no robust accuracy of any ball. Its
    size is the option scale_max, the diameter as a share of the image's side. AdversarialPatchNumpy needs no
    torchvision. GeoDA needs numpy 1.

    seed, batch_size: a batch's generators are seeded by the seed and the number of its first sample. With batch_size 1,
    the default, a sample's result depends on no other sample, and a patch is made for each image; with more, one for
    all, and attacks by gradients are faster. ART's HopSkipJump, BoundaryAttack and BrendelBethge take their start from
    the clock, so they are not repeatable; those of foolbox are.
    """

    batch_size: Count = 1
    package: ClassVar[tuple[str, str, str]] = ("art.attacks.evasion", "adversarial-robustness-toolbox", "art")
    base: ClassVar[tuple[str, str]] = ("art.attacks", "EvasionAttack")

    def __post_init__(self) -> None:
        super().__post_init__()
        cls = self.kind()
        check_options(cls.__name__, self.options, list(inspect.signature(cls).parameters)[1:])
        norm = getattr(self.attack.made, "norm", None) if isinstance(self.attack, Given) else self.options.get("norm")
        self.check_norm(cls.__name__, norm)
        if cls.__name__ in CLOCK:
            advice = "another run finds other images; foolbox's takes it from the seed"
            warnings.warn(f"ART: {cls.__name__} takes its start from the clock: {advice}.", stacklevel=4)
        if hasattr(cls, "apply_patch") and self.threat != Linf(1.0):
            raise ValueError(f"ART: a patch within {self.threat}; allowed: Linf(1), in an evaluation of its own.")

    def found(self, seen: Seen, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        estimators: Any = importlib.import_module("art.estimators.classification")
        cls = self.kind()
        model = Seen(lambda images: seen(images).softmax(1)) if cls.__name__ in OF_PROBABILITIES else seen
        shape, classes = tuple(x.shape[1:]), logits.shape[1]
        classifier = estimators.PyTorchClassifier(
            model, nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0), device_type="cpu"
        )  # the model moves the images to its own device
        if hasattr(cls, "apply_patch"):  # ART 1.20.1 takes its first patch from numbers of Python, and has numpy's here
            classifier._clip_values = (0.0, 1.0)
        if isinstance(self.attack, Given):
            old = self.attack.made.estimator
            attack = copy.deepcopy(self.attack.made, {id(old): classifier, id(getattr(old, "model", old)): model})
        else:
            norm = "inf" if isinstance(self.threat, Linf) else 2
            attack = self.make(cls, classifier, norm=norm, eps=self.threat.eps, verbose=False)
        if attack.targeted or cls.__name__ == "AdversarialPatchNumpy":  # which takes every label for a target
            y = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        images, labels = x.cpu().numpy(), nn.functional.one_hot(y, classes).float().cpu().numpy()
        made = attack.generate(x=images.copy(), y=labels)
        if hasattr(attack, "apply_patch"):  # generate made the patch and its mask
            made = attack.apply_patch(images.copy(), scale=getattr(attack, "_attack", attack).scale_max)
        return torch.from_numpy(np.asarray(made, dtype=np.float32))
