"""Borrow a module for a while and give it back as it was; look below its wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel, torch.compile, or a Sequential of one.

    These compute what the module inside computes. A wrapper with a hook of its own may not, and is left as it is.
    """
    while not (module._forward_hooks or module._forward_pre_hooks):
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(module, OptimizedModule):
            module = module._orig_mod
        elif type(module) is nn.Sequential and len(module) == 1:
            module = module[0]
        else:
            break
    return module


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """A forward in train mode inside normalises as ever, and leaves no trace in BatchNorm's running statistics."""
    parts = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept = [(part.momentum, part.num_batches_tracked) for part in parts]
    for part in parts:
        part.momentum, part.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for part, (momentum, count) in zip(parts, kept):
            part.momentum, part.num_batches_tracked = momentum, count


@contextmanager
def images_only(module: nn.Module) -> Iterator[None]:
    """Eval mode, and no parameter asks for a gradient: a backward pass inside is for the images alone (law 6)."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        with evaluating(module):
            yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
