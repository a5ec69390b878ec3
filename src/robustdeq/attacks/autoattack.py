"""AutoAttack (Croce and Hein 2020) through pyautoattack, with a seed of ours and without its resume file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from ..checks import Length, Seed, Whole, check_labels
from ..options import OneOf, checked
from .calls import Calls
from .door import at_the_door, logits_of
from .threat import OfThreat
from .views import as_one
from .wrapped import process_as_it_was

LOGGER = "auto-attack"
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
"""Every attack, and how many classes its loss needs."""
FAB = 100
"""Iterations of FAB, whatever those of APGD."""
Bounded = Annotated[int, Whole(1, 2**31 - 1)]


@checked
@dataclass(frozen=True)
class AutoAttack:
    """x_adv = attack(model, x, y), by the reference implementation.

    version: ``standard | plus | rand``; or ``attacks``, a list of ``apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square`` to
    be run in this order with the budgets of ``standard``. seed: of every attack in every batch. iterations: of APGD;
    queries: of Square; fewer make a cheaper and weaker attack. A sample broken by one is not attacked by the next.

    Through a view the deployed logits are attacked with the view's gradient. Square asks for logits only, so a defended
    model needs no view for it. Random numbers come from torch's global generators, which are put back afterwards. They
    are drawn for a whole batch, so a sample's start depends on its batch; keep ``batch_size`` fixed to compare runs.
    """

    threat: OfThreat
    version: Annotated[str, OneOf("AutoAttack version", VERSIONS)] = "standard"
    attacks: Annotated[Sequence[Annotated[str, OneOf("AutoAttack attack", CLASSES)]], Length()] | None = None
    seed: Seed = 0
    batch_size: Bounded = 250
    iterations: Bounded = 100
    queries: Bounded = 5000

    def __post_init__(self) -> None:
        if self.attacks is not None and (self.version != "standard" or len(set(self.attacks)) < len(self.attacks)):
            wanted = "every attack once, and no version beside them"
            raise ValueError(f"AutoAttack: version={self.version!r}, attacks={self.attacks!r}; allowed: {wanted}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The attacks that are run, in their order."""
        return tuple(self.attacks) if self.attacks is not None else VERSIONS[self.version]

    @at_the_door
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W); the image itself where no attack succeeded. x: float32 in [0, 1], since the
        reference computes in nothing else. y: (B,) int64. indices: not used."""
        self.check_taken(x)
        x = x.contiguous()
        with process_as_it_was(), _silent():
            check_labels(x, y, self._classes(model, x))
            x_adv = self.reference(model, x).run_standard_evaluation(x, y, batch_size=self.batch_size)[0].detach()
        outside = ~self.threat.contains(x, x_adv)  # by rounding, as it projects in float32
        x_adv[outside] = self.threat.project(x[outside], x_adv[outside])
        return x_adv

    def reference(self, model: nn.Module, x: Tensor) -> Reference:
        """The pyautoattack object that is run, for images like x. model: in eval mode."""
        one = as_one(model)

        def seen(x: Tensor) -> Tensor:
            return logits_of(self, one, x).float()  # in autocast, for one, they may be of another dtype

        options: dict[str, Any] = {"norm": self.threat.name, "version": self.version}
        if self.attacks is not None:
            options |= {"version": "custom", "attacks": list(self.attacks)}
        reference = Reference(cast(Any, seen), eps=self.threat.eps, seed=self.seed, device=x.device, **options)
        apgd, targeted, fab = reference.apgd, reference.apgd_targeted, reference.fab
        if self.attacks is not None:
            apgd.n_restarts = fab.n_restarts = targeted.n_restarts = 1
        reference.verbose, reference.square.n_queries, fab.n_iter = False, self.queries, FAB
        shares = {"n_iter": 1, "n_iter_orig": 1, "n_iter_2": 0.22, "n_iter_min": 0.06, "size_decr": 0.03}
        for name, share in shares.items():  # what APGD's constructor derives from the number of iterations
            for attack in (apgd, targeted):
                setattr(attack, name, max(int(share * self.iterations), 1))
        targeted.n_target_classes = fab.n_target_classes = min(9, self.fitting(self._classes(one, x)) - 1)
        return reference

    def calls(self, model: nn.Module, classes: int) -> list[Calls]:
        """What it asks at most, for each image; see ``Calls``. The numbers are those of pyautoattack 0.2.0."""
        restarts, targets, iterations = (5 if self.version == "plus" else 1), min(9, classes - 1), self.iterations + 1
        one, ascents = as_one(model), restarts * iterations * (20 if self.version == "rand" else 1)
        asked = {  # an image is looked at before an attack, and what came out of it afterwards
            "apgd-ce": Calls(one, 2, ascents),
            "apgd-dlr": Calls(one, 2, ascents),
            "apgd-t": Calls(one, 2 + targets, targets * iterations),
            "fab": Calls(one, 2 + restarts * (FAB + 2), restarts * FAB, restarts * FAB * (classes - 1)),
            "fab-t": Calls(one, 2 + targets * (FAB + 3), targets * FAB),
            "square": Calls(one, 4 + self.queries),
        }
        return [Calls(one, forwards=9, gradients=1), *(asked[name] for name in self.names)]  # checks of the defence

    def check_taken(self, x: Tensor) -> None:
        """A ValueError for images that an attack cannot take."""
        if x.dtype != torch.float32:
            raise ValueError(f"AutoAttack: images are {x.dtype}; allowed: torch.float32.")
        if "square" in self.names and self.threat.name == "L2" and min(x.shape[2:]) < 5:
            size = " x ".join(map(str, x.shape[2:]))
            raise ValueError(f"AutoAttack: square under L2 on images of {size} pixels; allowed: at least 5 x 5.")

    def fitting(self, classes: int) -> int:
        """The number of classes; a ValueError if an attack needs more."""
        unfit = [name for name in self.names if classes < CLASSES[name]]
        if unfit:
            needs = f"{', '.join(unfit)} on {classes} classes, whose loss needs {max(CLASSES[name] for name in unfit)}"
            fit = ", ".join(name for name, needed in CLASSES.items() if classes >= needed) or "none"
            raise ValueError(f"AutoAttack: {needs}; allowed: attacks=[...] of {fit}.")
        return classes

    def _classes(self, model: nn.Module, x: Tensor) -> int:
        with torch.no_grad():
            return logits_of(self, model, x[:1]).shape[1]


@contextmanager
def _silent() -> Iterator[None]:
    """The reference's log is not shown: a run of ours reports for itself, and hears the warnings on ``LOGGER``."""
    logger, silent = logging.getLogger(LOGGER), logging.NullHandler()  # without a handler they go to stderr
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(silent)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(silent)
