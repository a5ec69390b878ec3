"""Threads that read ahead and work in order, and random order from a stream."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: ThreadPoolExecutor, work: Callable[..., R], items: Iterable[tuple], most: int) -> Iterator[R]:
    """``work(*item)`` of every item, in order; at most ``most`` are under way."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(work, *item))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def in_turn(streams: Iterable[Iterator[T]], together: int) -> Iterator[T]:
    """One item of each of ``together`` streams in turn; a stream that ends makes room for the next."""
    waiting = iter(streams)
    running = deque(islice(waiting, together))
    while running:
        try:
            item = next(running[0])
        except StopIteration:
            running.popleft()
            running.extend(islice(waiting, 1))
        else:
            running.rotate(-1)
            yield item


def shuffled(items: Iterable[T], buffer: int, generator: torch.Generator) -> Iterator[T]:
    """Every item once; each is drawn from among ``buffer`` that were read."""
    held: list[T] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        index = int(torch.randint(buffer, (), generator=generator))
        yield held[index]
        held[index] = item
    for index in torch.randperm(len(held), generator=generator).tolist():
        yield held[index]


def ahead(items: Generator[T], depth: int) -> Iterator[T]:
    """The items, made by a thread that is up to ``depth`` of them ahead; it ends when the reader does."""
    made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not stop.is_set():
            try:
                made.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def make() -> None:
        try:
            if all(put("item", item) for item in items):
                put("end", None)
        except BaseException as error:  # handed to the reader, who raises it
            put("error", error)
        finally:
            items.close()

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join()
