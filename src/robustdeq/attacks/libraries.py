"""Attacks of foolbox (Rauber et al. 2020) and of ART, the Adversarial Robustness Toolbox. Both are optional libraries:
``pip install 'robustdeq[foolbox]'`` and ``'robustdeq[art]'``."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import Count
from ..options import check_options, checked
from .autoattack import LOGGER
from .threat import Linf
from .wrapped import AttackObject, Seen, Wrapped

CLOCK = ("HopSkipJump", "BoundaryAttack", "BrendelBethge")
"""Attacks of ART 1.20.1 with a generator of their own that nobody can seed."""

OF_PROBABILITIES = ("SimBA", "VirtualAdversarialMethod")
"""Attacks of ART that see probabilities, the others logits."""


@checked
@dataclass(frozen=True)
class Foolbox(Wrapped):
    """x_adv = attack(model, x, y), by an attack of foolbox, as ``Foolbox(L2(0.5), "FMN", {"steps": 100})``.

    attack: the name of a class in ``foolbox.attacks``, which may lack the norm in front and "Attack" at the end (FMN,
    DDN, HopSkipJump, DeepFool, PGD), with its options; or an attack object, without options. Its norm must be the
    threat's; where it can be chosen, it is. An attack that searches for the smallest perturbation is not told eps: what
    it finds is projected into the ball, so a sample whose perturbation is larger hardly ever falls. A sample for which
    a decision-based attack finds no start stands, with a warning. Images that are wrong already are given back as they
    are. Through a view the deployed logits are attacked with the view's gradient.

    seed, batch_size: a batch's generators are seeded by the seed and the number of its first sample. So an attack that
    draws random numbers depends on the batch, unless batch_size is 1, which is slow; FMN and DDN draw none.
    """

    package: ClassVar[tuple[str, str, str]] = ("foolbox.attacks", "foolbox", "foolbox")
    base: ClassVar[str] = "foolbox.attacks:Attack"

    def __post_init__(self) -> None:
        super().__post_init__()
        attack = self._attack()
        with suppress(AttributeError):  # an attack without a distance, as a rotation
            self.check_norm(type(attack).__name__, attack.distance.p)

    def generate(self, seen: Seen, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        foolbox: Any = importlib.import_module("foolbox")
        model, attack = foolbox.PyTorchModel(seen, bounds=(0, 1), device=x.device), self._attack()
        minimal = isinstance(getattr(attack, "attack", attack), foolbox.attacks.base.MinimizationAttack)

        def run(rows: slice) -> Tensor | None:
            """None where one of the images has no start, which fails its whole batch."""
            criterion = foolbox.criteria.Misclassification(y[rows])
            try:
                return attack(model, x[rows], criterion, epsilons=None if minimal else self.threat.eps)[0]
            except ValueError as error:
                if "init_attack failed" not in str(error):
                    raise
                return None

        if (together := run(slice(None))) is not None:
            return together
        alone = [run(slice(row, row + 1)) for row in range(len(x))]
        images = torch.cat([x[[row]] if one is None else one for row, one in enumerate(alone)])
        failed = sum(one is None for one in alone)
        text = "%s found no start for %d of %d samples; they count as standing."
        logging.getLogger(LOGGER).warning(text, type(attack).__name__, failed, len(x))
        return images

    def _attack(self) -> Any:
        """An object of foolbox."""
        norm, distances = self.threat.name, vars(importlib.import_module("foolbox.distances"))
        if isinstance(self.attack, AttackObject):
            attack = copy.copy(self.attack.object)
        else:
            cls = self.kind((f"{norm}{{}}Attack", f"{norm}{{}}", "{}Attack", "{}"))
            attack = self.make(cls, constraint=norm.lower(), distance=distances.get(norm.lower()))
        if type(attack).__name__ in ("L2FMNAttack", "LInfFMNAttack"):
            # Its radius is where a linear model has its boundary: it would stay there for ever, and find nothing.
            project = _into_ball if type(attack).__name__ == "L2FMNAttack" else attack.project
            attack.project = lambda x, x0, epsilon: project(x, x0, 1.001 * epsilon)
        return attack


def _into_ball(x: Any, x0: Any, epsilon: Any) -> Any:
    """The projection of ``L2FMNAttack``, of tensors of eagerpy. Its own, of foolbox 3.3.4, divides a norm by itself and
    projects nothing, so that the attack finds perturbations several times as large as the smallest."""
    shift = x - x0
    length = shift.square().sum(axis=tuple(range(1, x.ndim)), keepdims=True).sqrt()
    return x0 + shift * (epsilon.reshape(length.shape) / length.maximum(1e-12)).minimum(1)


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
    base: ClassVar[str] = "art.attacks:EvasionAttack"

    def __post_init__(self) -> None:
        super().__post_init__()
        cls = self.kind()
        check_options(cls.__name__, self.options, list(inspect.signature(cls).parameters)[1:])
        norm = self.options.get("norm")
        if isinstance(self.attack, AttackObject):
            norm = getattr(self.attack.object, "norm", None)
        self.check_norm(cls.__name__, norm)
        if cls.__name__ in CLOCK:
            advice = "another run finds other images; foolbox's takes it from the seed"
            warnings.warn(f"ART: {cls.__name__} takes its start from the clock: {advice}.", stacklevel=4)
        if hasattr(cls, "apply_patch") and self.threat != Linf(1.0):
            raise ValueError(f"ART: a patch within {self.threat}; allowed: Linf(1), in an evaluation of its own.")

    def generate(self, seen: Seen, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        estimators: Any = importlib.import_module("art.estimators.classification")
        cls = self.kind()
        model = Seen(lambda images: seen(images).softmax(1)) if cls.__name__ in OF_PROBABILITIES else seen
        shape, classes = tuple(x.shape[1:]), logits.shape[1]
        classifier = estimators.PyTorchClassifier(
            model, nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0), device_type="cpu"
        )  # the model moves the images to its own device
        if hasattr(cls, "apply_patch"):  # ART 1.20.1 takes its first patch from numbers of Python, and has numpy's here
            classifier._clip_values = (0.0, 1.0)
        if isinstance(self.attack, AttackObject):
            old = self.attack.object.estimator
            attack = copy.deepcopy(self.attack.object, {id(old): classifier, id(getattr(old, "model", old)): model})
        else:
            norm = "inf" if isinstance(self.threat, Linf) else 2
            attack = self.make(cls, classifier, norm=norm, eps=self.threat.eps, verbose=False)
        if attack.targeted or cls.__name__ == "AdversarialPatchNumpy":  # which takes every label for a target
            y = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        images, labels = x.cpu().numpy(), nn.functional.one_hot(y, classes).float().cpu().numpy()
        adversarial = attack.generate(x=images.copy(), y=labels)
        if hasattr(attack, "apply_patch"):  # generate made the patch and its mask
            adversarial = attack.apply_patch(images.copy(), scale=getattr(attack, "_attack", attack).scale_max)
        return torch.from_numpy(np.asarray(adversarial, dtype=np.float32))
