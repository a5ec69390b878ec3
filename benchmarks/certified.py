"""Certified L2 accuracy of small DEQs on the digits: python benchmarks/certified.py --out runs/certified

Each row is trained, certified and attacked at every radius; what is done already is kept in --out and not done again.
``mondeq-nano`` has a proven slope, ``mdeq-nano`` is trained with noise and smoothed with as much. --n, --images and
--attacked make it cheaper; a row's name alone (--rows) makes that row.

``--speed MODEL`` instead prints how fast a saved model is certified by smoothing: forwards of N steps a second where as
many noisy copies go together as ``certify`` takes, and one at a time, in turn.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import robustdeq as rd
from robustdeq.environment import keep_freed_memory
from robustdeq.evaluation import Compared, certify, compare
from robustdeq.files import write_text
from robustdeq.training import Phase, TrainConfig, Trainer

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
CLEAN = (Phase(epochs=20, attack_steps=0),)
FEW = Phase(epochs=14, attack_steps=1, step_size=0.6, solver_steps=4)
ATTACKED = (FEW, Phase(epochs=6, attack_steps=5, step_size=0.15))


@dataclass(frozen=True)
class Row:
    """sigma: of the smoothing and of the noise in training; 0: the model's own bound. options: of the model."""

    model: str
    phases: tuple[Phase, ...] = CLEAN
    sigma: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "mondeq-nano, bound 4": Row("mondeq-nano", options={"bound": 4.0}),
    "mondeq-nano": Row("mondeq-nano"),
    "mondeq-nano, free": Row("mondeq-nano", options={"bound": None}),
    "mondeq-nano, attacked in training": Row("mondeq-nano", ATTACKED),
    "mdeq-nano, sigma 0.25": Row("mdeq-nano", sigma=0.25),
    "mdeq-nano, sigma 0.5": Row("mdeq-nano", sigma=0.5),
}


def trained(row: Row, data: Any, folder: Path) -> nn.Module:
    if (folder / "model").exists():
        return rd.load_model(folder / "model")
    config = TrainConfig(
        phases=row.phases, batch_size=128, learning_rate=8e-3, weight_decay=1e-2, threat=rd.L2(0.5), noise=row.sigma
    )
    model = rd.create_model(row.model, seed=0, **row.options)
    Trainer(model, data.train, config, folder / "training").run()
    rd.save_model(model, folder / "model")
    return model.eval()


def certified(row: Row, data: Any, folder: Path, arguments: argparse.Namespace) -> Compared:
    model = trained(row, data, folder)
    if row.sigma:
        model = rd.Smoothing(row.sigma, draws=16, seed=0)(model)
    test = data.test.take(slice(arguments.images))
    told: dict[str, Any] = {"out": folder / "certified", "batch_size": 20}
    found = certify(model, test, n=arguments.n, samples=f"the first {len(test)} test images of {test.source}", **told)
    few = test.take(slice(arguments.attacked))
    return compare(found, model, few, radii=RADII, suite=arguments.suite, steps=arguments.steps, **told)


def line(name: str, compared: Compared) -> str:
    found = compared.certificate
    cells = []
    for radius in RADII:
        share, stands = found.shares((radius,))[radius], compared.standing_share(radius)
        cells.append(f"{share} / {stands} / {len(compared.broken(radius))}")
    batches = found.record.batches.values()
    seconds = sum(batch.seconds for batch in batches) / len(found.radius)
    spent = f"{sum(batch.evaluations for batch in batches) / len(found.radius):,.0f}, {seconds:.2g} s"
    mean = f"{float(found.radius.mean()):.3f}"
    return f"| {name} | " + " | ".join([*cells, mean, str(int(found.abstained.sum())), spent]) + " |"


def speed(place: str, data: str, images: int = 3, n: int = 300) -> str:
    model = rd.load_model(place).eval()
    test = rd.data.load(data).test.take(slice(images))
    lines = ["| noisy copies in one forward | N-step forwards a second | f evaluations an image |", "|---|---|---|"]
    spent: dict[int, list[float]] = {1000: [], 1: []}
    for _ in range(3):
        for together in spent:
            found = certify(rd.Smoothing(0.25)(model), test, n0=100, n=n, batch_size=images, together=together)
            (batch,) = found.record.batches.values()
            spent[together].append(batch.evaluations / model.steps / batch.seconds)
    evaluations = batch.evaluations / images
    lines += [f"| {together:,} | {max(rates):,.0f} | {evaluations:,.0f} |" for together, rates in spent.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/certified"))
    parser.add_argument("--speed", metavar="MODEL", help="of this saved model, instead of the rows")
    parser.add_argument("--data", default="uoft-cs/cifar10", help="of --speed")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--n", type=int, default=1000, help="noisy copies that are counted")
    parser.add_argument("--images", type=int, default=360, help="test images that are certified")
    parser.add_argument("--attacked", type=int, default=100, help="of these, the first so many are attacked")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if arguments.speed:
        print(speed(arguments.speed, arguments.data))
        return
    data = rd.data.load("digits")
    heads = ["row", *(f"{radius:g}" for radius in RADII), "mean radius", "abstained", "f evaluations, seconds an image"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in arguments.rows:
        folder = arguments.out / "".join(c if c.isalnum() or c == "." else "-" for c in name)
        lines.append(line(name, certified(ROWS[name], data, folder, arguments)))
        print(lines[-1], flush=True)
    write_text(arguments.out / "table.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
