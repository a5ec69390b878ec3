"""A piece of a batch on its way through an update: what its samples draw, and the model as they see it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..attacks.starts import numbered
from ..checks import check_images
from ..defences import RegulatedClassifier
from ..distributed import Distributed
from ..gradients import Steps
from ..models.deq import DEQClassifier
from ..seeds import generator, mix
from .attacks import Attacked
from .config import TrainConfig
from .objectives import state_deviation
from .reader import Reader, noisy

DATA, AUGMENT, STATES, ATTACK, DROPOUT, JACOBIAN, START, NOISE = range(8)
"""Places where a run draws random numbers (see ``seeds``)."""


class Piece:
    """x (B, C, H, W) in [0, 1], y (B,) int64: a part of the batch of one process. step: of the run; epoch; number: of
    the piece in its batch. deq: the DEQ in ``model``, or None. defended: by whether it is an update, the model behind
    the defence that the update, or its attack, sees.

    What a sample draws depends on its place in the batch of all processes, not on how these divide it. Attack and
    update share one stream of states, so that every process draws the same t at the same forward; a piece has its own.
    """

    def __init__(
        self, config: TrainConfig, model: nn.Module, deq: DEQClassifier | None,
        defended: Mapping[bool, RegulatedClassifier | None], distributed: Distributed, x: Tensor, y: Tensor, step: int,
        epoch: int, number: int,
    ) -> None:  # fmt: skip
        self.config, self.model, self.deq, self.defended, self.x, self.y = config, model, deq, defended, x, y
        self.phase, self.step, seed, rank = config.phase(epoch), step, config.seed, distributed.rank
        self.first = (rank * config.accumulate + number) * len(x)
        self.places = self.first + torch.arange(len(x))
        self.states = generator(seed, STATES, step, number)
        self.probes = generator(seed, JACOBIAN, step, number, 1 + rank)
        pays = generator(seed, JACOBIAN, step, number)  # the same in every process, unlike the probes
        self.jacobian_steps = None if deq is None else config.jacobian.draw(epoch, pays)
        self.start: dict[str, Tensor] = {}
        if deq is not None and config.start_noise:
            noise = numbered(deq.zeros(x), mix(seed, START, step), 0, self.places, torch.randn)
            self.start = {"start": config.start_noise * noise}
        self.noise = None
        if config.noise:
            check_images(x)  # here, since noise leaves the box
            self.noise = config.noise * numbered(x, mix(seed, NOISE, step), 0, self.places, torch.randn)
        self._left: dict[int, tuple[Tensor, Tensor]] = {}

    def reader(self, model: nn.Module, *, update: bool, steps: int | None = None) -> Reader:
        """``model`` as the forwards of the update, or those of its attack, see it. steps: instead of the phase's."""
        config, phase, deq = self.config, self.phase, self.deq
        if deq is None:
            return Reader(model, noise=self.noise)
        most = steps or phase.solver_steps or deq.steps
        options = {"solver": phase.solver, **self.start}
        options["gradient"] = phase.gradient or (config.gradient if update else config.attack_gradient)
        shares, left = (config.states.shares(most), self.left) if update else (None, self.left_to_attack)
        return Reader(model, lambda: self._draw(most), shares, left, self.noise, **options)

    def _draw(self, steps: int) -> Steps:
        drawn = self.config.states.draw(steps, self.states, self.config.batch_size)
        return drawn[self.first : self.first + len(self.x)] if isinstance(drawn, Tensor) else drawn

    def left(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) as the defence of the update leaves them, with the gradient of x. Once for each images:
        they are the same when the weights are perturbed, and in the penalties."""
        if id(x) not in self._left:
            self._left[id(x)] = (x, _behind(self.defended[True], x))
        return self._left[id(x)][1]

    def left_to_attack(self, x: Tensor) -> Tensor:
        return _behind(self.defended[False], x)

    def attacked(self) -> Attacked:
        """The images of the update."""
        phase, config = self.phase, self.config
        seed = mix(config.seed, ATTACK, self.step)
        pgd = config.objective.attack(config.threat, phase.attack_steps, phase.step_size, seed)
        if not phase.attack_steps:
            return Attacked(self.x)
        reader = self.reader(self.model, update=False, steps=phase.attack.solver_steps)
        return phase.attack(pgd, reader, self.deq, self.x, self.y, self.places)

    def penalties(self, x_adv: Tensor) -> Tensor | float:
        """What is added to the objective's loss."""
        deq, config, solver = self.deq, self.config, self.phase.solver
        total: Tensor | float = 0.0
        if deq is not None and config.consistency and x_adv is not self.x:
            steps = self.phase.solver_steps or deq.steps
            with noisy(self.left(self.x), self.noise) as x, noisy(self.left(x_adv), self.noise) as other:
                apart = state_deviation(deq, x, other, steps, solver, **self.start)
            total = total + config.consistency * apart
        if deq is not None and self.jacobian_steps is not None:
            with noisy(self.left(x_adv), self.noise) as other:
                total = total + config.jacobian(deq, other, self.jacobian_steps, self.probes, solver)
        return total


def _behind(defended: RegulatedClassifier | None, x: Tensor) -> Tensor:
    """Images as a defence leaves them after its last step, with the gradient of x."""
    return x if defended is None else (defended.trajectory(x).inputs or (x,))[-1] + (x - x.detach())
