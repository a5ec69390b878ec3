"""How fast a model is: seconds, images a second and GFLOP/s of its works, beside what the device reaches at best.

Times are medians of interleaved repetitions: in every round each work is timed once, so that a machine that slows down
slows all of them down, and their ratios hold. What is counted (f-units, operations, peak bytes) does not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attacks import PGD, Linf, ThroughGradient
from .checks import check_count
from .counting import Operations, peak_bytes
from .defences import EntropyReduction
from .dynamics import drive
from .environment import environment
from .models import DEQClassifier, create_model
from .options import choose
from .training import Phase, TrainConfig
from .training.step import TrainStep

EPS = 8 / 255
Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """Of one work. images: in one call. seconds, low, high: of a call, the median and the quartiles. units: f-units an
    image, evaluations of f and backward passes. updates: of the input, an image. gflop: operations of a call, counted.
    mib: peak memory of a call beyond what was held before, as a CUDA device tells it; elsewhere that of its tensors,
    counted."""

    work: str
    variant: str
    model: str
    steps: int
    images: int
    seconds: float
    low: float
    high: float
    units: float
    updates: float
    gflop: float
    mib: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def gflops(self) -> float:
        """Achieved, in 10^9 operations a second; a multiplication and an addition are two."""
        return self.gflop / self.seconds


def one_f(model: DEQClassifier, x: Tensor, y: Tensor) -> Call:
    """One evaluation of f at z^[2], no two rows alike."""
    with torch.no_grad():
        f = model.map(x)
        z = drive(model.solver, f, model.zeros(x), 2).z
    return torch.no_grad()(lambda: f(z))


def solve(model: DEQClassifier, x: Tensor, y: Tensor) -> Call:
    """N steps from z^[0], without injection and readout."""
    with torch.no_grad():
        f = model.map(x)
    return torch.no_grad()(lambda: drive(model.solver, f, model.zeros(x), model.steps).z)


def forward(model: DEQClassifier, x: Tensor, y: Tensor) -> Call:
    """What is deployed: injection, N steps, readout."""
    return torch.no_grad()(lambda: model(x))


def gradient(rule: str) -> Callable[..., Call]:
    """One step of an attack."""
    return lambda model, x, y: lambda: PGD(Linf(EPS), EPS / 4, 1, keep="highest")(ThroughGradient(model, rule), x, y)


def regulated(model: DEQClassifier, x: Tensor, y: Tensor) -> Call:
    """Inference with input entropy reduction: 10 updates every 2 steps."""
    defended = EntropyReduction()(model)
    return torch.no_grad()(lambda: defended(x))


def update(objective: str, states: str = "final", steps: int = 10) -> Callable[..., Call]:
    """One update of adversarial training, its attack included."""

    def made(model: DEQClassifier, x: Tensor, y: Tensor) -> Call:
        phases = [Phase(epochs=1, attack_steps=steps, step_size=EPS / 4)]
        config = TrainConfig(phases=phases, objective=objective, states=states, batch_size=len(x), learning_rate=1e-9)
        step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-9), config, total=10**9)
        return lambda: step(x, y, 0, 0)

    return made


WORKS: dict[str, Callable[..., Call]] = {
    "one f": one_f, "solve": solve, "forward": forward, "attack step, unrolled": gradient("unrolled"),
    "attack step, phantom": gradient("phantom"), "entropy reduction": regulated,
    "update on clean images": update("pgd-at", steps=0), "update, PGD-AT-10": update("pgd-at"),
    "update, PGD-AT-10, random states": update("pgd-at", "random"), "update, TRADES-10": update("trades"),
}  # fmt: skip
"""What is timed, by name: made of (model, images, labels)."""


class Captured:
    """A call without arguments, recorded once as a CUDA graph and replayed: no kernel is launched from Python."""

    def __init__(self, call: Call) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is allocated at a first call must not lie in the graph's pool
            call()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = call()

    def __call__(self) -> object:
        self.graph.replay()
        return self.result


def _half(device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16)


def made(work: str, variant: str, model: DEQClassifier, x: Tensor, y: Tensor) -> Call:
    """The call to be timed. variant: parts of ``VARIANTS`` joined by +; the model is changed to suit it."""
    parts = variant.split("+")
    for part in parts:
        choose("variant", part, VARIANTS)
    if "channels-last" in parts:
        x = x.contiguous(memory_format=torch.channels_last)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if "compiled" in parts:
        model.compile()
        if model._compiled_call_impl is None:
            raise ValueError("variant compiled: torch.compile does not work here; allowed: a machine with a compiler.")
    cast = _half(x.device) if "bfloat16" in parts else nullcontext()
    with cast:
        call = choose("work", work, WORKS)(model.eval(), x, y)

    def inside() -> object:
        with cast:
            return call()

    return Captured(inside) if "graph" in parts else inside


VARIANTS = {
    "eager": "float32, operation by operation",
    "channels-last": "weights and images with the channels innermost",
    "bfloat16": "autocast: convolutions in half precision, norms and solvers in float32",
    "compiled": "torch.compile of the model's forward",
    "graph": "recorded once as a CUDA graph: for works without an update, on a CUDA device",
}


def counted(model: DEQClassifier, call: Call) -> tuple[float, float, float]:
    """f-units, updates of the input, and operations in 10^9, of one call."""
    tally = model.tally
    before = tally.units, tally.updates
    with Operations() as operations:
        call()
    return tally.units - before[0], tally.updates - before[1], operations.total / 1e9


def timed(calls: Mapping[str, Call], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, ``repeats`` of each, interleaved, after one that does not count."""
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
    work = {"m": 2 * size**3 / 1e9, "c": 2 * 32 * 32 * 32 * 128 * 128 * 9 / 1e9}
    return {name: work[name[0]] / median(times) for name, times in timed(calls, device, repeats).items()}


def bench(
    works: Sequence[str] = tuple(WORKS), variants: Sequence[str] = ("eager",), *, model: str = "mdeq-small",
    batch: int = 16, steps: int | None = None, device: str | torch.device = "cpu", repeats: int = 5, seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Time the works on random images and fresh weights. A variant that a work cannot take is left out with a warning
    in ``progress``; all works of one variant are interleaved."""
    check_count("bench", "repeats", repeats, 2)
    check_count("bench", "batch", batch)
    device, rows = torch.device(device), []
    for number, variant in enumerate(variants):
        calls, counts, held = dict[str, Call](), {}, {}
        for work in works:
            deq: Any = create_model(model, seed=seed, **({} if steps is None else {"steps": steps})).to(device)
            draw = torch.Generator().manual_seed(seed)
            x = torch.rand(batch, *deq.image_shape, generator=draw).to(device)
            y = torch.randint(10, (batch,), generator=draw).to(device)
            counts[work] = (*counted(deq, made(work, "eager", deq, x, y)), deq.steps)
            calls[work] = made(work, variant, deq, x, y)
            calls[work]()  # a compiler works at its first calls
            held[work] = _peak(calls[work], device)
            if progress is not None:
                progress(number * len(works) + len(calls), len(variants) * len(works), f"{work}, {variant}")
        for work, seconds in timed(calls, device, repeats).items():
            low, _, high = quantiles(seconds, n=4, method="inclusive")
            units, updates, gflop, count = counts[work]
            rows.append(Row(
                work, variant, model, count, batch, median(seconds), low, high, units / batch, updates / batch, gflop,
                held[work],
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


def record(rows: Sequence[Row], reached: Mapping[str, float]) -> dict[str, Any]:
    """All of it as JSON, with what the numbers depend on."""
    return {"environment": environment(), "rates": dict(reached), "rows": [asdict(row) for row in rows]}


def table(found: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
    """Of ``record``'s JSON; beside an older one, how many times as fast each work is now."""
    rows = [Row(**row) for row in found["rows"]]
    f = {(row.variant, row.model, row.images): row.seconds for row in rows if row.work == "one f"}
    before = {_place(row): row for row in (Row(**row) for row in (old or {"rows": []})["rows"])}
    best = max(found["rates"].values())
    head = [
        "work",
        "variant",
        "model, N, batch",
        "seconds (quartiles)",
        "in f",
        "f-units",
        "images/s",
        "GFLOP/s",
        "MiB",
    ]
    head += ["share", "times as fast"] if old else ["share"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        unit = f.get((row.variant, row.model, row.images))
        cells = [row.work, row.variant, f"{row.model}, {row.steps}, {row.images}"]
        cells.append(f"{row.seconds:.4f} ({row.low:.4f}, {row.high:.4f})")
        cells.append("-" if unit is None else f"{row.seconds / unit:.2f}")
        cells += [f"{row.units:.0f}" + (f" + {row.updates:.0f} updates" if row.updates else "")]
        cells += [
            f"{row.images_per_second:.1f}",
            f"{row.gflops:.1f}",
            f"{row.mib:.0f}",
            f"{100 * row.gflops / best:.0f}%",
        ]
        if old:
            cells.append(f"{before[_place(row)].seconds / row.seconds:.2f}" if _place(row) in before else "-")
        lines.append("| " + " | ".join(cells) + " |")
    reached = "; ".join(f"{name}: {rate:.0f}" for name, rate in found["rates"].items())
    return "\n".join([*lines, "", f"GFLOP/s that this device reaches: {reached}. share: of the highest of them."])


def _place(row: Row) -> Row:
    """The row without what is measured."""
    return replace(row, seconds=0.0, low=0.0, high=0.0, units=0.0, updates=0.0, gflop=0.0, mib=0.0)
