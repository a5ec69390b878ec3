"""What a call costs, counted and not timed: operations, and the bytes of tensors that it holds at most."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")


class Operations(TorchDispatchMode):
    """Counts multiplications and additions of products and convolutions. (FlopCounterMode also asks for the module of
    each, and for that hooks into the graph, which ``autograd.grad`` to an image does not bear.)"""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        self.total += 0 if formula is None else formula(*args, **(kwargs or {}), out_val=out)
        return out


class Memory(TorchDispatchMode):
    """Bytes of the tensors that are made inside and still held, now and at most; on any device, and what an operation
    needs for itself alone is not seen."""

    held = peak = 0

    def __init__(self) -> None:
        super().__init__()
        self._seen = weakref.WeakSet[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._seen.add(tensor.untyped_storage())  # was there before, or is a view of what is counted
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                size = storage.nbytes()  # of the storage: what is held by views ends with the last of them
                self.held += size
                weakref.finalize(storage, self._freed, size)
        self.peak = max(self.peak, self.held)
        return out

    def _freed(self, size: int) -> None:
        self.held -= size


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that a call holds beside what was there before it."""
    with Memory() as memory:
        call()
    return memory.peak


def graph_bytes(call: Callable[[], T]) -> tuple[T, int]:
    """What a call gives, and the bytes of all tensors that its graph keeps for a backward pass, weights included."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # autograd gives it its graph again

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return result, sum(kept.values())
