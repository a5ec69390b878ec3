"""Input entropy reduction along the neural dynamics (P23 sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import Count, Natural, Positive, Share, check_images
from ..dynamics import Map, SolverState, Trajectory, drive
from ..models.deq import CellMap, ClassifierTrajectory, DEQClassifier
from ..models.modes import evaluating, unwrapped
from ..options import checked
from .defended import Defended


@checked
@dataclass(frozen=True)
class EntropyReduction:
    """The defence, to be put on a model: ``defended = EntropyReduction(...)(model)``.

    After every ``every`` solver steps, except the last, the input takes ``updates`` signed gradient steps that lower
    the entropy of the prediction, z held fixed; it stays within ``eps`` (L-inf) of the image and within [0, 1].

    eps, step_size: in pixel units of [0, 1]. updates: R, 0 leaves the model as it is. every: T_f.
    """

    eps: Share = 8 / 255
    step_size: Share = 2 / 255
    updates: Natural = 10
    every: Count = 2

    def __call__(self, model: nn.Module) -> RegulatedClassifier:
        return RegulatedClassifier(unwrapped(model), self)


@checked
@dataclass(frozen=True)
class SmoothSign:
    """sign(g) in the forward pass, the slope of tanh(g / (temperature * mean |g|)) in the backward pass."""

    temperature: Positive = 1.0

    def __call__(self, g: Tensor) -> Tensor:
        scale = self.temperature * g.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
        soft = torch.tanh(g / scale.clamp_min(torch.finfo(g.dtype).tiny ** 0.5))
        return g.detach().sign() + (soft - soft.detach())


class RegulatedClassifier(Defended):
    """A DEQ classifier defended by input entropy reduction: logits = defended(x), x (B, C, H, W) in [0, 1].

    The defence belongs to inference: the model is in eval mode during a forward. The plain gradient of ``forward``
    holds x' - x constant (BPDA, the "frozen" threat setting); that of ``end_to_end`` passes the updates as well.
    """

    model: DEQClassifier
    method: EntropyReduction

    def __init__(self, model: nn.Module, method: EntropyReduction) -> None:
        if not isinstance(model, DEQClassifier):
            raise ValueError(f"EntropyReduction: the model is a {type(model).__name__}; allowed: a DEQClassifier.")
        if method.every > model.steps:
            allowed = f"1..{model.steps}, the model's number of steps"
            raise ValueError(f"EntropyReduction: every={method.every}; allowed: {allowed}.")
        super().__init__(model, method)

    @property
    def looks(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(range(self.method.every, self.model.steps, self.method.every))

    def forward(self, x: Tensor) -> Tensor:
        return self._read(self._solve(x)[0].z)

    def end_to_end(self, x: Tensor, sign: Callable[[Tensor], Tensor]) -> Tensor:
        return self._read(self._solve(x, through=sign)[0].z)

    @torch.no_grad()
    def trajectory(self, x: Tensor) -> ClassifierTrajectory:
        """The regulated dynamics; ``inputs[t-1]`` is the x' (B, C, H, W) that step t used."""
        trajectory, inputs = self._solve(x, record=True)
        return ClassifierTrajectory.of(trajectory, self._read, inputs)

    def _read(self, z: Tensor) -> Tensor:
        """Logits (B, K) of a state, as the model in eval mode reads it."""
        with evaluating(self.model):
            return self.model.readout(z)

    def _solve(
        self, x: Tensor, record: bool = False, through: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Trajectory, tuple[Tensor, ...]]:
        model = self.model
        check_images(x, model.image_shape)
        with evaluating(model), _differentiable():
            x = x.clone() if x.is_inference() else x
            f = model.map(x)
            regulator = _Regulator(model, self.method, x, f, through if torch.is_grad_enabled() else None)
            trajectory = drive(model.solver, f, model.zeros(x), model.steps, regulate=regulator, record=record)
        return trajectory, regulator.inputs(model.steps)


@contextmanager
def _differentiable() -> Iterator[None]:
    """Leave inference mode, in which no gradient of the entropy could be taken; grad mode stays as it is."""
    wanted = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(wanted):
        yield


class _Regulator:
    """Changes the input of one forward between two solver steps. x' is never reset between the blocks of updates.

    through: of the end-to-end gradient; None holds x' - x constant.
    """

    def __init__(
        self, model: DEQClassifier, method: EntropyReduction, x: Tensor, f: CellMap,
        through: Callable[[Tensor], Tensor] | None,
    ) -> None:  # fmt: skip
        self.model, self.method, self.x, self.f, self.through = model, method, x, f, through
        self.adjusted = x
        self.changes: list[tuple[int, Tensor]] = [(0, x)]

    def __call__(self, state: SolverState) -> Map | None:
        if state.t % self.method.every or not self.method.updates:
            return None
        prepared = self.f.prepare(state.z)
        self.adjusted = self._updated(prepared)
        self.changes.append((state.t, self.adjusted))
        self.f = self.f.at(self.model.inject(self.adjusted), state.z, prepared)
        return self.f

    def _updated(self, prepared: Any) -> Tensor:
        """x' after one block of signed steps down the entropy. (B, C, H, W)"""
        if self.through is None:
            adjusted, x = self.adjusted.detach(), self.x.detach()
            for _ in range(self.method.updates):
                adjusted = self._update(adjusted, x, prepared)
            return adjusted + (self.x - x)  # this value, the gradient of x
        adjusted = self.adjusted
        for _ in range(self.method.updates):  # of each x' alone is kept; the backward pass makes its graph again
            adjusted = checkpoint(
                self._update, adjusted, self.x, prepared, use_reentrant=False, preserve_rng_state=False
            )
        return adjusted

    def _update(self, adjusted: Tensor, x: Tensor, prepared: Any) -> Tensor:
        """One signed step, cut to the ball around x and to the box. (B, C, H, W)"""
        slope = self._slope(adjusted, prepared)
        sign = slope.sign() if self.through is None else self.through(slope)
        moved = adjusted - self.method.step_size * sign
        low, high = x - self.method.eps, x + self.method.eps
        return torch.minimum(torch.maximum(moved, low), high).clamp(0, 1)

    def _slope(self, adjusted: Tensor, prepared: Any) -> Tensor:
        """dH / dx' with z, and so ``prepared``, held fixed. (B, C, H, W)"""
        exact = self.through is not None
        at = adjusted.clone() if exact else adjusted.detach()  # not ``adjusted`` itself, which z may depend on
        self.f.tally.updates += len(at)
        with torch.enable_grad(), evaluating(self.model):  # the backward pass comes here again, in any mode
            at.requires_grad_()
            z = self.f.cell.finish(prepared, self.model.inject(at), self.f.constants)
            return torch.autograd.grad(entropy(self.model.readout(z)).sum(), at, create_graph=exact)[0]

    def inputs(self, steps: int) -> tuple[Tensor, ...]:
        """The x' of every step 1..steps."""
        changed = dict(self.changes)
        used, current = [], self.x
        for t in range(steps):
            current = changed.get(t, current)
            used.append(current)
        return tuple(used)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of softmax(logits) in nats, per sample. (B, K) -> (B,)"""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)
