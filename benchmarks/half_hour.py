"""The search for the recipe of cifar10-small: python benchmarks/half_hour.py --data path/to/cifar10 NAME...

Every run trains one model within a budget counted in f-units and judges it on held-out training images, never on test
images; the whole ones by Auto-PGD of 100 steps on cross-entropy and on nine targets, with ``--seed`` 0, 1 and 2. An
f-unit is an evaluation of mdeq-small's cell on one image; a backward pass to the image is one more, one to image and
weights two; another cell counts by its multiplications. The budget is 8.2 million; a run of the search has a quarter of
it. Without a name the table of what is finished is printed. A run goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import robustdeq as rd
from robustdeq.attacks import APGD, PGD
from robustdeq.counting import Operations
from robustdeq.environment import keep_freed_memory
from robustdeq.evaluation import Entry
from robustdeq.evaluation.suites import exact
from robustdeq.files import write_json
from robustdeq.options import choose
from robustdeq.recipe import train
from robustdeq.recipes import recipe

PIXEL = 1 / 255
EPS = 8 * PIXEL
BUDGET = 8.2e6
POINTS = 1000
HELD_OUT = [
    Entry("PGD-20", "PGD-20", PGD(rd.Linf(EPS), 2 * PIXEL, 20), exact),
    Entry("APGD-20 on 3 targets", "targeted", APGD(rd.Linf(EPS), 20, loss="dlr-targeted", targets=3), exact),
]
"""Of the search: cheaper than APGD-CE and APGD-T of 100 steps, by which the last are chosen."""
JUDGED = [
    Entry("PGD-20", "PGD-20", PGD(rd.Linf(EPS), 2 * PIXEL, 20), exact),
    Entry("APGD-CE", "APGD", APGD(rd.Linf(EPS), 100, stack=4), exact),
    Entry("APGD-T", "APGD", APGD(rd.Linf(EPS), 100, loss="dlr-targeted", targets=9, stack=4), exact),
]


def fgsm(epochs: int, steps: int, attack: str = "pgd", size: float = 10 * PIXEL) -> dict[str, Any]:
    """One ascent on a solve of so many steps."""
    return {"epochs": epochs, "attack": attack, "attack_steps": 1, "step_size": size, "solver_steps": steps}


def joint(epochs: int, steps: int, size: float, warm: int | None, last: float = 0.4) -> dict[str, Any]:
    """Joint optimisation of the whole dynamics; the update goes on from its state."""
    attack = {"name": "joint", "warm": warm, "last_step": last, "adjoint_damping": 0.6}
    return {"epochs": epochs, "attack": attack, "attack_steps": steps, "step_size": size * EPS}


@dataclass(frozen=True)
class Trial:
    """why: what it is to show. settings: of the recipe cifar10-small that are other than in ``COMMON``."""

    why: str
    settings: dict[str, Any]


COMMON: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 5e-3, "weight_decay": 5e-3, "batch_size": 128, "pad": 2, "flip": True,
    "validation_points": 0, "ema": 0.99, "objective": "pgd-at",
}  # fmt: skip
"""Of every trial that says nothing else."""
SHORT = [fgsm(2, 2), fgsm(1, 5)]
SHORT4 = [fgsm(1, 2), fgsm(1, 3), fgsm(1, 4)]
FAST = {"name": "picard", "damping": 0.8}
SOFT = {"name": "pgd-at", "label_smoothing": 0.1}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 1e-2}
SLOW: dict[str, Any] = {"optimizer": "muon", "learning_rate": 5e-3}

WIDE = {"channels": [40, 80], "head_channels": [16, 32], "stem_stride": 4}
COARSE = {"channels": [32, 64], "head_channels": [16, 32], "stem_stride": 4}

TRIALS = {
    "adamw": Trial("the recipe so far, cut to a quarter", {"phases": SHORT}),
    "muon": Trial("Muon, same learning rate", {"phases": SHORT, **SLOW}),
    "muon-1e-2": Trial("twice the learning rate", {"phases": SHORT, **MUON}),
    "muon-2e-2": Trial("four times the learning rate", {"phases": SHORT, **MUON, "learning_rate": 2e-2}),
    "muon-joint": Trial("the last epoch by the joint attack", {"phases": [fgsm(2, 2), joint(1, 8, 0.5, 3)], **SLOW}),
    "muon-n-fgsm": Trial(
        "N-FGSM instead of FGSM", {"phases": [fgsm(2, 2, "n-fgsm", EPS), fgsm(1, 5, "n-fgsm", EPS)], **SLOW}
    ),
    "muon-n3": Trial("three steps of the solver in every epoch", {"phases": [fgsm(3, 3)], **MUON}),
    "muon-n4": Trial(
        "four steps deployed, less damped",
        {"phases": SHORT4, **MUON, "model_options": {"steps": 4, "solver": FAST}},
    ),
    "muon-n4-silu": Trial(
        "muon-n4 with SiLU instead of ReLU",
        {"phases": SHORT4, **MUON, "model_options": {"steps": 4, "solver": FAST, "activation": "silu"}},
    ),
    "muon-n4-smooth": Trial(
        "muon-n4 with a tenth of label smoothing",
        {"phases": SHORT4, **MUON, "model_options": {"steps": 4, "solver": FAST}, "objective": SOFT},
    ),
    "muon-wide": Trial(
        "two scales of 8x8 and 4x4 pixels, wider", {"phases": SHORT, **MUON, "model_options": WIDE}
    ),
    "muon-coarse": Trial(
        "two scales of 8x8 and 4x4 pixels, two thirds of the work an evaluation, more epochs",
        {"phases": [fgsm(3, 2), fgsm(2, 4)], **MUON, "model_options": COARSE},
    ),
    "muon-batch-64": Trial("twice the updates", {"phases": SHORT, **MUON, "batch_size": 64}),
    "muon-trades": Trial("TRADES", {"phases": [fgsm(1, 2), fgsm(1, 3)], **MUON, "objective": "trades"}),
    "muon-mart": Trial("MART", {"phases": [fgsm(1, 2), fgsm(1, 4)], **MUON, "objective": "mart"}),
    "muon-several": Trial("losses at several states", {"phases": SHORT, **MUON, "states": "several"}),
    "muon-awp": Trial("adversarial weight perturbation", {"phases": [fgsm(2, 2), fgsm(1, 3)], **MUON, "awp": 0.005}),
}  # fmt: skip
"""A quarter of the budget each; one that needs more is marked."""

FOUR: dict[str, Any] = {"steps": 4, "solver": FAST}
SMOOTH: dict[str, Any] = WIDE | FOUR | {"activation": "silu"}
TWICE: dict[str, Any] = {"epochs": 1, "attack_steps": 2, "step_size": 6 * PIXEL}
GROWING = [fgsm(4, 2), fgsm(2, 3), fgsm(4, 4), TWICE]
NOISY = [fgsm(3, 2, "n-fgsm", EPS), fgsm(2, 3, "n-fgsm", EPS), fgsm(3, 4, "n-fgsm", EPS), TWICE | {"epochs": 2}]
FAR = 10 * PIXEL
FARTHER = [fgsm(3, 2, "n-fgsm", FAR), fgsm(2, 3, "n-fgsm", FAR), fgsm(3, 4, "n-fgsm", FAR), TWICE | {"epochs": 2}]
TWICE_FAR = [{"epochs": epochs, "attack_steps": 2, "step_size": 0.75 * FAR, "solver_steps": steps}
             for epochs, steps in ((4, 2), (2, 3), (3, 4))]  # fmt: skip
NINE = 9 * PIXEL
FIRM = [fgsm(4, 2), fgsm(2, 3), {"epochs": 4, "attack_steps": 2, "step_size": 0.75 * NINE}]
LONG: dict[str, Any] = {**MUON, "ema": 0.995}
WHOLE = {
    "whole": Trial("muon-1e-2, whole", {"phases": [fgsm(8, 2), fgsm(4, 5)], **LONG}),
    "whole-n4": Trial("muon-n4, whole", {"phases": GROWING, **LONG, "model_options": FOUR}),
    "whole-wide-n4": Trial("muon-wide with four steps", {"phases": GROWING, **LONG, "model_options": WIDE | FOUR}),
    "whole-smooth": Trial(
        "that with SiLU and a tenth of label smoothing",
        {"phases": GROWING, **LONG, "objective": SOFT, "model_options": SMOOTH},
    ),
    "whole-half": Trial(
        "whole-smooth in half precision (bfloat16)",
        {"phases": GROWING, **LONG, "objective": SOFT, "model_options": SMOOTH, "precision": "bfloat16"},
    ),
    "whole-firm": Trial(
        "whole-smooth at eps 9/255, PGD-2 in its last four epochs",
        {"phases": FIRM, **LONG, "eps": NINE, "objective": SOFT, "model_options": SMOOTH},
    ),
    "whole-noisy": Trial(
        "whole-wide-n4 with N-FGSM, and PGD-2 in two epochs", {"phases": NOISY, **LONG, "model_options": WIDE | FOUR}
    ),
    "whole-far": Trial(
        "muon-wide with four steps, PGD-2 at eps 10/255 in every epoch",
        {"phases": TWICE_FAR, **LONG, "eps": FAR, "model_options": WIDE | FOUR},
    ),
    "whole-far-noisy": Trial(
        "whole-noisy at eps 10/255", {"phases": FARTHER, **LONG, "eps": FAR, "model_options": WIDE | FOUR}
    ),
}  # fmt: skip
"""The whole budget each."""


def operations(model: Any) -> int:
    """Of one evaluation of the model's cell on one image."""
    x = torch.zeros(1, *model.image_shape)
    with torch.no_grad():
        u, z = model.inject(x), model.zeros(x)
        with Operations() as counter:
            model.cell(z, u)
    return counter.total


def run(name: str, data: str, out: Path, seed: int) -> None:
    trial, folder = choose("trial", name, TRIALS | WHOLE), out / (f"{name}-{seed}" if name in WHOLE else name)
    plain = replace(recipe("cifar10-small"), model_options={})  # every trial names its own
    chosen = plain.changed({"data": data, **COMMON, "seed": seed, **trial.settings})
    splits = chosen.load()
    history = train(chosen, folder, folder / "model", data=splits)
    model: Any = rd.load_model(folder / "model").eval()
    weight = operations(model) / operations(rd.create_model("mdeq-small"))
    held = splits.validation.take(slice(POINTS))
    suite = JUDGED if name in WHOLE else HELD_OUT
    found = rd.evaluate(model, held, suite=suite, out=folder / "held-out", batch_size=125, checks=0)
    shares = {label: share.percent for label, share in found.shares().items()}
    row = {
        "units": weight * sum(epoch["units_per_image"] for epoch in history) * len(splits.train),
        "minutes": sum(epoch["seconds"] for epoch in history) / 60,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "residual": history[-1].get("residual", math.nan), **shares,
    }  # fmt: skip
    write_json(folder / "trial.json", row)
    print(name, json.dumps(row), flush=True)


def spread(values: list[float], digits: int = 1) -> str:
    """The mean, and of several the smallest and largest."""
    shown = [f"{value:.{digits}f}" for value in (mean(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if len(values) > 1 else shown[0]


def table(out: Path) -> str:
    head = ["run", "what", "f-units, M", "minutes", "clean", "PGD-20", "worst", "residual"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    runs = [(name, trial, BUDGET / 4) for name, trial in TRIALS.items()]
    runs += [(f"{name}-{seed}", trial, BUDGET) for name, trial in WHOLE.items() for seed in range(3)]
    for folder, trial, budget in runs:
        if (file := out / folder / "trial.json").exists():
            row: Any = json.loads(file.read_text())
            over = " (over)" if row["units"] > budget else ""
            cells = [folder, trial.why, f"{row['units'] / 1e6:.2f}{over}", f"{row['minutes']:.0f}"]
            cells += [f"{row[key]:.1f}" for key in ("clean", "PGD-20", "All")] + [f"{row['residual']:.3f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/half-hour"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    for name in options.names:
        run(name, options.data, options.out, options.seed)
    print(table(options.out))


if __name__ == "__main__":
    main()
