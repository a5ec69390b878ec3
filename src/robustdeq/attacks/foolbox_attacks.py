"""Attacks of foolbox (Rauber et al. 2020), an optional library: ``pip install 'robustdeq[foolbox]'``."""

from __future__ import annotations

import copy
import importlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..options import checked
from .autoattack import LOGGER
from .wrapped import Given, Seen, Wrapped


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
    base: ClassVar[tuple[str, str]] = ("foolbox.attacks", "Attack")

    def __post_init__(self) -> None:
        super().__post_init__()
        made = self._made()
        with suppress(AttributeError):  # an attack without a distance, as a rotation
            self.check_norm(type(made).__name__, made.distance.p)

    def found(self, seen: Seen, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        foolbox: Any = importlib.import_module("foolbox")
        model, attack = foolbox.PyTorchModel(seen, bounds=(0, 1), device=x.device), self._made()
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

    def _made(self) -> Any:
        norm, distances = self.threat.name, vars(importlib.import_module("foolbox.distances"))
        if isinstance(self.attack, Given):
            made = copy.copy(self.attack.made)
        else:
            cls = self.kind((f"{norm}{{}}Attack", f"{norm}{{}}", "{}Attack", "{}"))
            made = self.make(cls, constraint=norm.lower(), distance=distances.get(norm.lower()))
        if type(made).__name__ in ("L2FMNAttack", "LInfFMNAttack"):
            # Its radius is where a linear model has its boundary: it would stay there for ever, and find nothing.
            project = _into_ball if type(made).__name__ == "L2FMNAttack" else made.project
            made.project = lambda x, x0, epsilon: project(x, x0, 1.001 * epsilon)
        return made


def _into_ball(x: Any, x0: Any, epsilon: Any) -> Any:
    """The projection of ``L2FMNAttack``, of tensors of eagerpy. Its own, of foolbox 3.3.4, divides a norm by itself and
    projects nothing, so that the attack finds perturbations several times as large as the smallest."""
    shift = x - x0
    length = shift.square().sum(axis=tuple(range(1, x.ndim)), keepdims=True).sqrt()
    return x0 + shift * (epsilon.reshape(length.shape) / length.maximum(1e-12)).minimum(1)
