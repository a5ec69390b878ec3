"""Optimizers by name: torch's own, with the options of their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..options import check_options, choose, describe

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}
"""Names, torch's classes, and the options that differ from torch's own defaults."""


@dataclass(frozen=True)
class Optimizer:
    """What makes the optimizer of a run. make: a torch optimizer's class, or a function of one's own with ``make(
    parameters, lr=..., weight_decay=..., **options)``."""

    make: Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def resolve(cls, spec: Any) -> Optimizer:
        """From a name, ``{"name": ..., option: value}``, what makes one, or itself; a ValueError otherwise."""
        if isinstance(spec, cls):
            return spec
        if callable(spec):
            return cls(spec)  # type: ignore[arg-type]
        options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        make, ours = choose("optimizer", options.pop("name", None), OPTIMIZERS, "a torch.optim.Optimizer class")
        fields = {name: parameter.default for name, parameter in inspect.signature(make).parameters.items()}
        check_options("optimizer", options, [name for name in fields if name not in ("params", "lr", "weight_decay")])
        for name, value in options.items():
            if isinstance(fields[name], bool) and not isinstance(value, bool):
                raise ValueError(f"optimizer: {name}={value!r}; allowed: true or false.")
        optimizer = cls(make, {**ours, **options})
        try:
            optimizer([nn.Parameter(torch.zeros(1))], lr=1.0, weight_decay=0.0)
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer {spec!r}: {error}.") from error
        return optimizer

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
        return self.make(parameters, lr=lr, weight_decay=weight_decay, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """JSON: its name, or of one's own where it is defined, and its options."""
        names: dict[Any, str] = {make: name for name, (make, _) in OPTIMIZERS.items()}
        head = {"name": names[self.make]} if self.make in names else {"class": describe(self.make)}
        return {**head, **describe(self.options)}
