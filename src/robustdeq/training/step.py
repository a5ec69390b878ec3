"""One update: attack, losses, regularisers, gradient, and nothing at all if something is not finite."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from ..attacks.starts import numbered
from ..distributed import SINGLE, Distributed
from ..dynamics.trajectory import monitored
from ..gradients import Steps
from ..models.modes import evaluating
from ..models.structure import structure
from ..seeds import generator, mix
from .attacks import Attacked
from .config import Phase, TrainConfig
from .objectives import perturbed, state_deviation
from .reader import Reader

DATA, AUGMENT, STATES, ATTACK, DROPOUT, JACOBIAN, START = range(7)
"""Places where a run draws random numbers (see ``seeds``)."""
OF_STATES = ("start_noise", "consistency", "entropy_reduction", "attack_entropy_reduction")
"""Options that say nothing to a model without states."""


@dataclass(frozen=True)
class StepResult:
    """Of the batch as a whole. loss: of the update. accuracy_adv: on the attacked images, in [0, 1]. solver_steps: t of
    the update's last forward, the mean where samples have their own, the last of several states. learning_rate: that
    was used."""

    loss: float
    accuracy_adv: float
    solver_steps: float
    learning_rate: float


class TrainStep:
    """Called with a batch; moves ``model`` once. total: updates of the whole run. Of several processes each is called
    with its part of the batch; DDP averages their gradients."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, total: int,
        distributed: Distributed = SINGLE,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.config, self.total = model, optimizer, config, total
        self.deq, self.distributed = structure(model).deq, distributed
        for name in OF_STATES if self.deq is None else ():
            if given := getattr(config, name):
                kind = f"{name}={given} with a {type(model).__name__}, which has no states"
                raise ValueError(f"{kind}; allowed: {TrainConfig.__dataclass_fields__[name].default}.")
        defences = {True: config.entropy_reduction, False: config.attack_entropy_reduction}
        self.defended = {update: defence and defence(model) for update, defence in defences.items()}
        self.wrapped: Any = model  # what the update goes through; attacks look at the bare model
        if distributed.world_size > 1:
            ids = [distributed.device] if distributed.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the option
                self.wrapped = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

        self.rate = self._scheduler(0)

    def _scheduler(self, step: int) -> LambdaLR:
        for group in self.optimizer.param_groups:
            group["initial_lr"] = self.config.learning_rate
        share, total = self.config.schedule.share, self.total  # not self: a cycle would outlive the process group
        return LambdaLR(self.optimizer, lambda done: share((done + 1) / total), last_epoch=step - 1)

    def __call__(self, x: Tensor, y: Tensor, step: int, epoch: int) -> StepResult:
        """x (B, C, H, W) in [0, 1], y (B,) int64; step: of the run, from 0."""
        config, pieces, world_size = self.config, self.config.accumulate, self.distributed.world_size
        if self.rate.last_epoch != step:  # a resumed run; the rate follows from the step's number alone
            self.rate = self._scheduler(step)
        rate = float(self.rate.get_last_lr()[0])
        self.model.train()
        self.optimizer.zero_grad()
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        means = torch.zeros(3, dtype=torch.float64)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(mix(config.seed, DROPOUT, step, self.distributed.rank))
            for piece, (images, labels) in enumerate(zip(x.chunk(pieces), y.chunk(pieces))):
                waits = piece < pieces - 1 and world_size > 1  # the last piece exchanges the gradients
                cast = torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
                with self.wrapped.no_sync() if waits else nullcontext(), cast:
                    means += self._backward(images, labels, step, epoch, piece) / pieces
        loss, accuracy, solver_steps = (self.distributed.all_reduce(means) / world_size).tolist()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            for buffer, before in zip(self.model.buffers(), buffers):
                buffer.copy_(before)
            raise FloatingPointError(self._complaint(loss, norm, x, step))
        self.optimizer.step()
        self.rate.step()
        if world_size > 1:
            self._share_buffers()
        return StepResult(loss, accuracy, solver_steps, rate)

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """The first attack and backward pass of every phase on these images, which leave no trace."""
        buffers, wrapped = [buffer.clone() for buffer in self.model.buffers()], self.wrapped
        self.wrapped = self.model  # the processes exchange nothing
        starts = [0, *accumulate(phase.epochs for phase in self.config.phases)][:-1]
        self.model.train()
        try:
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                for epoch in starts:
                    self._backward(x, y, 0, epoch, 0)
        finally:
            self.wrapped = wrapped
            self.optimizer.zero_grad()
            for buffer, before in zip(self.model.buffers(), buffers):
                buffer.copy_(before)

    def _backward(self, x: Tensor, y: Tensor, step: int, epoch: int, piece: int) -> Tensor:
        """Add the gradient of a piece of the batch to the parameters' own; its loss, accuracy, solver steps, (3,)."""
        config, deq, phase, rank = self.config, self.deq, self.config.phase(epoch), self.distributed.rank
        # What a sample draws depends on its place in the batch of all processes, not on how that was divided. Attack
        # and update share one stream of states, so that every process draws the same t at the same forward.
        first = (rank * config.accumulate + piece) * len(x)
        states = generator(config.seed, STATES, step, piece)
        pays = generator(config.seed, JACOBIAN, step, piece)  # the same in every process, unlike the probes
        jacobian_steps = None if deq is None else config.jacobian.draw(epoch, pays)
        start = {} if deq is None or not config.start_noise else {"start": self._start(deq.zeros(x), step, first)}

        def draw(steps: int) -> Steps:
            drawn = config.states.draw(steps, states, config.batch_size)
            return drawn[first : first + len(x)] if isinstance(drawn, Tensor) else drawn

        def reader(model: nn.Module, *, update: bool, most: int | None = None) -> Reader:
            if deq is None:
                return Reader(model)
            steps = most or phase.solver_steps or deq.steps
            gradient = phase.gradient or (config.gradient if update else config.attack_gradient)
            shares = config.states.shares(steps) if update else None
            options = {"gradient": gradient, "solver": phase.solver, **start}
            return Reader(model, lambda: draw(steps), shares, left if update else self._left, **options)

        @cache  # by identity: when the weights are perturbed, and in the penalties, the images are the same
        def left(images: Tensor) -> Tensor:
            return self._left(images, update=True)

        def climbed() -> Tensor:
            return reader(self.model, update=True).losses(config.objective, x, x_adv, y).total

        attacked = self._attacked(reader(self.model, update=False), x, y, phase, step, first)
        x_adv = attacked.images
        moved = perturbed(self.model, climbed, config.awp, self.distributed) if config.awp else nullcontext()
        with moved:
            updated = reader(self.wrapped, update=True, most=jacobian_steps)
            if attacked.z is not None:
                updated.resume(attacked, phase.attack.warm)
            losses = updated.losses(config.objective, x, x_adv, y)
            total = losses.total
            if deq is not None and config.consistency and x_adv is not x:
                steps = phase.solver_steps or deq.steps
                apart = state_deviation(deq, left(x), left(x_adv), steps, phase.solver, **start)
                total = total + config.consistency * apart
            if deq is not None and jacobian_steps is not None:
                probes = generator(config.seed, JACOBIAN, step, piece, 1 + rank)
                total = total + config.jacobian(deq, left(x_adv), jacobian_steps, probes, phase.solver)
            if not total.requires_grad:
                raise ValueError("the loss depends on no weight; allowed: a model that is trained by gradients.")
            (1 / config.accumulate * total).backward()
        solver_steps = torch.as_tensor(updated.steps).float().mean()
        values = [float(total.detach()), float(losses.correct_adv.float().mean()), float(solver_steps)]
        return torch.tensor(values, dtype=torch.float64)

    def _left(self, x: Tensor, update: bool = False) -> Tensor:
        """Images (B, C, H, W) as the defence of the update, or of its attack, leaves them, with the gradient of x."""
        defended = self.defended[update]
        return x if defended is None else (defended.trajectory(x).inputs or (x,))[-1] + (x - x.detach())

    def _start(self, zeros: Tensor, step: int, first: int) -> Tensor:
        """z^[0] of an update and its attack, (B, D), by the samples' places in the batch."""
        places = first + torch.arange(len(zeros))
        return self.config.start_noise * numbered(zeros, mix(self.config.seed, START, step), 0, places, torch.randn)

    def _attacked(self, seen: Reader, x: Tensor, y: Tensor, phase: Phase, step: int, first: int) -> Attacked:
        """The images of the update. seen: the model as the attack sees it. first: the first sample's number."""
        config, seed = self.config, mix(self.config.seed, ATTACK, step)
        pgd = config.objective.attack(config.threat, phase.attack_steps, phase.step_size, seed)
        if not phase.attack_steps:
            return Attacked(x)
        return phase.attack(pgd, seen, self.deq, x, y, first + torch.arange(len(x)))

    def _share_buffers(self) -> None:
        """BatchNorm statistics become the mean over the processes (those of SyncBatchNorm are the same already)."""
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        if buffers:
            means = self.distributed.all_reduce(torch.cat([b.flatten() for b in buffers])) / self.distributed.world_size
            for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers])):
                buffer.copy_(mean.view_as(buffer))

    def _complaint(self, loss: float, norm: float, x: Tensor, step: int) -> str:
        """What was not finite, with the residuals of the images before they were attacked."""
        text = f"step {step}: loss {loss}, gradient norm {norm}"
        if self.deq is not None:
            with evaluating(self.model):
                last = monitored(self.deq.trajectory(x).residuals)[-1]
            bad = int((~last.isfinite()).sum())
            text += f", relative residual {last.nanmedian():.3g} (median), {bad} of {len(x)} samples not finite"
        text += "; nothing was updated, and the run as it was before this step is kept."
        return f"{text} Lower learning_rate, damp the solver, or look at this batch."
