"""AutoAttack (Croce and Hein 2020) through pyautoattack, with a seed of ours and without its resume file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from ..dynamics.solver import check_count
from ..models.classifier import check_images, check_range
from ..models.modes import images_only
from ..options import choose
from .pgd import check_labels
from .threat import Threat

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
ATTACKS = dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"))
TARGETED = ("apgd-t", "fab-t")


@dataclass(frozen=True)
class AutoAttack:
    """x_adv = attack(model, x, y), by the reference implementation.

    version: ``standard | plus | rand``; or ``attacks``, a list of ``apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square`` to be
    run in this order with the budgets of ``standard`` (100 iterations, 9 targets, 5000 queries). seed: of every attack in
    every batch. A sample broken by one attack is not attacked by the next.

    Random numbers come from torch's and Python's global generators, as in the reference; ours are put back afterwards. They
    are drawn for a whole batch, so a sample's start depends on its batch; keep ``batch_size`` fixed to compare runs.
    """

    threat: Threat
    version: str = "standard"
    attacks: Sequence[str] | None = None
    seed: int = 0
    batch_size: int = 250

    def __post_init__(self) -> None:
        choose("AutoAttack version", self.version, VERSIONS)
        for name in self.attacks or ():
            choose("AutoAttack attack", name, ATTACKS)
        check_count("AutoAttack", "seed", self.seed, 0)
        check_count("AutoAttack", "batch_size", self.batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.attacks) if self.attacks is not None else VERSIONS[self.version]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W); the image itself where no attack succeeded. indices: not used."""
        check_images(x)
        check_range(x)
        check_labels(x, y)
        if not len(x):
            return x.clone()
        devices = [x.device] if x.is_cuda else []
        with images_only(model), torch.random.fork_rng(devices=devices), _quiet():
            reference = self.reference(model, x)
            return reference.run_standard_evaluation(x.detach(), y, batch_size=self.batch_size)[0].detach()

    def reference(self, model: nn.Module, x: Tensor) -> Reference:
        """The pyautoattack object that is run."""
        norm, eps, device = self.threat.name, self.threat.eps, x.device
        if self.attacks is None:
            made = Reference(model, norm=norm, eps=eps, seed=self.seed, device=device, version=self.version)
        else:
            made = Reference(model, norm=norm, eps=eps, seed=self.seed, device=device, version="custom", attacks=list(self.attacks))
            made.apgd.n_restarts = made.fab.n_restarts = made.apgd_targeted.n_restarts = 1
        made.verbose = False
        self._fit_classes(made, model, x)
        return made

    def _fit_classes(self, made: Reference, model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        targeted = [name for name in self.names if name in TARGETED]
        if classes < 4 and "apgd-t" in targeted:
            raise ValueError(
                f"AutoAttack: apgd-t on {classes} classes; its targeted DLR loss needs at least 4. Allowed: "
                "attacks=('apgd-ce', 'fab-t', 'square')."
            )
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(9, classes - 1)


class _quiet:
    """The reference logs its progress and its warnings; a run of ours reports for itself."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("auto-attack")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_) -> None:
        self.logger.setLevel(self.level)
