"""One update: attack, losses, regularisers, gradient, and nothing at all if something is not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..dynamics.trajectory import known
from ..gradients import Gradient, Steps
from ..models.classifier import DEQClassifier
from ..models.modes import evaluating, statistics_kept
from ..processes import ALONE, Processes
from ..seeds import generator, mix
from .config import TrainConfig
from .objectives import Losses, Reader
from .regularise import perturbed

DATA, AUGMENT, STATES, ATTACK, DROPOUT, JACOBIAN = range(6)
"""Places where a run draws random numbers (see ``seeds``)."""


@dataclass(frozen=True)
class Found:
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
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        total: int,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.optimizer, self.config, self.total = model, optimizer, config, total
        self.processes = processes
        self.wrapped = _wrapped(model, processes)
        self.parts = config.parts()

    def __call__(self, x: Tensor, y: Tensor, step: int, epoch: int) -> Found:
        """x (B, C, H, W) in [0, 1], y (B,) int64; step: of the run, from 0."""
        rate = self.config.learning_rate * self.parts.schedule.share((step + 1) / self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mix(self.config.seed, DROPOUT, step, self.processes.rank))
            sums = self._gradients(x, y, step, epoch)
        loss, accuracy, taken = (self.processes.total(sums) / self.processes.count).tolist()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            for buffer, before in zip(self.model.buffers(), buffers):
                buffer.copy_(before)
            raise FloatingPointError(self._complaint(loss, norm, x, step))
        self.optimizer.step()
        self._share_buffers()
        return Found(loss, accuracy, taken, rate)

    def _gradients(self, x: Tensor, y: Tensor, step: int, epoch: int) -> Tensor:
        """Leave the gradient of the batch in the parameters; its mean loss, accuracy and solver steps, (3,)."""
        pieces, size = self.config.accumulate, len(x) // self.config.accumulate
        sums = torch.zeros(3, dtype=torch.float64)
        for piece in range(pieces):
            rows = slice(piece * size, (piece + 1) * size)
            part = _Part(self, x[rows], y[rows], step, epoch, piece)
            cast = torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")
            with self._synchronised(piece == pieces - 1), cast:
                losses = part.backward(1 / pieces)
            found = [float(losses.total.detach()), float(losses.correct_adv.float().mean()), part.solver_steps]
            sums += torch.tensor(found, dtype=torch.float64) / pieces
        return sums

    def _synchronised(self, wanted: bool):
        """Of an accumulated batch only the last piece makes the processes exchange gradients."""
        if wanted or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def _share_buffers(self) -> None:
        """BatchNorm statistics become the mean over the processes (those of SyncBatchNorm are the same already)."""
        if self.processes.count == 1:
            return
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        if buffers:
            means = self.processes.total(torch.cat([b.flatten() for b in buffers])) / self.processes.count
            for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers])):
                buffer.copy_(mean.view_as(buffer))

    def _complaint(self, loss: float, norm: float, x: Tensor, step: int) -> str:
        return (
            f"step {step}: loss {loss}, gradient norm {norm}{self._residuals(x)}; nothing was updated, and the run as "
            "it was before this step is kept. Lower learning_rate, damp the solver, or look at this batch."
        )

    def _residuals(self, x: Tensor) -> str:
        """Of the images before they were attacked, in eval mode."""
        if not isinstance(self.model, DEQClassifier):
            return ""
        with evaluating(self.model):
            found = known(self.model.trajectory(x).residuals)[-1]
        bad = int((~found.isfinite()).sum())
        median = float(found.nanmedian())
        return f", relative residual {median:.3g} (median), {bad} of {len(x)} samples not finite"


def _wrapped(model: nn.Module, processes: Processes) -> nn.Module:
    """The model that the update goes through. Attacks look at the bare one."""
    if processes.count == 1:
        return model
    ids = [processes.device] if processes.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the option; older ones know only this name
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


class _Part:
    """One piece of a batch on its way through attack and losses.

    Attack and update share one stream of states, so that every process draws the same t at the same forward.
    """

    def __init__(self, owner: TrainStep, x: Tensor, y: Tensor, step: int, epoch: int, piece: int) -> None:
        self.owner, self.x, self.y, self.piece = owner, x, y, piece
        self.config, self.parts = owner.config, owner.parts
        self.step, self.epoch, self.phase = step, epoch, owner.config.phase(epoch)
        self.first = owner.processes.rank * len(x) * owner.config.accumulate + piece * len(x)
        self.states = generator(self.config.seed, STATES, step, piece)
        self.solver_steps = 0.0
        self.jacobian_steps = self._jacobian_steps()

    def backward(self, share: float) -> Losses:
        """Add ``share`` of the gradient of the losses at the attacked images to the parameters' own."""
        x_adv = self._attacked()
        with self._perturbed(x_adv):
            updated = self._reader(self.owner.wrapped, most=self.jacobian_steps)
            losses = self.parts.objective.losses(updated, self.x, x_adv, self.y)
            losses = Losses(losses.total + self._penalty(x_adv), losses.correct_adv)
            (share * losses.total).backward()
        return losses

    def _attacked(self) -> Tensor:
        """The start of a sample depends on its place in the whole batch, not on how the batch was divided."""
        phase, seed = self.phase, mix(self.config.seed, ATTACK, self.step)
        attack = self.parts.objective.attack(self.parts.threat, phase.attack_steps, phase.step_size, seed)
        attacker = self._reader(self.owner.model, self.parts.attack_gradient)
        return attack(attacker, self.x, self.y, indices=self.first + torch.arange(len(self.x)))

    def _reader(self, model: nn.Module, gradient: Gradient | None = None, most: int | None = None) -> Reader:
        """most: N, if it is not that of the phase."""
        gradient = self.parts.gradient if gradient is None else gradient
        chosen = gradient if self.phase.gradient is None else self.phase.gradient
        steps = most or self.phase.solver_steps or getattr(self.owner.model, "steps", 1)
        return Reader(model, lambda: self._draw(steps), chosen, self.phase.solver)

    def _draw(self, steps: int) -> Steps:
        drawn = self.parts.states.draw(steps, self.states, self.config.batch_size)
        self.solver_steps = float(drawn.float().mean()) if isinstance(drawn, Tensor) else float(drawn)
        return drawn[self.first : self.first + len(self.x)] if isinstance(drawn, Tensor) else drawn

    def _jacobian_steps(self) -> int | None:
        """N of an update that pays the Jacobian penalty, the same in every process; None for one that does not."""
        if not isinstance(self.owner.model, DEQClassifier):
            return None
        return self.config.jacobian.draw(self.epoch, generator(self.config.seed, JACOBIAN, self.step, self.piece))

    def _penalty(self, x_adv: Tensor) -> Tensor | float:
        """The Jacobian penalty; each process has its own probes."""
        model, steps = self.owner.model, self.jacobian_steps
        if steps is None or not isinstance(model, DEQClassifier):
            return 0.0
        probes = generator(self.config.seed, JACOBIAN, self.step, self.piece, 1 + self.owner.processes.rank)
        return self.config.jacobian(model, x_adv, steps, probes, self.phase.solver)

    @contextmanager
    def _perturbed(self, x_adv: Tensor) -> Iterator[None]:
        """The weights moved up the loss, where adversarial weight perturbation is on."""
        if not self.config.awp:
            yield
            return
        model, processes = self.owner.model, self.owner.processes
        with statistics_kept(model):
            total = self.parts.objective.losses(self._reader(model), self.x, x_adv, self.y).total
            slopes = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
        slopes = [processes.total(slope) for slope in slopes]
        with perturbed(model, slopes, self.config.awp):
            yield
