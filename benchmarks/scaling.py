"""What the recipes cost on 1, 8 and 64 devices, from counted operations: python benchmarks/scaling.py

One attack and update of every phase is counted at two sizes of batch; a batch of B costs ``shared + each B`` (the
first step of a solve prepares one row for all). Nothing is timed: hours follow from ``--rate``, the operations a second
that a device is taken to reach, and ``--bandwidth``, the bytes a second between two devices in the ring that adds
gradients up. The penalty on the Jacobian is left out, and so is reading the images.

    hours  = updates ( operations(B / G) / rate + 4 * 2 (G - 1) / G * parameters / bandwidth ) / 3600
    memory = 4 * copies * parameters + B / G * (what the graph of an update keeps for an image)

``--history`` checks the count and the hours against the log of a training that has been run, on one device.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import robustdeq as rd
from robustdeq import bench
from robustdeq.counting import peak_bytes
from robustdeq.recipe import Recipe
from robustdeq.recipes import recipe
from robustdeq.training import JacobianPenalty
from robustdeq.training.step import TrainStep

SETS = {
    "cifar10-small": (45_000, 10, {}),
    "cifar10-large-fast": (45_000, 10, {}),
    "cifar10-large": (45_000, 10, {}),
    "cifar100-large": (45_000, 100, {}),
    "imagenet-64 on Tiny-ImageNet": (90_000, 200, {"batch_size": 256}),
    "imagenet-64": (1_271_167, 1000, {}),
}
"""Training images (without those held out), classes, and settings of a recipe, whose name comes first."""
DEVICES = (1, 8, 64)
SIZES = (2, 4)


@dataclass(frozen=True)
class Work:
    """Of one phase. operations, units, bytes: (shared, each image) of one attack and update."""

    epochs: int
    operations: tuple[float, float]
    units: tuple[float, float]
    bytes: tuple[float, float]


def line(values: list[float]) -> tuple[float, float]:
    """(shared, each) of what two sizes of batch cost."""
    each = (values[1] - values[0]) / (SIZES[1] - SIZES[0])
    return max(values[0] - SIZES[0] * each, 0.0), each


def counted(chosen: Recipe, classes: int) -> tuple[list[Work], int]:
    """Of each phase, and the model's parameters."""
    model: Any = rd.create_model(chosen.model, seed=0, num_classes=classes, **chosen.model_options)
    draw, works = torch.Generator().manual_seed(0), []
    x, y = torch.rand(SIZES[1], *model.image_shape, generator=draw), torch.arange(SIZES[1])
    for phase in chosen.training.phases:
        config = replace(chosen.training, phases=(phase,), precision="float32", jacobian=JacobianPenalty())
        step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-9), config, total=10**9)
        operations, units, held = [], [], []
        for size in SIZES:
            call = partial(step.rehearse, x[:size], y[:size])
            spent, _, gflop = bench.counted(model, lambda call=call, held=held: held.append(peak_bytes(call)))
            operations.append(1e9 * gflop)
            units.append(spent)
        works.append(Work(phase.epochs, line(operations), line(units), line(held)))
    return works, sum(weight.numel() for weight in model.parameters())


def row(name: str, options: argparse.Namespace) -> list[str]:
    images, classes, settings = SETS[name]
    chosen = recipe(name.split()[0]).changed(settings)
    works, parameters = counted(chosen, classes)
    size = chosen.training.batch_size
    updates = images // size
    total = sum(w.epochs * updates * (w.operations[0] + size * w.operations[1]) for w in works)
    units = sum(w.epochs * updates * (w.units[0] + size * w.units[1]) for w in works)
    epochs = chosen.training.epochs
    cells = [name, f"{parameters / 1e6:.1f}", f"{epochs}", f"{units / images:.0f}", f"{total / 1e15:.2f}"]
    for devices in DEVICES:
        own = size / devices
        if own < 1:
            cells.append("-")
            continue
        sent = 4 * 2 * (devices - 1) / devices * parameters / (options.bandwidth * 1e9)
        busy = [w.epochs * ((w.operations[0] + own * w.operations[1]) / (options.rate * 1e9) + sent) for w in works]
        held = max(w.bytes[0] + own * w.bytes[1] for w in works) + 4 * options.copies * parameters
        cells.append(f"{updates * sum(busy) / 3600:.2g} h, {held / 2**30:.2g} GiB")
    return cells


def check(run: Path, rate: float) -> str:
    """Every epoch of a training on CIFAR-10 beside what is counted here."""
    images, classes, _ = SETS["cifar10-small"]
    epochs = [entry for entry in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "epoch" in entry]
    chosen = recipe(str(run / "config.json"))
    works, _ = counted(chosen, classes)
    size, lines = chosen.training.batch_size, ["| epoch | f-units an image | counted | seconds | from the count |"]
    lines.append("|---|---|---|---|---|")
    per_epoch = [work for work in works for _ in range(work.epochs)]
    for entry, work in zip(epochs, per_epoch):
        units = work.units[1] + work.units[0] / size
        seconds = (images // size) * (work.operations[0] + size * work.operations[1]) / (rate * 1e9)
        cells = [f"{entry['epoch']}", f"{entry['units_per_image']:.2f}", f"{units:.2f}", f"{entry['seconds']:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{seconds:.0f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(SETS)}; default all")
    parser.add_argument("--rate", type=float, default=100_000, help="GFLOP/s that a device reaches")
    parser.add_argument("--bandwidth", type=float, default=25, help="GB/s between two devices")
    parser.add_argument("--copies", type=int, default=5, help="of the weights: gradient, optimizer, average")
    parser.add_argument("--history", type=Path, help="folder of a training run on CIFAR-10 to check against")
    options = parser.parse_args()
    if options.history:
        print(check(options.history, options.rate))
        return
    head = ["recipe", "parameters, M", "epochs", "f-units an image", "PFLOP", *(f"on {n}" for n in DEVICES)]
    print("\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]))
    for name in options.names or SETS:
        print("| " + " | ".join(row(name, options)) + " |", flush=True)


if __name__ == "__main__":
    main()
