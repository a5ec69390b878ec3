"""A model as the forwards of training see it: of which images, which states of its dynamics, from which start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import beyond_the_box
from ..gradients import Implicit, Resumed, Steps
from ..models.deq import DEQClassifier
from .attacks import Attacked
from .objectives import Losses, Objective


@contextmanager
def noisy(x: Tensor, noise: Tensor | None) -> Iterator[Tensor]:
    """Images with noise, which may leave the box inside; without noise as they are."""
    if noise is None:
        yield x
        return
    with beyond_the_box():
        yield x + noise


class Reader(nn.Module):
    """A model, perhaps wrapped (DDP). draw: gives the number of solver steps of one forward; None where the model has
    no states. shares: see ``StateSampler.shares``; a forward gives the logits of all these states, the first one's
    first. left: what a defence leaves of the images. noise: what is added to that. options: of every forward. steps: of
    the last one, of several states the last."""

    def __init__(
        self, model: nn.Module, draw: Callable[[], Steps] | None = None, shares: Mapping[int, float] | None = None,
        left: Callable[[Tensor], Tensor] = lambda x: x, noise: Tensor | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.draw, self.shares, self.left, self.options = model, draw, shares or {}, left, options
        self.noise = noise
        self.steps: Steps = 0
        self.known: tuple[Tensor | None, dict[str, Any]] = (None, {})

    def resume(self, attacked: Attacked, steps: int) -> None:
        """A forward of the attacked images begins at their state, with so many steps; an implicit one at mu."""
        gradient, options = self.options["gradient"], {"start": attacked.z, "steps": steps}
        if isinstance(gradient, Implicit):
            options["gradient"] = Resumed(gradient.solver, gradient.steps, mu=attacked.mu)
        self.known = (attacked.images, options)

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
        if self.draw is None:
            with noisy(x, self.noise) as seen:
                return self.model(seen)
        images, known = self.known
        steps = tuple(self.shares) or self.draw()
        options = {"steps": steps, **self.options, **(known if x is images else {})}
        self.steps = steps[-1] if isinstance(steps, tuple) else options["steps"]
        with noisy(self.left(x), self.noise) as seen:
            return self.model(seen, **options)

    def losses(self, objective: Objective, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        """The objective's; of several states their weighted mean, where every forward is made once."""
        if not self.shares:
            return objective.losses(self, x, x_adv, y)
        forwards: list[Tensor] = []
        places = range(len(self.shares))
        parts = [objective.losses(_AtState(self, forwards, place), x, x_adv, y) for place in places]
        weighted = [share * part.total for share, part in zip(self.shares.values(), parts)]
        return Losses(torch.stack(weighted).sum(), parts[-1].correct_adv)


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
