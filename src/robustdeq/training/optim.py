"""What moves the weights: optimizers, with the options of their signatures, the learning rate by step; the average of
the weights, which follows them."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from ..checks import Number, PositiveShare, Share
from ..files import first_line
from ..options import Registry, check_options, choose, convert, describe
from ..text import shown


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
        weights = {True: [], False: []}
        for weight in params:
            weights[weight.dim() > 1 and min(_flat(weight).shape) > 1].append(weight)
        groups = [{"params": those, "matrix": matrix} for matrix, those in weights.items() if those]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        matrices = {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        self.inner: dict[bool, Any] = {
            True: partial(torch.optim.Muon, **matrices), False: partial(torch.optim.AdamW, betas=(beta1, beta2)),
        }  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            flats = [nn.Parameter(_flat(weight.detach())) for weight in weights]
            # Made anew at every step, since the gradients lie in other memory; all that it remembers is the state.
            inner = self.inner[group["matrix"]](flats, lr=group["lr"], weight_decay=group["weight_decay"])
            for flat, weight in zip(flats, weights):  # what is remembered of a weight is its own, also in a checkpoint
                flat.grad = _flat(weight.grad)
                inner.state[flat] = self.state[weight]
            inner.step()
            for flat, weight in zip(flats, weights):
                if flat.data_ptr() != weight.data_ptr():  # channels innermost: flattening copies
                    weight.copy_(flat.view_as(weight))
        return loss


def _flat(weight: Tensor) -> Tensor:
    """A matrix (filters, inputs of a filter) of a weight of more than two dimensions; else the weight."""
    return weight.flatten(1) if weight.dim() > 2 else weight


OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "muon": (Muon, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}
"""Names, torch's classes, and the options that differ from torch's own defaults."""
FUSED = (torch.optim.Adam, torch.optim.AdamW)


@dataclass(frozen=True)
class Optimizer:
    """What makes the optimizer of a run. make: a torch optimizer's class, or a function of one's own, called with
    (parameters, lr=, weight_decay=, **options)."""

    make: Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def resolve(cls, spec: Any) -> Optimizer:
        """From a name, ``{"name": ..., option: value}``, what makes one, or itself; a ValueError otherwise."""
        if callable(spec):
            return spec if isinstance(spec, cls) else cls(spec)  # type: ignore[arg-type]
        options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        make, ours = choose("optimizer", options.pop("name", None), OPTIMIZERS, "a torch.optim.Optimizer class")
        fields = inspect.signature(make).parameters
        check_options("optimizer", options, [name for name in fields if name not in ("params", "lr", "weight_decay")])
        for name, value in options.items():
            default, whole = fields[name].default, fields[name].annotation in (int, "int")
            if isinstance(default, bool | float | int):  # torch would take any value for true, and true for 1
                convert("optimizer", name, value, bool if isinstance(default, bool) else int if whole else float)
        optimizer = cls(make, {**ours, **options})
        try:
            weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2, 2))]
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            optimizer(weights, lr=1.0, weight_decay=0.0).step()
        except Exception as error:  # torch looks at some options, and stumbles over others
            raise ValueError(f"optimizer {shown(spec)}: {first_line(error)}.") from error
        return optimizer

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """On a CUDA device torch's Adam and AdamW move all weights in one kernel."""
        weights, options = list(parameters), dict(self.options)
        if self.make in FUSED and all(weight.is_cuda for weight in weights):
            options = {"fused": True, **options}
        return self.make(weights, lr=lr, weight_decay=weight_decay, **options)

    def to_dict(self) -> dict[str, Any]:
        """JSON: its name, or of one's own where it is defined, and its options."""
        names: dict[Any, str] = {make: name for name, (make, _) in OPTIMIZERS.items()}
        head = {"name": names[self.make]} if self.make in names else {"class": describe(self.make)}
        return {**head, **describe(self.options)}


class Schedule(ABC):
    """The learning rate of every step, as a share of its peak."""

    name: ClassVar[str]

    @abstractmethod
    def share(self, done: float) -> float:
        """In [0, 1]; done: the share of the run that is over after this step, in (0, 1]."""


SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule)
"""The schedules of the learning rate by name."""


@SCHEDULES.register
@dataclass(frozen=True)
class OneCycle(Schedule):
    """Linear to the peak over the first ``warmup`` of the run, then a cosine to 0."""

    name: ClassVar[str] = "one-cycle"
    warmup: Annotated[float, Number(0, 1, low_open=True, high_open=True)] = 0.3

    def share(self, done: float) -> float:
        if done <= self.warmup:
            return done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


@SCHEDULES.register
@dataclass(frozen=True)
class Cosine(Schedule):
    """From the peak along a cosine to ``floor`` of it (the papers: lr 1e-3 to 1e-6)."""

    name: ClassVar[str] = "cosine"
    floor: Share = 1e-3

    def share(self, done: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULES.register
@dataclass(frozen=True)
class MultiStep(Schedule):
    """The peak, times ``factor`` at each of the ``milestones``, which are shares of the run."""

    name: ClassVar[str] = "multi-step"
    milestones: Sequence[PositiveShare] = (0.5, 0.75)
    factor: PositiveShare = 0.1

    def share(self, done: float) -> float:
        return self.factor ** sum(done > milestone for milestone in self.milestones)


def average_of(model: nn.Module, decay: float) -> nn.Module:
    """A copy of the model for the moving average of its weights, which begins at them (see ``follow``)."""
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except RuntimeError as error:  # a weight that is made anew from others, as the old weight_norm leaves it
        why = f"ema={decay} of a model that cannot be copied ({first_line(error)})"
        raise ValueError(f"{why}; allowed: 0, or weights of torch.nn.utils.parametrizations.") from error


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """w <- decay w + (1 - decay) w', weights and BatchNorm statistics alike, after update ``step``, from 1."""
    decay = min(decay, step / (9 + step))  # smaller early on: the first random weights are soon forgotten
    mine, theirs = (chain(module.parameters(), module.buffers()) for module in (average, model))
    for value, new in zip(mine, theirs):
        if value.is_floating_point():
            value.lerp_(new, 1 - decay)
        else:  # BatchNorm's number of batches
            value.copy_(new)
