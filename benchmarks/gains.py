"""What each change gains by itself: python benchmarks/gains.py MODEL --data path/to/cifar10 [--points 50]

Every row is one work, done with a change and without it, in turn: as many times fewer multiplications and additions as
are counted, as many times fewer bytes read and written by the operations, and as many times as fast. The first two
predict the third where arithmetic, or memory, is what a work waits for. MODEL: a folder, trained on the data.

Below: where the time of an update by TRADES and of an inference with entropy reduction goes, in the plain program of
``benchmarks/reference.py`` and here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import reference
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import robustdeq as rd
from robustdeq.attacks import APGD, PGD, EndToEnd
from robustdeq.bench import Call, shares, timed
from robustdeq.counting import Operations
from robustdeq.data import load
from robustdeq.defences import entropy_reduction
from robustdeq.environment import keep_freed_memory
from robustdeq.models import layers, mdeq
from robustdeq.models.cell import PlainCell

EPS = 8 / 255


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that operations read and write. A view moves nothing."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def counted(call: Call) -> tuple[int, int]:
    """Multiplications and additions, and bytes, of a call."""
    with Traffic() as traffic, Operations() as operations:
        call()
    return operations.total, traffic.total


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def within(call: Call, *replacements: tuple[Any, str, Any]) -> Call:
    """The call with attributes of modules replaced while it runs."""
    if not replacements:
        return call
    first, *rest = replacements
    inner = within(call, *rest)

    def inside() -> object:
        with replaced(*first):
            return inner()

    return inside


class Unsplit(PlainCell):
    """A cell whose constants are kept, and whose whole depends on u."""

    def constants(self, z: Tensor) -> Any:
        return self.module.constants(z)

    def finish(self, prepared: Tensor, u: Any, constants: Any = None) -> Tensor:
        return self.module(prepared, u, constants)


@dataclass(frozen=True)
class Change:
    """A work without the change, and with it."""

    name: str
    work: str
    without: Call
    given: Call


def changes(model: Any, x: Tensor, y: Tensor) -> list[Change]:
    still, threat, zeros = torch.no_grad(), rd.Linf(EPS), x.new_zeros(len(x), model.layout.size)
    whole, anew = (
        rd.DEQClassifier(
            model.inject, kind(model.cell), model.readout, model.layout.shapes, solver=model.solver, steps=model.steps,
            image_shape=model.image_shape,
        ).eval()
        for kind in (Unsplit, PlainCell)
    )  # fmt: skip
    forward, regulated = still(lambda: model(x)), still(lambda: rd.EntropyReduction()(model)(x))
    unsplit = still(lambda: rd.EntropyReduction()(whole)(x))
    f = still(lambda: model.map(x))()
    broyden = still(lambda: rd.dynamics.drive(rd.dynamics.Broyden(), f, model.zeros(x), 8).z)
    few = slice(0, 8)
    followed = lambda: PGD(threat, 2 / 255, 1, keep="highest")(  # noqa: E731
        EndToEnd(rd.EntropyReduction()(model)), x[few], y[few]
    )

    def pgd(keep: str) -> Call:
        return lambda: PGD(threat, 2 / 255, 20, keep=keep)(model, x, y)

    def apgd(stack: int) -> Call:
        return lambda: APGD(threat, 10, loss="dlr-targeted", targets=9, stack=stack)(model, x[few], y[few])

    apart = lambda conv, norm, x: norm(conv(x))  # noqa: E731
    nearest = lambda self, x: F.interpolate(x, scale_factor=self.factor)  # noqa: E731
    remade, plainly = within(followed, (entropy_reduction, "KEPT", 0)), still(lambda: plain_broyden(model, f, x))
    unfolded = within(regulated, (layers, "normalised", apart), (mdeq, "normalised", apart))
    interpolated = within(forward, (mdeq.Upsample, "forward", nearest))
    return [
        Change("the first step prepares one row for all", "forward", still(lambda: model(x, start=zeros)), forward),
        Change("f split at the injection, the first step included", "entropy reduction", unsplit, regulated),
        Change("weights normalised once a solve", "forward", still(lambda: anew(x)), still(lambda: whole(x))),
        Change("BatchNorm folded into its convolution", "entropy reduction", unfolded, regulated),
        Change("nearest pixels row by row", "forward", interpolated, forward),
        Change("Broyden's estimate applied twice a step", "8 steps of Broyden", plainly, broyden),
        Change("a fallen sample is dropped", "PGD-20", pgd("highest"), pgd("worst")),
        Change("nine targets side by side", "APGD-10 on 8 images", apgd(1), apgd(9)),
        Change("graphs of updates kept", "a step end-to-end on 8 images", remade, followed),
    ]


def plain_broyden(model: Any, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    z, step = model.zeros(x), reference.broyden()
    for _ in range(8):
        z = step(z, f(z))
    return z


def rows(measured: list[Change], repeats: int) -> Iterator[str]:
    yield "| change | work | operations | bytes | times as fast (quartiles) |\n|---|---|---|---|---|"
    for change in measured:
        before, after = counted(change.without), counted(change.given)
        seconds = timed({"without": change.without, "with": change.given}, torch.device("cpu"), repeats)
        ratios = [a / b for a, b in zip(seconds["without"], seconds["with"])]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        predicted = " | ".join(f"{a / b:.2f}" for a, b in zip(before, after))
        yield f"| {change.name} | {change.work} | {predicted} | {median(ratios):.2f} ({low:.2f}, {high:.2f}) |"


def where(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> Iterator[str]:
    """Milliseconds of each kind of operation, by the share of it that torch's profiler tells."""
    pairs = reference.cases(model, x, y)
    head = ""
    for name in ("one TRADES-10 step", "inference with entropy reduction"):
        calls = dict(zip(("plain program", "here"), pairs[name]))
        seconds = timed(calls, torch.device("cpu"), repeats)
        for program, call in calls.items():
            kinds = shares(call)
            if not head:
                head = "| work | program | ms | " + " | ".join(kinds) + " |\n" + "|---" * (3 + len(kinds)) + "|"
                yield head
            whole = 1000 * median(seconds[program])
            cells = " | ".join(f"{whole * share:.0f}" for share in kinds.values())
            yield f"| {name} | {program} | {whole:.0f} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="rows whose name begins so")
    options = parser.parse_args()
    keep_freed_memory()
    model: Any = rd.load_model(options.model).eval()
    test = load(options.data).test.take(slice(options.points))
    x, y = test.images(), test.labels
    measured = [change for change in changes(model, x, y) if change.name.startswith(tuple(options.only))]
    for line in rows(measured, options.repeats):
        print(line, flush=True)
    if options.only != [""]:
        return
    print()
    for line in where(model, x, y, options.repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
