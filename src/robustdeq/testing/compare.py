"""What the laws compare: equal bits, equal within a tolerance, a model left as it was, a refusal that says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def assert_same(a: Any, b: Any) -> None:
    """Equal bits in every field (NaN equals NaN)."""
    assert type(a) is type(b), f"{type(a).__name__} and {type(b).__name__}"
    if dataclasses.is_dataclass(a):
        a, b = (tuple(getattr(value, field.name) for field in dataclasses.fields(value)) for value in (a, b))
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, tuple):
        assert len(a) == len(b), f"{len(a)} and {len(b)} parts"
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b, f"{a!r} and {b!r}"


def assert_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    """Equal within ``tolerance``, absolutely and relatively."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_refused(words: str, call: Callable[..., Any], *args: Any) -> None:
    """A ValueError that has these words in it."""
    try:
        call(*args)
    except ValueError as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(f"no ValueError of {args}")


@contextmanager
def left_untouched(model: nn.Module) -> Iterator[None]:
    """Fail unless modes, parameters, buffers, requires_grad flags and .grad are the same afterwards, bit for bit."""
    before = _contents(model)
    yield
    assert_same(_contents(model), before)


def _contents(model: nn.Module) -> tuple[Any, ...]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = [(name, None if t.grad is None else t.grad.clone()) for name, t in tensors.items()]
    values = [(name, t.requires_grad, t.detach().clone()) for name, t in tensors.items()]
    return (*values, *grads, *((name, part.training) for name, part in model.named_modules()))
