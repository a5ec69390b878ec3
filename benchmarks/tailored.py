"""Trainings that use a DEQ's dynamics, beside none of it: python benchmarks/tailored.py --data path/to/cifar10 NAME...

Each is trained at a quarter of the work of cifar10-small, in bfloat16, and judged on the same held-out training images,
never on test images: the bare model by PGD-20 on cross-entropy, then by Auto-PGD of 20 steps on three targets; behind
entropy reduction by the same two as transfers and through the frozen defence, and by PGD-10 through its updates.
"work" counts the multiplications and additions of all updates, relative to those of ``none``. Then what stands beside
none of it is printed: means over the seeds, and by seed how many images are gained and lost under all attacks, with
McNemar's exact test; without a name that of what is finished. A run goes on where it was stopped; one whose results
are there is not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import half_hour
import scaling

import robustdeq as rd
from robustdeq.attacks import APGD, PGD, EndToEnd, Frozen, Static
from robustdeq.environment import keep_freed_memory
from robustdeq.evaluation import Entry, Evaluation
from robustdeq.files import write_json
from robustdeq.options import choose
from robustdeq.recipe import Recipe, train
from robustdeq.recipes import recipe
from robustdeq.report.paired import paired
from robustdeq.training import FinalState, RandomState

SEEDS = range(3)
DEFENCE = rd.EntropyReduction(updates=3)
ONE = half_hour.fgsm(1, 4)
BASE: dict[str, Any] = {
    **half_hour.COMMON, **half_hour.MUON, "phases": half_hour.SHORT4, "objective": half_hour.SOFT,
    "model_options": half_hour.SMOOTH, "precision": "bfloat16",
}  # fmt: skip
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("the recipe, cut to a quarter", {}),
    "random": (
        "the loss at a random z^[t], t in 1..N (P23)",
        {"states": "random", "phases": [*half_hour.SHORT4[:2], ONE | {"epochs": 2}]},
    ),
    "several": ("losses at all states of one solve, weighted by t", {"states": "several"}),
    "steps": (
        "N drawn from 2 to 6",
        {"states": {"name": "random", "low": 2, "high": 6}, "phases": [ONE | {"epochs": 2}]},
    ),
    "start": (
        "z^[0] drawn at random (path independence)", {"start_noise": 0.5, "phases": half_hour.SHORT4[1:]},
    ),
    "consistent": (
        "a penalty on how far attacked states leave the clean ones", {"consistency": 0.5, "phases": [ONE]},
    ),
    "reduced": (
        "entropy reduction in the update and in its attack",
        {"entropy_reduction": DEFENCE, "attack_entropy_reduction": DEFENCE, "phases": [ONE]},
    ),
}  # fmt: skip
"""By name what a trial is, and what it changes. Where an update costs more there are fewer epochs; the table says what
is left of the difference."""


def suites() -> dict[str, list[Entry]]:
    """Of the bare model, and of it behind ``DEFENCE``."""
    threat = rd.Linf(half_hour.EPS)
    pgd, targeted = PGD(threat, 2 / 255, 20), APGD(threat, 20, loss="dlr-targeted", targets=3)
    far = replace(pgd, keep="highest")
    behind = [
        Entry("PGD-20 static", "static", far, Static),
        Entry("APGD static", "static", targeted, Static),
        Entry("PGD-20 frozen", "frozen", pgd, Frozen),
        Entry("PGD-10 end-to-end", "end-to-end", replace(pgd, steps=10), EndToEnd),
        Entry("APGD frozen", "frozen", targeted, Frozen),
    ]
    return {"bare": half_hour.HELD_OUT, "behind": behind}


def work(chosen: Recipe) -> float:
    """Multiplications and additions of all updates on an image, in the mean over the states that are drawn."""
    training, total = chosen.training, 0.0
    for phase in training.phases:
        steps = [phase.solver_steps or chosen.model_options["steps"]]
        if isinstance(training.states, RandomState):
            high = training.states.high or steps[0]
            steps = list(range(min(training.states.low, high), high + 1))
        phases = [replace(phase, epochs=1, solver_steps=t) for t in steps]
        states = FinalState() if len(steps) > 1 else training.states
        fixed = replace(chosen, training=replace(training, phases=phases, states=states))
        works = scaling.counted(fixed, 10)[0]
        each = [one.operations[0] / training.batch_size + one.operations[1] for one in works]
        total += phase.epochs * mean(each)
    return total


def run(name: str, data: str, out: Path, seed: int) -> None:
    plain = replace(recipe("cifar10-small"), model_options={}).changed({"data": data, **BASE, "seed": seed})
    chosen, folder = plain.changed(choose("trial", name, TRIALS)[1]), out / f"{name}-{seed}"
    if (folder / "trial.json").exists():
        return
    splits = chosen.load()
    history = train(chosen, folder, folder / "model", data=splits)
    model: Any = rd.load_model(folder / "model").eval()
    held = splits.validation.take(slice(half_hour.POINTS))
    for judged, (label, suite) in zip((model, DEFENCE(model)), suites().items()):
        found = rd.evaluate(judged, held, suite=suite, out=folder / label, batch_size=125, checks=0)
        print(name, seed, label, *found.shares().items(), sep="  ", flush=True)
    write_json(folder / "trial.json", {"work": work(chosen) / work(plain), "residual": history[-1]["residual"]})


def finished(name: str, out: Path) -> dict[int, tuple[dict[str, float], dict[str, Evaluation]]]:
    """By seed the numbers of a trial, and its evaluations by label."""
    folders = {seed: out / f"{name}-{seed}" for seed in SEEDS}
    return {
        seed: (json.loads(file.read_text()), {label: Evaluation.read(folder / label) for label in ("bare", "behind")})
        for seed, folder in folders.items() if (file := folder / "trial.json").exists()
    }  # fmt: skip


def table(out: Path) -> str:
    columns = [(label, share) for label in ("bare", "behind") for share in ("clean", "All")]
    head = ["training", "what", "seeds", "work", *map(" ".join, columns), "residual"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, (what, _) in TRIALS.items():
        if runs := list(finished(name, out).values()):
            cells = [name, what, str(len(runs)), f"{runs[0][0]['work']:.2f}"]
            for label, share in columns:
                cells.append(half_hour.spread([judged[label].shares()[share].percent for _, judged in runs]))
            cells.append(half_hour.spread([row["residual"] for row, _ in runs], 2))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pairs(out: Path) -> str:
    """Each beside ``none`` of the same seed, on the same images."""
    lines = ["| training | seed | bare: gained | lost | p | behind: gained | lost | p |", "|" + "---|" * 8]
    plain = finished("none", out)
    for name in TRIALS:
        for seed, (_, judged) in finished(name, out).items():
            if name != "none" and seed in plain:
                each = [paired(judged[label], plain[seed][1][label])[-1] for label in judged]
                cells = [f"{pair.first} | {pair.second} | {pair.p:.2g}" for pair in each]
                lines.append(f"| {name} | {seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/tailored"))
    options = parser.parse_args()
    keep_freed_memory()
    for seed in SEEDS:
        for name in options.names:
            run(name, options.data, options.out, seed)
    print(table(options.out), pairs(options.out), sep="\n\n")


if __name__ == "__main__":
    main()
