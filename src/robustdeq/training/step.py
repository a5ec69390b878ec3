"""One update: attack, losses, regularisers, gradient, and nothing at all if something is not finite."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed import SINGLE, Distributed
from ..dynamics.trajectory import monitored
from ..gradients import Unrolled
from ..models.modes import buffers_of, evaluating
from ..models.structure import structure
from ..seeds import mix
from .config import TrainConfig
from .graphs import Graphed
from .piece import DROPOUT, Piece
from .regularise import perturbed

OF_STATES = ("start_noise", "consistency", "entropy_reduction", "attack_entropy_reduction")
"""Options that say nothing to a model without states."""


@dataclass(frozen=True)
class StepResult:
    """Of the batch as a whole. loss: of the update. accuracy_adv: on the attacked images, in [0, 1]; None where none
    were attacked. solver_steps: t of the update's last forward, the mean where samples have their own, the last of
    several states. learning_rate: that was used."""

    loss: float
    accuracy_adv: float | None
    solver_steps: float
    learning_rate: float


@dataclass
class Sums:
    """Over the steps of an epoch so far: of what ``StepResult`` says, the seconds, and what was spent on an image of
    this process. evaluations: of f; units: f-units."""

    loss: float = 0.0
    accuracy_adv: float = 0.0
    solver_steps: float = 0.0
    seconds: float = 0.0
    evaluations: float = 0.0
    units: float = 0.0


def _check_stateless(model: nn.Module, config: TrainConfig) -> None:
    """A ValueError for the first option that says nothing to a model without states."""
    lacking = f"with a {type(model).__name__}, which has no states"
    for name in OF_STATES:
        if given := getattr(config, name):
            raise ValueError(f"{name}={given} {lacking}; allowed: {TrainConfig.__dataclass_fields__[name].default}.")
    gradients = (config.gradient, config.attack_gradient, *(phase.gradient for phase in config.phases))
    solvers = [phase.solver for phase in config.phases if phase.solver is not None]
    for one in [*(rule for rule in gradients if not isinstance(rule, Unrolled | None)), *solvers]:
        allowed = "no solver, and the gradient 'unrolled', which is its own"
        raise ValueError(f"{one} {lacking}; allowed: {allowed}.")
    for phase in config.phases:
        for owner in (phase, phase.attack) if phase.attack_steps else (phase,):
            if given := owner.solver_steps:
                whose = "a phase" if owner is phase else f"the attack {phase.attack.name!r}"
                raise ValueError(f"solver_steps={given} of {whose} {lacking}; allowed: None.")
    if config.jacobian.weight:
        raise ValueError(f"jacobian with weight={config.jacobian.weight:g} {lacking}; allowed: weight=0.")


class TrainStep:
    """Called with a batch; moves ``model`` once. total: updates of the whole run. Of several processes each is called
    with its part of the batch; DDP averages their gradients. graphs: see ``Graphed``; of one process and piece."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, total: int,
        distributed: Distributed = SINGLE, graphs: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.config, self.total = model, optimizer, config, total
        self.deq, self.distributed = structure(model).deq, distributed
        # Of the schedule's rate, where an optimizer of one's own gives its groups several.
        self.shares = [float(group["lr"]) / config.learning_rate for group in optimizer.param_groups]
        if self.deq is None:
            _check_stateless(model, config)
        defences = {True: config.entropy_reduction, False: config.attack_entropy_reduction}
        self.defended = {update: defence and defence(model) for update, defence in defences.items()}
        self.graphed, self.epoch = Graphed(model, config.batch_size) if graphs else None, 0
        self.seen: nn.Module = self.graphed or model  # what attacks look at, never through DDP
        self.wrapped: Any = self.seen  # what the update goes through
        if graphs:
            device = next(model.parameters()).device
            if config.accumulate > 1 or distributed.world_size > 1 or device.type != "cuda":
                given = f"accumulate={config.accumulate} in {distributed.world_size} processes on {device}"
                raise ValueError(f"CUDA graphs of {given}; allowed: accumulate=1 in one process on a CUDA device.")
        if distributed.world_size > 1:
            ids = [distributed.device] if distributed.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the option
                self.wrapped = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    def __call__(self, x: Tensor, y: Tensor, step: int, epoch: int) -> StepResult:
        """x (B, C, H, W) in [0, 1], y (B,) int64; step: of the run, from 0."""
        config, pieces, world_size = self.config, self.config.accumulate, self.distributed.world_size
        rate = float(config.learning_rate * config.schedule.share((step + 1) / self.total))
        for group, share in zip(self.optimizer.param_groups, self.shares):
            group["lr"] = rate * share
        self.model.train()
        self.optimizer.zero_grad()
        put_back = buffers_of(self.model)
        means = torch.zeros(3, dtype=torch.float64)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(mix(config.seed, DROPOUT, step, self.distributed.rank))
            for piece, (images, labels) in enumerate(zip(x.chunk(pieces), y.chunk(pieces))):
                waits = piece < pieces - 1 and world_size > 1  # the last piece exchanges the gradients
                with self.wrapped.no_sync() if waits else nullcontext(), self._cast(x):
                    means += self._backward(self.wrapped, images, labels, step, epoch, piece) / pieces
        loss, accuracy, solver_steps = (self.distributed.all_reduce(means) / world_size).tolist()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            put_back()
            raise FloatingPointError(self._complaint(loss, norm, x, step))
        self.optimizer.step()
        if world_size > 1:
            self._share_buffers()
        return StepResult(loss, accuracy if config.phase(epoch).attack_steps else None, solver_steps, rate)

    def rehearse(self, x: Tensor, y: Tensor) -> None:
        """The first attack and backward pass of every phase on these images, which leave no trace."""
        put_back = buffers_of(self.model)
        starts = [0, *accumulate(phase.epochs for phase in self.config.phases)][:-1]
        self.model.train()
        try:
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), self._cast(x):
                for epoch in starts:
                    self._backward(self.seen, x, y, 0, epoch, 0)  # not through DDP: the processes exchange nothing
        finally:
            self.optimizer.zero_grad()
            put_back()

    def _cast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _backward(self, model: nn.Module, x: Tensor, y: Tensor, step: int, epoch: int, number: int) -> Tensor:
        """Add the gradient of a piece of the batch, through ``model``, to the parameters' own; its loss, accuracy,
        solver steps, (3,) float64."""
        config = self.config
        if self.graphed is not None and config.phase(epoch) is not config.phase(self.epoch):
            self.graphed.recordings.clear()  # their memory is given back, and the next forwards record anew
            self.epoch = epoch
        piece = Piece(config, self.seen, self.deq, self.defended, self.distributed, x, y, step, epoch, number)
        attacked = piece.attacked()

        def climbed() -> Tensor:
            return piece.reader(self.seen, update=True).losses(config.objective, x, attacked.images, y).total

        moved = perturbed(self.model, climbed, config.awp, self.distributed) if config.awp else nullcontext()
        with moved:
            updated = piece.reader(model, update=True, steps=piece.jacobian_steps)
            if attacked.z is not None:
                updated.resume(attacked, piece.phase.attack.warm)
            losses = updated.losses(config.objective, x, attacked.images, y)
            total = losses.total + piece.penalties(attacked.images)
            if not total.requires_grad:
                raise ValueError("the loss depends on no weight; allowed: a model that is trained by gradients.")
            (1 / config.accumulate * total).backward()
        solver_steps = torch.as_tensor(updated.steps).float().mean()
        values = [float(total.detach()), float(losses.correct_adv.float().mean()), float(solver_steps)]
        return torch.tensor(values, dtype=torch.float64)

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
        return f"{text} In another folder, lower learning_rate or damp the solver; or look at this batch."
