"""Input entropy reduction along the neural dynamics (P23 sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import Count, Natural, Pixels, Positive, check_images, described, set_step_size
from ..counting import graph_bytes
from ..dynamics import Map, SolverState, drive
from ..models.cell import CellMap
from ..models.deq import ClassifierTrajectory, DEQClassifier
from ..models.modes import evaluating, trackable, unwrapped
from ..models.structure import Defended, Sign
from ..options import checked

KEPT = 2**30
"""Bytes of graphs of updates that are kept for an end-to-end gradient, which is faster than to make them again."""


@checked
@dataclass(frozen=True)
class EntropyReduction:
    """The defence, to be put on a model: ``defended = EntropyReduction(...)(model)``.

    After every ``every`` solver steps, except the last, the input takes ``updates`` signed gradient steps that lower
    the entropy of the prediction, z held fixed; it stays within ``eps`` (L-inf) of the image and within [0, 1].
    eps, step_size: in pixel units of [0, 1]; a step is eps / 4 unless it is said. updates: R, 0 leaves the model as it
    is. every: T_f.
    """

    eps: Annotated[float, Pixels(0, 1)] = 8 / 255
    step_size: Annotated[float, Pixels(0, 1, unset=True)] = None  # type: ignore[assignment]
    updates: Natural = 10
    every: Count = 2

    def __post_init__(self) -> None:
        set_step_size(self, self.eps)

    @classmethod
    def usual(cls, eps: float, steps: int | None) -> EntropyReduction:
        """As the command line and the live page put it on a model of N = ``steps``, None where it has none."""
        return cls(eps, every=2 if steps is None else min(2, steps))

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
    """A DEQ classifier defended by input entropy reduction. The defence belongs to inference: the model is in eval mode
    during a forward."""

    model: DEQClassifier
    method: EntropyReduction

    def __init__(self, model: nn.Module, method: EntropyReduction) -> None:
        if not isinstance(model, DEQClassifier):
            raise ValueError(f"EntropyReduction: the model is a {type(model).__name__}; allowed: a DEQClassifier.")
        if not isinstance(method, EntropyReduction):
            kind = type(method).__name__
            raise ValueError(f"RegulatedClassifier: the method is a {kind}; allowed: an EntropyReduction.")
        if method.every > model.steps:
            steps = f"1..{model.steps}, the model's number of steps"
            raise ValueError(f"EntropyReduction: every={method.every}; allowed: {steps}.")
        super().__init__(model, method)
        self.looks = tuple(range(method.every, model.steps, method.every))

    def forward(self, x: Tensor) -> Tensor:
        return self._read(self._solve(x).z)

    def end_to_end(self, x: Tensor, sign: Sign) -> Tensor:
        return self._read(self._solve(x, through=sign).z)

    @torch.no_grad()
    def trajectory(self, x: Tensor) -> ClassifierTrajectory:
        """The regulated dynamics; ``inputs[t-1]`` is the x' (B, C, H, W) that step t used."""
        return self._solve(x, record=True)

    def _read(self, z: Tensor) -> Tensor:
        """Logits (B, K) of a state, as the model in eval mode reads it."""
        with evaluating(self.model):
            return self.model.read(z)

    def _solve(self, x: Tensor, record: bool = False, through: Sign | None = None) -> ClassifierTrajectory:
        model, wanted = self.model, torch.is_grad_enabled()
        check_images(x, model.image_shape)
        # In inference mode no gradient of the entropy could be taken. Grad mode stays as it is.
        with evaluating(model), torch.inference_mode(False), torch.set_grad_enabled(wanted):
            x = trackable(x)
            f = model.map(x)
            regulator = _Regulator(self, x, f, through if wanted else None)
            trajectory = drive(model.solver, f, model.zeros(x), model.steps, regulate=regulator, record=record)
        return ClassifierTrajectory(**vars(trajectory), readout=self._read, inputs=tuple(regulator.inputs))


class _Regulator:
    """Changes the input of one forward between two solver steps; x' is never reset between the blocks of updates.
    through: sign(g) of the end-to-end gradient; None, the frozen setting, holds x' - x constant (BPDA). inputs: the x'
    of every step."""

    def __init__(self, defended: RegulatedClassifier, x: Tensor, f: CellMap, through: Sign | None) -> None:
        self.model, self.method = defended.model, defended.method
        self.x, self.f, self.through, self.inputs = x, f, through, [x]
        self.count, self.graphs = len(defended.looks) * self.method.updates, cast(int | None, None)

    def __call__(self, state: SolverState) -> Map | None:
        """The map of the next step, after one block of signed steps down the entropy where it is time for one."""
        adjusted, x = self.inputs[-1], self.x
        self.inputs.append(adjusted)
        if state.t % self.method.every or not self.method.updates:
            return None
        prepared = self.f.prepare(state.z)
        if self.through is None:
            adjusted, x = adjusted.detach(), x.detach()
            for _ in range(self.method.updates):
                adjusted = self._update(adjusted, x, prepared)
            adjusted = adjusted + (self.x - x)  # this value, the gradient of x
        else:
            for _ in range(self.method.updates):
                adjusted = self._followed(adjusted, x, prepared)
        self.inputs[-1] = adjusted
        self.f = self.f.at(self.model.inject(adjusted), state.z, prepared)
        return self.f

    def _followed(self, adjusted: Tensor, x: Tensor, prepared: Any) -> Tensor:
        """An update whose graph is kept where those of all of them fit in ``KEPT``, as the first one tells; else its x'
        alone is, and the backward pass makes the graph again."""
        if self.graphs is None:
            adjusted, graph = graph_bytes(lambda: self._update(adjusted, x, prepared))
            self.graphs = graph * self.count
            return adjusted
        if self.graphs <= KEPT:
            return self._update(adjusted, x, prepared)
        return checkpoint(self._update, adjusted, x, prepared, use_reentrant=False, preserve_rng_state=False)

    def _update(self, adjusted: Tensor, x: Tensor, prepared: Any) -> Tensor:
        """One step against the sign of dH / dx', z held fixed, cut to the ball around x and to the box. (B, C, H, W)"""
        exact = self.through is not None
        at = adjusted.clone() if exact else adjusted.detach()  # not ``adjusted`` itself, which z may depend on
        self.f.tally.updates += len(at)
        with torch.enable_grad(), evaluating(self.model):  # the backward pass comes here again, in any mode
            at.requires_grad_()
            z = self.f.cell.finish(prepared, self.model.inject(at), self.f.constants)
            height, slope = entropy(self.model.read(z)).sum(), None
            if height.requires_grad:
                slope = torch.autograd.grad(height, at, create_graph=exact, allow_unused=True)[0]
            if slope is None:
                wanted = "an inject, a cell and a readout that autograd can follow (no detach)"
                raise ValueError(f"EntropyReduction: the prediction has no gradient in the image; allowed: {wanted}.")
        moved = adjusted - self.method.step_size * (slope.sign() if self.through is None else self.through(slope))
        low, high = x - self.method.eps, x + self.method.eps
        return torch.minimum(torch.maximum(moved, low), high).clamp(0, 1)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of softmax(logits) in nats, per sample. (B, K) -> (B,)"""
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"entropy: logits are {described(logits)}; allowed: a tensor (B, K).")
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)
