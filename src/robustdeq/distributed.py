"""Several processes of one run, as `torchrun` or `accelerate launch` start them. Without a launcher there is one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Distributed:
    """rank: of this process, in 0..world_size-1. device: where this process computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This process's rows of a batch of ``total``, a multiple of ``world_size``."""
        size = total // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's items, every ``world_size``-th."""
        return items[self.rank :: self.world_size]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum of every process's tensor, in every process."""
        if self.world_size > 1:
            value = value.to(self.device, copy=True)
            dist.all_reduce(value)
        return value

    def agree(self, value: float) -> bool:
        """Whether every process has the same number; asked by all of them."""
        numbers = torch.zeros(self.world_size, dtype=torch.float64)
        numbers[self.rank] = value
        return bool((self.all_reduce(numbers) == value).all())

    def main_first(self, work: Callable[[], None]) -> None:
        """Let the main process work while the others wait. What fails there ends the others too."""
        if self.main:
            work()
        self.barrier()


SINGLE = Distributed()
PATIENCE = timedelta(days=7)
"""How long a process waits for the others: shares of an evaluation may differ by hours."""


def available(device: str) -> torch.device:
    """The device, ``cpu`` or ``cuda``; a ValueError for one that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but this torch sees no CUDA device; allowed here: cpu.")
    return torch.device(device)


def processes() -> int:
    """How many a launcher has started of this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def launched(device: str = "cpu") -> Iterator[Distributed]:
    """The processes this one was started with, joined (NCCL on CUDA, Gloo on CPUs) and left at the end.

    device: ``cpu`` or ``cuda``; of several GPUs each process takes the one of its local rank.
    """
    place = available(device)
    if processes() <= 1:
        yield Distributed(device=place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Distributed(dist.get_rank(), dist.get_world_size(), place)
        dist.barrier()  # nobody takes the group down while another one still writes
    finally:
        gc.collect()  # DistributedDataParallel holds the group; what is left of it would end the process by a signal
        dist.destroy_process_group()
