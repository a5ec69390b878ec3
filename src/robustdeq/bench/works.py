"""The works that are timed, and the variants in which a model can do them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..attacks import PGD, Linf, ThroughGradient
from ..defences import EntropyReduction
from ..dynamics import drive
from ..models import DEQClassifier
from ..options import choose
from ..training import Phase, TrainConfig
from ..training.step import TrainStep

EPS = 8 / 255
Call = Callable[[], object]


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


def captured(call: Call) -> Call:
    """A call recorded once as a CUDA graph and replayed: no kernel is launched from Python."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is allocated at a first call must not lie in the graph's pool
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> object:
        graph.replay()
        return result

    return replay


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
    cast = torch.autocast(x.device.type, torch.bfloat16, enabled="bfloat16" in parts)
    with cast:
        call = choose("work", work, WORKS)(model.eval(), x, y)
    inside = cast(call)
    return captured(inside) if "graph" in parts else inside


VARIANTS = {
    "eager": "float32, operation by operation",
    "channels-last": "weights and images with the channels innermost",
    "bfloat16": "autocast: convolutions in half precision, norms and solvers in float32",
    "compiled": "torch.compile of the model's forward",
    "graph": "recorded once as a CUDA graph: for works without an update, on a CUDA device",
}
