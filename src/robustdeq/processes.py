"""Several processes of one run, as `accelerate launch` or `torchrun` start them. Without a launcher there is one."""

from __future__ import annotations

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
class Processes:
    """rank: of this process, in 0..count-1. device: where this process computes."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def part(self, total: int) -> slice:
        """This process's rows of a batch of ``total``, a multiple of ``count``."""
        size = total // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's items, every ``count``-th."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()

    def total(self, value: Tensor) -> Tensor:
        """The sum of every process's tensor, in every process."""
        if self.count > 1:
            value = value.to(self.device, copy=True)
            dist.all_reduce(value)
        return value

    def agree(self, value: float) -> bool:
        """Whether every process has the same number; asked by all of them."""
        numbers = torch.zeros(self.count, dtype=torch.float64)
        numbers[self.rank] = value
        return bool((self.total(numbers) == value).all())

    def first_only(self, work: Callable[[], None]) -> None:
        """Let the first process work while the others wait. What fails there ends the others too."""
        if self.first:
            work()
        self.wait()


ALONE = Processes()
PATIENCE = timedelta(days=7)
"""How long a process waits for the others: shares of an evaluation may differ by hours."""


@contextmanager
def launched(device: str | torch.device = "cpu") -> Iterator[Processes]:
    """The processes this one was started with, joined (NCCL on CUDA, Gloo on CPUs) and left at the end.

    device: ``cpu`` or ``cuda``; of several GPUs each process takes the one of its local rank.
    """
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield Processes(device=device)
        return
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    try:
        yield Processes(state.process_index, state.num_processes, torch.device(state.device or device))
    finally:
        state.destroy_process_group()
