"""One update: attack, losses, regularisers, gradient, and nothing at all if something is not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from ..distributed import SINGLE, Distributed
from ..dynamics.trajectory import monitored
from ..gradients import Gradient, Steps
from ..models.modes import evaluating, statistics_kept
from ..models.structure import structure
from ..seeds import generator, mix
from .config import TrainConfig
from .objectives import Losses
from .regularise import perturbed

DATA, AUGMENT, STATES, ATTACK, DROPOUT, JACOBIAN = range(6)
"""Places where a run draws random numbers (see ``seeds``)."""


@dataclass(frozen=True)
class StepResult:
    """Of the batch as a whole. loss: of the update. accuracy_adv: on the attacked images, in [0, 1]. solver_steps: t of
    the update's last forward, the mean where samples have their own. learning_rate: that was used."""

    loss: float
    accuracy_adv: float
    solver_steps: float
    learning_rate: float


class TrainStep:
    """Called with a batch; moves ``model`` once. ``total``: updates of the whole run.

    Of several processes each is called with its part of the batch; DDP averages their gradients.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, total: int,
        distributed: Distributed = SINGLE,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.config, self.total = model, optimizer, config, total
        self.distributed = distributed
        self.wrapped: Any = model  # what the update goes through; attacks look at the bare model
        if distributed.world_size > 1:
            ids = [distributed.device] if distributed.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the option
                self.wrapped = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
        self.deq = structure(model).deq
        self.rate: LambdaLR | None = None

    def __call__(self, x: Tensor, y: Tensor, step: int, epoch: int) -> StepResult:
        """x (B, C, H, W) in [0, 1], y (B,) int64; step: of the run, from 0."""
        scheduler = self._scheduler(step)
        rate = float(scheduler.get_last_lr()[0])
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(mix(self.config.seed, DROPOUT, step, self.distributed.rank))
            sums = self._gradients(x, y, step, epoch)
        loss, accuracy, solver_steps = (self.distributed.all_reduce(sums) / self.distributed.world_size).tolist()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            for buffer, before in zip(self.model.buffers(), buffers):
                buffer.copy_(before)
            raise FloatingPointError(self._complaint(loss, norm, x, step))
        self.optimizer.step()
        scheduler.step()
        self._share_buffers()
        return StepResult(loss, accuracy, solver_steps, rate)

    def _scheduler(self, step: int) -> LambdaLR:
        """The learning rate follows from the step's number alone, so a resumed run needs none of its state."""
        if self.rate is None or self.rate.last_epoch != step:
            for group in self.optimizer.param_groups:
                group["initial_lr"] = self.config.learning_rate
            share = self.config.schedule.share
            self.rate = LambdaLR(self.optimizer, lambda done: share((done + 1) / self.total), last_epoch=step - 1)
        return self.rate

    def _gradients(self, x: Tensor, y: Tensor, step: int, epoch: int) -> Tensor:
        """Leave the gradient of the batch in the parameters; its mean loss, accuracy and solver steps, (3,)."""
        pieces, size = self.config.accumulate, len(x) // self.config.accumulate
        sums = torch.zeros(3, dtype=torch.float64)
        for piece in range(pieces):
            rows = slice(piece * size, (piece + 1) * size)
            own = _Piece(self, x[rows], y[rows], step, epoch, piece)
            cast = torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")
            waits = piece < pieces - 1 and isinstance(self.wrapped, DistributedDataParallel)
            with self.wrapped.no_sync() if waits else nullcontext(), cast:  # the last piece exchanges the gradients
                losses = own.backward(1 / pieces)
            values = [float(losses.total.detach()), float(losses.correct_adv.float().mean()), own.solver_steps]
            sums += torch.tensor(values, dtype=torch.float64) / pieces
        return sums

    def _share_buffers(self) -> None:
        """BatchNorm statistics become the mean over the processes (those of SyncBatchNorm are the same already)."""
        if self.distributed.world_size == 1:
            return
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        if buffers:
            means = self.distributed.all_reduce(torch.cat([b.flatten() for b in buffers])) / self.distributed.world_size
            for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers])):
                buffer.copy_(mean.view_as(buffer))

    def _complaint(self, loss: float, norm: float, x: Tensor, step: int) -> str:
        """What was not finite, with the residuals of the images before they were attacked."""
        residuals = ""
        if self.deq is not None:
            with evaluating(self.model):
                last = monitored(self.deq.trajectory(x).residuals)[-1]
            bad = int((~last.isfinite()).sum())
            residuals = f", relative residual {last.nanmedian():.3g} (median), {bad} of {len(x)} samples not finite"
        return (
            f"step {step}: loss {loss}, gradient norm {norm}{residuals}; nothing was updated, and the run as it was "
            "before this step is kept. Lower learning_rate, damp the solver, or look at this batch."
        )


class Reader(nn.Module):
    """A model as one forward of training sees it: its state drawn anew each time, its gradient and solver chosen.

    options, draw: of a DEQ's forward, and what gives its number of solver steps; any other classifier is left as it is.
    The model may be wrapped (DDP).
    """

    def __init__(
        self, model: nn.Module, options: dict[str, Any] | None = None, draw: Callable[[], Steps] | None = None
    ) -> None:
        super().__init__()
        self.model, self.options, self.draw = model, options or {}, draw

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.draw is None else self.model(x, steps=self.draw(), **self.options)


class _Piece:
    """One piece of a batch on its way through attack and losses.

    Attack and update share one stream of states, so that every process draws the same t at the same forward.
    """

    def __init__(self, owner: TrainStep, x: Tensor, y: Tensor, step: int, epoch: int, piece: int) -> None:
        self.owner, self.x, self.y, self.piece = owner, x, y, piece
        self.config, self.step, self.phase = owner.config, step, owner.config.phase(epoch)
        self.first = owner.distributed.rank * len(x) * owner.config.accumulate + piece * len(x)
        self.states = generator(self.config.seed, STATES, step, piece)
        self.solver_steps = 0.0
        pays = owner.deq is not None  # N of an update that pays the Jacobian penalty, the same in every process
        draws = generator(self.config.seed, JACOBIAN, step, piece)
        self.jacobian_steps = self.config.jacobian.draw(epoch, draws) if pays else None

    def backward(self, share: float) -> Losses:
        """Add ``share`` of the gradient of the losses at the attacked images to the parameters' own."""
        x_adv = self._attacked()
        with self._perturbed(x_adv):
            updated = self._reader(self.owner.wrapped, most=self.jacobian_steps)
            losses = self.config.objective.losses(updated, self.x, x_adv, self.y)
            losses = Losses(losses.total + self._penalty(x_adv), losses.correct_adv)
            (share * losses.total).backward()
        return losses

    def _attacked(self) -> Tensor:
        """The start of a sample depends on its place in the whole batch, not on how the batch was divided."""
        phase, seed = self.phase, mix(self.config.seed, ATTACK, self.step)
        attack = self.config.objective.attack(self.config.threat, phase.attack_steps, phase.step_size, seed)
        attacked = self._reader(self.owner.model, self.config.attack_gradient)
        return attack(attacked, self.x, self.y, indices=self.first + torch.arange(len(self.x)))

    def _reader(self, model: nn.Module, gradient: Gradient | None = None, most: int | None = None) -> Reader:
        """most: N, if it is not that of the phase."""
        if self.owner.deq is None:
            return Reader(model)
        gradient = self.phase.gradient or gradient or self.config.gradient
        steps = most or self.phase.solver_steps or self.owner.deq.steps
        return Reader(model, {"gradient": gradient, "solver": self.phase.solver}, lambda: self._draw(steps))

    def _draw(self, steps: int) -> Steps:
        drawn = self.config.states.draw(steps, self.states, self.config.batch_size)
        self.solver_steps = float(drawn.float().mean()) if isinstance(drawn, Tensor) else float(drawn)
        return drawn[self.first : self.first + len(self.x)] if isinstance(drawn, Tensor) else drawn

    def _penalty(self, x_adv: Tensor) -> Tensor | float:
        """The Jacobian penalty; each process has its own probes."""
        deq, steps = self.owner.deq, self.jacobian_steps
        if steps is None or deq is None:
            return 0.0
        probes = generator(self.config.seed, JACOBIAN, self.step, self.piece, 1 + self.owner.distributed.rank)
        return self.config.jacobian(deq, x_adv, steps, probes, self.phase.solver)

    @contextmanager
    def _perturbed(self, x_adv: Tensor) -> Iterator[None]:
        """The weights moved up the loss, where adversarial weight perturbation is on."""
        if not self.config.awp:
            yield
            return
        model, distributed = self.owner.model, self.owner.distributed
        with statistics_kept(model):
            total = self.config.objective.losses(self._reader(model), self.x, x_adv, self.y).total
            slopes = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
        slopes = [distributed.all_reduce(slope) for slope in slopes]
        with perturbed(model, slopes, self.config.awp):
            yield
