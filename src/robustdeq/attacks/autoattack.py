"""AutoAttack (Croce and Hein 2020) through pyautoattack, with a seed of ours and without its resume file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pyautoattack import AutoAttack as Reference
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn

from ..checks import Count, Length, Natural, check_images, check_labels, check_range
from ..models.modes import images_only
from ..options import OneOf, checked
from .threat import OfThreat, Threat
from .views import Summed, View

LOGGER = "auto-attack"
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
"""Every attack, and how many classes its loss needs."""


@checked
@dataclass(frozen=True)
class AutoAttack:
    """x_adv = attack(model, x, y), by the reference implementation.

    version: ``standard | plus | rand``; or ``attacks``, a list of ``apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square`` to
    be run in this order with the budgets of ``standard`` (100 iterations, 9 targets, 5000 queries). seed: of every
    attack in every batch. iterations: of APGD, 100 in every version; queries: of Square, 5000 in every version; fewer
    make a cheaper and weaker attack. A sample broken by one attack is not attacked by the next.

    Through a view the deployed logits are attacked with the view's gradient. Square asks for logits only, so a defended
    model needs no view for it. Random numbers come from torch's global generators, as in the reference; ours are put
    back afterwards. They are drawn for a whole batch, so a sample's start depends on its batch; keep ``batch_size``
    fixed to compare runs.
    """

    threat: Annotated[Threat, OfThreat()]
    version: Annotated[str, OneOf("AutoAttack version", VERSIONS)] = "standard"
    attacks: Annotated[Sequence[Annotated[str, OneOf("AutoAttack attack", CLASSES)]], Length()] | None = None
    seed: Natural = 0
    batch_size: Count = 250
    iterations: Count = 100
    queries: Count = 5000

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.attacks) if self.attacks is not None else VERSIONS[self.version]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W); the image itself where no attack succeeded. indices: not used.

        x: float32 in [0, 1], the reference computes in nothing else. y: (B,) int64.
        """
        check_images(x)
        check_range(x)
        check_labels(x, y)
        if x.dtype != torch.float32:
            raise ValueError(f"AutoAttack: images are {x.dtype}; allowed: torch.float32.")
        if "square" in self.names and self.threat.name == "L2" and min(x.shape[2:]) < 5:
            size = " x ".join(map(str, x.shape[2:]))
            raise ValueError(f"AutoAttack: square under L2 on images of {size} pixels; allowed: at least 5 x 5.")
        x = x.detach().contiguous()
        if not len(x):
            return x.clone()
        with images_only(model), _process_as_it_was():
            check_labels(x, y, _classes(model, x))
            return self.reference(model, x).run_standard_evaluation(x, y, batch_size=self.batch_size)[0].detach()

    def reference(self, model: nn.Module, x: Tensor) -> Reference:
        """The pyautoattack object that is run, for images like x. model: in eval mode."""
        seen = Summed([model]) if isinstance(model, View) and not model.faithful else model
        chosen: dict[str, Any] = {"norm": self.threat.name, "version": self.version}
        if self.attacks is not None:
            chosen |= {"version": "custom", "attacks": list(self.attacks)}
        made = Reference(seen, eps=self.threat.eps, seed=self.seed, device=x.device, **chosen)
        if self.attacks is not None:
            made.apgd.n_restarts = made.fab.n_restarts = made.apgd_targeted.n_restarts = 1
        made.verbose = False
        made.square.n_queries = self.queries
        for apgd in (made.apgd, made.apgd_targeted):
            _limit(apgd, self.iterations)
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(9, self.fitting(_classes(seen, x)) - 1)
        return made

    def fitting(self, classes: int) -> int:
        """The number of classes; a ValueError if an attack needs more."""
        unfit = [name for name in self.names if classes < CLASSES[name]]
        if unfit:
            fit = ", ".join(name for name, needed in CLASSES.items() if classes >= needed)
            least = max(CLASSES[name] for name in unfit)
            raise ValueError(
                f"AutoAttack: {', '.join(unfit)} on {classes} classes, whose loss needs {least}; "
                f"allowed: attacks=[...] of {fit or 'none'}."
            )
        return classes


def _limit(apgd: APGDAttack, iterations: int) -> None:
    """What its constructor derives from the number of iterations."""
    apgd.n_iter = apgd.n_iter_orig = iterations
    apgd.n_iter_2 = max(int(0.22 * iterations), 1)
    apgd.n_iter_min = max(int(0.06 * iterations), 1)
    apgd.size_decr = max(int(0.03 * iterations), 1)


def _classes(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return model(x[:1]).shape[1]


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Put back what the reference changes beyond its own objects.

    It seeds torch's generators on every device, and removes the process's tracer (a debugger's, a coverage tool's)
    after it has counted calls with its own. Its log is not shown meanwhile: a run of ours reports for itself, and hears
    the warnings with a handler of its own on ``LOGGER``.
    """
    logger = logging.getLogger(LOGGER)
    level, shown, tracer = logger.level, logger.propagate, sys.gettrace()
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    silent = logging.NullHandler()
    logger.addHandler(silent)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        logger.setLevel(level)
        logger.propagate = shown
        logger.removeHandler(silent)
        sys.settrace(tracer)
