"""Borrow a module for a while and give it back as it was; look below its wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel, torch.compile, or a Sequential of one.

    These compute what the module inside computes. A wrapper with a hook of its own may not, and is left as it is.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"the model is a {type(module).__name__}; allowed: a torch.nn.Module, logits = model(images).")
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


def trackable(x: Tensor) -> Tensor:
    """x; or a copy where it was made in inference mode, which has been left: autograd keeps nothing made there."""
    if torch.compiler.is_compiling():  # which cannot follow these questions; a copy of an image costs nothing
        return x.clone()
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


@contextmanager
def borrowed(owners: Iterable[Any], **values: Any) -> Iterator[None]:
    """Attributes of all ``owners`` have these values inside, and their own afterwards."""
    kept = [(owner, name, getattr(owner, name)) for owner in owners for name in values]
    try:
        for owner, name, _ in kept:
            setattr(owner, name, values[name])
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def evaluating(module: nn.Module) -> AbstractContextManager[None]:
    """Eval mode inside; every submodule's own mode afterwards."""
    return borrowed((inner for inner in module.modules() if inner.training), training=False)


def statistics_kept(module: nn.Module) -> AbstractContextManager[None]:
    """A forward in train mode inside normalises as ever, and leaves no trace in BatchNorm's running statistics."""
    norms = (inner for inner in module.modules() if isinstance(inner, _BatchNorm))
    # With a momentum of 0 the running statistics take nothing in, and without its counter a norm counts no batches.
    return borrowed(norms, momentum=0.0, num_batches_tracked=None)


def buffers_of(module: nn.Module) -> Callable[[], None]:
    """What puts the module's buffers, such as BatchNorm's statistics, back to what they are now."""
    kept = [buffer.clone() for buffer in module.buffers()]

    def put_back() -> None:
        for buffer, value in zip(module.buffers(), kept):
            buffer.copy_(value)

    return put_back


@contextmanager
def images_only(module: nn.Module) -> Iterator[None]:
    """Eval mode, and no parameter asks for a gradient: a backward pass inside is for the images alone (law 6)."""
    asking = (parameter for parameter in module.parameters() if parameter.requires_grad)
    with borrowed(asking, requires_grad=False), evaluating(module):
        yield
