"""Forwards of training and their backward passes, recorded once as CUDA graphs: no kernel is launched from Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.modes import buffers_of
from ..models.structure import structure

RECORDED = 4
"""Passes that a recording takes: three to warm up, and its own."""


class Graphed(nn.Module):
    """``model``, whose forwards of ``batch`` images with a gradient are recorded at the first call of their kind, and
    replayed from then on: of a mode, options, and what asks for a gradient. Any other forward is the model's own, such
    as one on the CPU, of fewer images, without a gradient, or with a tensor among its options.

    The numbers are the model's own. Outputs and gradients lie where the next update writes its own.
    """

    def __init__(self, model: nn.Module, batch: int) -> None:
        super().__init__()
        self.model, self.batch = model, batch
        self.norms: list[Any] = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.recordings: dict[tuple[Any, ...], list[_Recording]] = {}

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        asking = x.requires_grad, any(parameter.requires_grad for parameter in self.model.parameters())
        fixed = not any(isinstance(option, Tensor) for option in options.values())
        if not (x.is_cuda and len(x) == self.batch and torch.is_grad_enabled() and any(asking) and fixed):
            return self.model(x, **options)
        kept = tuple(norm.momentum for norm in self.norms)  # see ``statistics_kept``
        kind = (self.model.training, *asking, torch.is_autocast_enabled("cuda"), kept, repr(sorted(options.items())))
        alike = self.recordings.setdefault(kind, [])
        free = next((recording for recording in alike if not recording.waits), None)
        if free is None:  # a second forward before the first one's backward pass has a graph of its own
            free = _Recording(self.model, x, options)
            alike.append(free)
        return free(x)


class _Fixed(nn.Module):
    """A model with its options, as what is recorded must be: called with images alone."""

    def __init__(self, model: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.options, self.training = model, options, model.training

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, **self.options)


class _Recording:
    """waits: True from a forward until its backward pass; until then a replay would overwrite what that pass reads."""

    def __init__(self, model: nn.Module, x: Tensor, options: dict[str, Any]) -> None:
        self.waits, self.tally = False, structure(model).tally
        before = self.tally.evaluations, self.tally.backward
        put_back = buffers_of(model)  # BatchNorm sees the images once a pass
        sample = torch.empty_like(x).copy_(x.detach()).requires_grad_(x.requires_grad)
        half, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype, enabled=half, cache_enabled=False):
            self.replay: Any = torch.cuda.make_graphed_callables(
                _Fixed(model, options), (sample,), num_warmup_iters=RECORDED - 1, allow_unused_input=True
            )
        put_back()
        self.evaluations = (self.tally.evaluations - before[0]) // RECORDED
        self.backward = (self.tally.backward - before[1]) // RECORDED
        self.tally.evaluations, self.tally.backward = before

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.replay(x)
        self.tally.evaluations += self.evaluations
        self.waits = True
        logits.register_hook(self._passed)
        return logits

    def _passed(self, grad: Tensor) -> None:
        self.tally.backward += self.backward
        self.waits = False
