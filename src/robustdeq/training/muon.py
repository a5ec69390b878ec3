"""Muon for a network with convolutions: torch's for what is a matrix once it is flattened, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` on every weight that is a matrix, or one (filters, inputs of a filter) when it is flattened;
    ``torch.optim.AdamW`` on gains, biases and whatever else is a vector (Jordan et al. 2024; Liu et al. 2025,
    arXiv 2502.16982).

    One learning rate does for both: an update of a matrix is scaled to the size that AdamW's would have. lr,
    weight_decay: of both. momentum, ns_steps: of Muon. beta1, beta2: of AdamW.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.95,
        ns_steps: int = 5, beta1: float = 0.9, beta2: float = 0.999,
    ) -> None:  # fmt: skip
        if ns_steps < 1:
            raise ValueError(f"ns_steps={ns_steps}; allowed: a whole number > 0")
        weights = list(params)
        kinds = [weight.dim() > 1 and min(_flat(weight).shape) > 1 for weight in weights]
        groups = [
            {"params": [weight for weight, kind in zip(weights, kinds) if kind is matrix], "matrix": matrix}
            for matrix in (True, False)
            if matrix in kinds
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.options = {
            True: {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"},
            False: {"betas": (beta1, beta2)},
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._move(weights, group)
        return loss

    def _move(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        flats = [nn.Parameter(_flat(weight.detach())) for weight in weights]
        make = torch.optim.Muon if group["matrix"] else torch.optim.AdamW
        options = self.options[group["matrix"]]
        inner: Any = make(flats, lr=group["lr"], weight_decay=group["weight_decay"], **options)
        for flat, weight in zip(flats, weights):  # what is remembered of a weight is its own, also in a checkpoint
            flat.grad = _flat(weight.grad)  # type: ignore[arg-type]
            inner.state[flat] = self.state[weight]
        inner.step()
        for flat, weight in zip(flats, weights):
            if flat.data_ptr() != weight.data_ptr():  # channels innermost: flattening copies
                weight.copy_(flat.view_as(weight))


def _flat(weight: Tensor) -> Tensor:
    """A matrix (filters, inputs of a filter) of a weight of more than two dimensions; else the weight."""
    return weight.flatten(1) if weight.dim() > 2 else weight
