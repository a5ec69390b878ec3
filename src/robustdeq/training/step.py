"""One update: attack, losses, regularisers, gradient, and nothing at all if something is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..dynamics.trajectory import known
from ..models.classifier import DEQClassifier
from ..seeds import generator, mix
from .config import TrainConfig
from .objectives import Losses, Reader
from .regularise import perturbed

DATA, AUGMENT, STATES, ATTACK, DROPOUT, JACOBIAN = range(6)
"""Places where a run draws random numbers (see ``seeds``)."""


@dataclass(frozen=True)
class Found:
    """loss: of the update. accuracy_adv: on the attacked batch, in [0, 1]. learning_rate: that was used."""

    loss: float
    accuracy_adv: float
    learning_rate: float


class TrainStep:
    """Called with a batch; moves ``model`` once. ``total``: updates of the whole run."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, total: int) -> None:
        self.model, self.optimizer, self.config, self.total = model, optimizer, config, total
        self.parts = config.parts()

    def __call__(self, x: Tensor, y: Tensor, step: int, epoch: int) -> Found:
        """x (B, C, H, W) in [0, 1], y (B,) int64; step: of the run, from 0."""
        rate = self.config.learning_rate * self.parts.schedule.share((step + 1) / self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mix(self.config.seed, DROPOUT, step))
            loss, accuracy = self._gradients(x, y, step, epoch)
        self._guard(loss, x, step)
        self.optimizer.step()
        return Found(loss, accuracy, rate)

    def _gradients(self, x: Tensor, y: Tensor, step: int, epoch: int) -> tuple[float, float]:
        """Leave the gradient of the batch in the parameters; its mean loss and accuracy."""
        loss = correct = 0.0
        pieces = zip(x.chunk(self.config.accumulate), y.chunk(self.config.accumulate))
        for piece, (x_part, y_part) in enumerate(pieces):
            attacker, updated = self._readers(step, piece, epoch)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                x_adv = self._attack(attacker, x_part, y_part, step, piece, epoch)
                with self._perturbed(updated, x_part, x_adv, y_part):
                    losses = self._losses(updated, x_part, x_adv, y_part, step, piece, epoch)
                    (losses.total / self.config.accumulate).backward()
            loss += float(losses.total.detach()) / self.config.accumulate
            correct += float(losses.correct_adv.float().sum())
        return loss, correct / len(x)

    def _readers(self, step: int, piece: int, epoch: int) -> tuple[Reader, Reader]:
        """The model as the attack and as the update see it, with one stream of states for both."""
        phase, parts = self.config.phase(epoch), self.parts
        steps = phase.solver_steps or getattr(self.model, "steps", 1)
        states = generator(self.config.seed, STATES, step, piece)

        def reader(gradient) -> Reader:
            chosen = gradient if phase.gradient is None else phase.gradient
            return Reader(self.model, lambda: parts.states.draw(steps, states), chosen, phase.solver)

        return reader(parts.attack_gradient), reader(parts.gradient)

    def _attack(self, attacker: Reader, x: Tensor, y: Tensor, step: int, piece: int, epoch: int) -> Tensor:
        phase = self.config.phase(epoch)
        seed = mix(self.config.seed, ATTACK, step, piece)
        attack = self.parts.objective.attack(self.parts.threat, phase.attack_steps, phase.step_size, seed)
        return attack(attacker, x, y)

    def _losses(
        self, updated: Reader, x: Tensor, x_adv: Tensor, y: Tensor, step: int, piece: int, epoch: int
    ) -> Losses:
        losses = self.parts.objective.losses(updated, x, x_adv, y)
        if not isinstance(self.model, DEQClassifier):
            return losses
        random = generator(self.config.seed, JACOBIAN, step, piece)
        steps = self.config.jacobian.draw(epoch, random)
        if steps is None:
            return losses
        return Losses(losses.total + self.config.jacobian(self.model, x_adv, steps, random), losses.correct_adv)

    @contextmanager
    def _perturbed(self, updated: Reader, x: Tensor, x_adv: Tensor, y: Tensor) -> Iterator[None]:
        """The weights moved up the loss, where adversarial weight perturbation is on."""
        if not self.config.awp:
            yield
            return
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        total = self.parts.objective.losses(updated, x, x_adv, y).total
        slopes = torch.autograd.grad(total, list(self.model.parameters()), allow_unused=True)
        for buffer, kept in zip(self.model.buffers(), buffers):
            buffer.copy_(kept)  # BatchNorm sees the batch once
        with perturbed(self.model, slopes, self.config.awp):
            yield

    def _guard(self, loss: float, x: Tensor, step: int) -> None:
        """Clip the gradient; stop before the update if it or the loss is not finite."""
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise FloatingPointError(
            f"step {step}: loss {loss}, gradient norm {norm}{self._residuals(x)}; nothing was updated, and the run as "
            "it was before this step is kept. Lower learning_rate, damp the solver, or look at this batch."
        )

    def _residuals(self, x: Tensor) -> str:
        if not isinstance(self.model, DEQClassifier):
            return ""
        found = known(self.model.trajectory(x).residuals)[-1]
        bad = int((~found.isfinite()).sum())
        median = float(found.nanmedian())
        return f", relative residual {median:.3g} (median), {bad} of {len(x)} samples not finite"
