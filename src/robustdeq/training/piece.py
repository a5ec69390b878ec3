"""A piece of a batch on its way through an update: what its samples draw, and the model as its forwards see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks.starts import numbered
from ..checks import beyond_the_box, check_images
from ..defences import RegulatedClassifier
from ..distributed import Distributed
from ..gradients import Implicit, Resumed, Steps
from ..models.deq import DEQClassifier
from ..seeds import generator, mix
from .attacks import Attacked
from .config import TrainConfig
from .objectives import Losses, Objective
from .regularise import state_deviation

DATA, AUGMENT, STATES, ATTACK, DROPOUT, JACOBIAN, START, NOISE = range(8)
"""Places where a run draws random numbers (see ``seeds``)."""


class Reader(nn.Module):
    """A model, perhaps wrapped (DDP), as the forwards of training see it: which states, of which images.

    draw: gives the number of solver steps of one forward; None where the model has no states. shares: see
    ``StateSampler.shares``; a forward gives the logits of all these states, the first one's first. seen: what the model
    is shown of the images. options: of every forward. steps: of the last one, of several states the last.
    """

    def __init__(
        self, model: nn.Module, draw: Callable[[], Steps] | None = None, shares: Mapping[int, float] | None = None,
        seen: Callable[[Tensor], AbstractContextManager[Tensor]] = nullcontext, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.draw, self.shares, self.seen, self.options = model, draw, shares or {}, seen, options
        self.steps: Steps = 0
        self.resumed: tuple[Tensor | None, dict[str, Any]] = (None, {})

    def resume(self, attacked: Attacked, steps: int) -> None:
        """A forward of the attacked images begins at their state, with so many steps; an implicit one at mu."""
        gradient, options = self.options["gradient"], {"start": attacked.z, "steps": steps}
        if isinstance(gradient, Implicit):  # its adjoint solve goes on as well
            options["gradient"] = Resumed(gradient.solver, gradient.steps, mu=attacked.mu)
        self.resumed = (attacked.images, options)

    @contextmanager
    def carrying(self, deq: DEQClassifier | None) -> Iterator[None]:
        """Inside, every forward begins at the state that the one before it read. deq: the DEQ in the model."""
        if deq is None:
            raise ValueError("carried=True of a model without states; allowed: carried=False.")

        def keep(readout: nn.Module, read: tuple[Tensor]) -> None:
            self.options["start"] = read[0].detach()

        handle, before = deq.readout.register_forward_pre_hook(keep), dict(self.options)
        try:
            yield
        finally:
            handle.remove()
            self.options = before

    def forward(self, x: Tensor) -> Tensor:
        options = self.options
        if self.draw is not None:
            images, resumed = self.resumed
            options = {"steps": tuple(self.shares) or self.draw(), **options, **(resumed if x is images else {})}
            steps = options["steps"]
            self.steps = steps[-1] if isinstance(steps, tuple) else steps
        with self.seen(x) as shown:
            return self.model(shown, **options)

    def losses(self, objective: Objective, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        """The objective's; of several states their weighted mean, where every forward is made once."""
        if not self.shares:
            return objective.losses(self, x, x_adv, y)
        forwards: list[Tensor] = []
        places = range(len(self.shares))
        each = [objective.losses(_AtState(self, forwards, place), x, x_adv, y) for place in places]
        weighted = [share * losses.total for share, losses in zip(self.shares.values(), each)]
        return Losses(torch.stack(weighted).sum(), each[-1].correct_adv)


class _AtState(nn.Module):
    """The logits of one of the reader's states, by its place among them. forwards: those that an objective has made
    before, of which it makes the same ones for every state, in the same order."""

    def __init__(self, reader: Reader, forwards: list[Tensor], place: int) -> None:
        super().__init__()
        self.reader, self.forwards, self.place, self.number = reader, forwards, place, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.number == len(self.forwards):
            self.forwards.append(self.reader(x))
        self.number += 1
        return self.forwards[self.number - 1].chunk(len(self.reader.shares))[self.place]


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
        self.places = (rank * config.accumulate + number) * len(x) + torch.arange(len(x))
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
        self.left: dict[Tensor, Tensor] = {}

    @contextmanager
    def seen(self, x: Tensor, *, update: bool = True) -> Iterator[Tensor]:
        """Images (B, C, H, W) as the update, or its attack, sees them: as its defence leaves them after its last step,
        with the gradient of x (BPDA), and noise on them, which may leave the box inside."""
        left = self.left.get(x) if update else None
        if left is None:
            defended = self.defended[update]
            left = x if defended is None else (defended.trajectory(x).inputs or (x,))[-1] + (x - x.detach())
        if update:  # perturbed weights and penalties see the same images again
            self.left[x] = left
        with nullcontext() if self.noise is None else beyond_the_box():
            yield left if self.noise is None else left + self.noise

    def reader(self, model: nn.Module, *, update: bool, steps: int | None = None) -> Reader:
        """``model`` as the forwards of the update, or those of its attack, see it. steps: instead of the phase's."""
        config, phase, seen = self.config, self.phase, partial(self.seen, update=update)
        if self.deq is None:
            return Reader(model, seen=seen)
        most = steps or phase.solver_steps or self.deq.steps

        def draw() -> Steps:
            drawn = config.states.draw(most, self.states, config.batch_size)
            return drawn[self.places] if isinstance(drawn, Tensor) else drawn

        gradient = phase.gradient or (config.gradient if update else config.attack_gradient)
        shares = config.states.shares(most) if update else None
        return Reader(model, draw, shares, seen, solver=phase.solver, gradient=gradient, **self.start)

    def attacked(self) -> Attacked:
        """The images of the update."""
        phase, config = self.phase, self.config
        if not phase.attack_steps:
            return Attacked(self.x)
        seed = mix(config.seed, ATTACK, self.step)
        pgd = config.objective.attack(config.threat, phase.attack_steps, phase.step_size, seed)
        reader = self.reader(self.model, update=False, steps=phase.attack.solver_steps)
        return phase.attack(pgd, reader, self.deq, self.x, self.y, self.places)

    def penalties(self, x_adv: Tensor) -> Tensor | float:
        """What is added to the objective's loss."""
        deq, config, solver = self.deq, self.config, self.phase.solver
        total: Tensor | float = 0.0
        if deq is not None and config.consistency and x_adv is not self.x:
            steps = self.phase.solver_steps or deq.steps
            with self.seen(self.x) as x, self.seen(x_adv) as other:
                total = total + config.consistency * state_deviation(deq, x, other, steps, solver, **self.start)
        if deq is not None and self.jacobian_steps is not None:
            with self.seen(x_adv) as other:
                total = total + config.jacobian(deq, other, self.jacobian_steps, self.probes, solver)
        return total
