"""What the adapters to other attack libraries share. The libraries are asked for images, and believed in nothing."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import random
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import Count, Seed, beyond_the_box, check_labels
from ..files import first_line
from ..options import check_options, choose
from ..seeds import mix
from ..text import shown
from .door import at_the_door, logits_of
from .losses import predictions
from .threat import OfThreat
from .views import as_one


class AttackObject(str):
    """An attack object of a library, written down as its own description."""

    object: Any

    def __new__(cls, attack: Any) -> AttackObject:
        text = super().__new__(cls, re.sub(r" at 0x[0-9a-f]+", "", repr(attack)))  # no address, no two runs share it
        text.object = attack
        return text

    def __getnewargs__(self) -> tuple[Any]:  # a copy is made of the object, not of its description
        return (self.object,)


class Seen(nn.Module):
    """All that a library sees of a model: ``logits(x)``. The model itself is no submodule, so it cannot be moved to a
    device, switched to another mode or cleared of its gradients."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


@dataclass(frozen=True)
class Wrapped(ABC):
    """x_adv = attack(model, x, y), by another library. Its classes say what the fields mean."""

    threat: OfThreat
    attack: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: Seed = 0
    batch_size: Count = 250
    version: str = field(init=False, default="")
    """Of the library; it stands in the record of an evaluation."""

    package: ClassVar[tuple[str, str, str]]
    """The library as it is imported, as it is installed, and the extra of this package that installs it."""
    base: ClassVar[str]
    """The class of all attacks of the library, module:name."""

    def __post_init__(self) -> None:
        owner, (module, distribution, extra) = type(self).__name__, self.package
        try:
            importlib.import_module(module)
            object.__setattr__(self, "version", version(distribution))
        except ImportError as error:
            why = f"{distribution} cannot be imported ({first_line(error)})"
            raise ValueError(f"{owner}: {why}; allowed: with pip install 'robustdeq[{extra}]'.") from error
        if not isinstance(self.attack, str):
            if not isinstance(self.attack, pkgutil.resolve_name(self.base)) or self.options:
                given = f"attack={shown(self.attack)} with options={shown(dict(self.options))}"
                wanted = f"the name of an attack of {distribution} and its options, or an object and none"
                raise ValueError(f"{owner}: {given}; allowed: {wanted}.")
            object.__setattr__(self, "attack", AttackObject(self.attack))

    @abstractmethod
    def generate(self, seen: Seen, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """What the library makes of x (B, C, H, W), float32 in [0, 1], which ``seen`` classifies correctly as y."""

    @at_the_door
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) inside the ball and the box: what the library found, projected. x: in [0, 1]. y: (B,)
        int64. indices: (B,) the samples' numbers in their data set; without them their places in the batch."""
        one = as_one(model)

        def seen(images: Tensor) -> Tensor:
            return logits_of(self, one, images.to(x)).to(images)

        with torch.no_grad():
            clean = seen(x.float())
        check_labels(x, y, clean.shape[1])
        x_adv, correct = x.clone(), predictions(clean) == y
        numbers = torch.arange(len(x), device=x.device) if indices is None else indices.to(x.device)
        # Of an image that is wrong already some make NaN, or never come back.
        for rows in torch.nonzero(correct).flatten().split(self.batch_size):
            if not len(rows):  # the one piece of none
                continue
            at = x[rows]
            seed = mix(self.seed, int(numbers[rows[0]]))
            with process_as_it_was():
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
                images = self._generate(Seen(seen), at.float().clamp(0, 1), y[rows], clean[rows]).detach().to(x)
            x_adv[rows] = self.threat.project(at, torch.where(images.isfinite(), images, at))
        with torch.no_grad():
            stands = correct & (predictions(seen(x_adv.float())) == y)
        # The smallest perturbation lies on the boundary, where rounding decides; a little more of it lies behind.
        x_adv[stands] = self.threat.project(x[stands], x[stands] + 1.01 * (x_adv[stands] - x[stands]))
        return x_adv

    def _generate(self, seen: Seen, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """What is found; some libraries look outside of the box on their way, and some at their options only now."""
        try:
            with beyond_the_box():
                return self.generate(seen, x, y, logits)
        except (TypeError, IndexError) as error:
            given = f"{self.attack} with options={shown(dict(self.options))} on {logits.shape[1]} classes"
            wanted = f"what {self.package[1]} {self.version} takes"
            raise ValueError(f"{type(self).__name__}: {given} ({first_line(error)}); allowed: {wanted}.") from error

    def kind(self, names: tuple[str, ...] = ("{}",)) -> type:
        """The class that ``attack`` names, in whatever case; names: longer forms of a short name, the first one that
        exists is taken."""
        if isinstance(self.attack, AttackObject):
            return type(self.attack.object)
        library, base = vars(importlib.import_module(self.package[0])), pkgutil.resolve_name(self.base)
        classes = {n: c for n, c in library.items() if isinstance(c, type) and issubclass(c, base) and c != base}
        lower = {name.lower(): name for name in classes}
        long = [lower.get(name.format(self.attack).lower()) for name in names]
        return choose(f"attack of {self.package[1]}", next(filter(None, long), self.attack), classes, "an object")

    def make(self, cls: type, *args: Any, **defaults: Any) -> Any:
        """An attack object with ``options``, and with those of the defaults that it has and that are not given."""
        allowed = list(inspect.signature(cls).parameters)[len(args) :]
        check_options(cls.__name__, self.options, allowed)
        options = {**{name: value for name, value in defaults.items() if name in allowed}, **self.options}
        try:
            return cls(*args, **options)
        except (TypeError, ValueError, AssertionError, NotImplementedError, ImportError) as error:
            given = f"options={shown(options)} ({first_line(error)})"
            raise ValueError(f"{cls.__name__}: {given}; allowed: what {self.package[1]} takes.") from error

    def check_norm(self, name: str, norm: Any) -> None:
        """``norm``, of an attack of this name, is the threat's, or unknown."""
        wanted = {"Linf": float("inf"), "L2": 2.0}.get(self.threat.name)
        if norm is not None and wanted is not None and float(norm) != wanted:
            given = f"{name} goes by the L{float(norm):g} distance, the threat is {self.threat}"
            raise ValueError(f"{type(self).__name__}: {given}; allowed: the same distance in both.")


@contextmanager
def process_as_it_was() -> Iterator[None]:
    """Put back what a library changes beyond its own objects: the generators of Python, numpy and torch, torch's
    default dtype, which is float32 meanwhile, the handlers of the root log, to which one message of foolbox adds one,
    and the tracer (a debugger's, a coverage tool's), which pyautoattack removes after it has counted calls with its
    own."""
    python, numpy, tracer = random.getstate(), np.random.get_state(), sys.gettrace()
    dtype, handlers = torch.get_default_dtype(), logging.root.handlers[:]
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        logging.root.handlers[:] = handlers
        sys.settrace(tracer)
        torch.set_default_dtype(dtype)
