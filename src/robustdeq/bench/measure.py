"""Seconds and counts of the works.

Times are medians of interleaved repetitions: in every round each work is timed once, so that a machine that slows down
slows all of them down, and their ratios hold. What is counted (f-units, operations, bytes) does not depend on it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.profiler import profile

from ..checks import check_count
from ..counting import Operations, peak_bytes
from ..environment import keep_freed_memory
from ..models import DEQClassifier, create_model
from .table import Row
from .works import WORKS, Call, made


def counted(model: DEQClassifier, call: Call) -> tuple[float, float, float]:
    """f-units, updates of the input, and operations in 10^9, of one call."""
    tally = model.tally
    before = tally.units, tally.updates
    with Operations() as operations:
        call()
    return tally.units - before[0], tally.updates - before[1], operations.total / 1e9


KINDS = {
    "convolutions": ("mkldnn_convolution", "_slow_conv2d_forward", "cudnn_convolution"),
    "convolutions, backward": ("convolution_backward", "_slow_conv2d_backward"),
    "products of matrices": ("mm", "bmm", "addmm", "baddbmm", "dot"),
    "normalisations": (),
    "copies": ("copy_", "cat", "clone", "contiguous", "stack", "fill_", "zero_"),
}
"""Kinds of operations by name; what has norm in its name is a normalisation, and the rest passes over numbers."""


def shares(call: Call) -> dict[str, float]:
    """Which share of a call's time on the host each kind of operation takes, as torch's profiler tells it."""
    seen: Any
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes lines of its own to the terminal otherwise
    with profile(use_kineto=False) as seen:
        call()
    spent = dict.fromkeys([*KINDS, "elementwise"], 0.0)
    for event in seen.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in KINDS.items() if name in names), "elementwise")
        spent["normalisations" if "norm" in name else kind] += event.self_cpu_time_total
    return {kind: time / sum(spent.values()) for kind, time in spent.items()}


def timed(calls: Mapping[str, Call], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, ``repeats`` of each, interleaved, after one that does not count."""
    # A GPU works on while Python goes on: the clock is read when it is idle.
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            wait()
            began = time.perf_counter()
            call()
            wait()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def rates(device: torch.device, size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """GFLOP/s that this device reaches in a product of two ``size`` x ``size`` matrices and in a 3x3 convolution."""
    a, kinds = torch.randn(size, size, device=device), {"float32": torch.float32, "bfloat16": torch.bfloat16}
    x, w = torch.randn(32, 128, 32, 32, device=device), torch.randn(128, 128, 3, 3, device=device)
    calls: dict[str, Call] = {}
    for name, dtype in kinds.items() if device.type == "cuda" else [("float32", torch.float32)]:
        p, q, k = a.to(dtype), x.to(dtype), w.to(dtype)
        calls[f"matrix product, {name}"] = lambda p=p: p @ p
        calls[f"convolution, {name}"] = lambda q=q, k=k: F.conv2d(q, k, padding=1)
    # A multiplication and an addition are two operations.
    gflop = {"matrix product": 2 * size**3 / 1e9, "convolution": 2 * 32 * 32 * 32 * 128 * 128 * 9 / 1e9}
    return {name: gflop[name.split(",")[0]] / median(times) for name, times in timed(calls, device, repeats).items()}


def bench(
    works: Sequence[str] = tuple(WORKS), variants: Sequence[str] = ("eager",), *, model: str = "mdeq-small",
    batch: int = 16, steps: int | None = None, device: str | torch.device = "cpu", repeats: int = 5, seed: int = 0,
) -> list[Row]:  # fmt: skip
    """Time the works on random images and fresh weights; all works of one variant are interleaved."""
    check_count("bench", "repeats", repeats, 2)
    check_count("bench", "batch", batch)
    device, rows = torch.device(device), []
    counts = dict[str, tuple[float, float, float]]()  # the same in every variant
    for variant in variants:
        calls, measured = dict[str, Call](), {}
        for work in works:
            deq: Any = create_model(model, seed=seed, **({} if steps is None else {"steps": steps})).to(device)
            draw = torch.Generator().manual_seed(seed)
            x = torch.rand(batch, *deq.image_shape, generator=draw).to(device)
            y = torch.randint(10, (batch,), generator=draw).to(device)
            if work not in counts:
                counts[work] = counted(deq, made(work, "eager", deq, x, y))
            call = calls[work] = made(work, variant, deq, x, y)
            call()  # a compiler works at its first calls
            kinds = shares(call) if device.type == "cpu" else {}  # the host's time says nothing of a GPU's
            measured[work] = deq.steps, _peak(call, device), kinds
        for work, seconds in timed(calls, device, repeats).items():
            low, _, high = quantiles(seconds, n=4, method="inclusive")
            (units, updates, gflop), (count, mib, kinds) = counts[work], measured[work]
            rows.append(Row(
                work, variant, model, count, batch, median(seconds), low, high, units / batch, updates / batch, gflop,
                mib, kinds,
            ))  # fmt: skip
    return rows


def _peak(call: Call, device: torch.device) -> float:
    """MiB that a call needs at most beyond what is held."""
    if device.type != "cuda":
        return peak_bytes(call) / 2**20
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def together(processes: int, threads: int, works: Sequence[str], variants: Sequence[str], **options: Any) -> list[Row]:
    """``bench`` in so many processes at the same time, with so many threads each: medians over all of them, and the
    images of all of them a second."""
    check_count("bench", "processes", processes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(threads,)) as pool:
        calls = [pool.submit(bench, works, variants, **options) for _ in range(processes)]
        runs = [call.result() for call in calls]
    return [
        replace(
            rows[0], processes=processes, seconds=median(row.seconds for row in rows),
            low=min(row.low for row in rows), high=max(row.high for row in rows),
        )
        for rows in zip(*runs)
    ]  # fmt: skip


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
