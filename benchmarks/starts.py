"""What cheaper attacks cost a training: python benchmarks/starts.py [--data path/to/cifar10] NAME...

On the digits by the recipe ``digits``, on a third of CIFAR-10 by ``cifar10-small`` in three epochs; the trials differ
in the attacks of the last phase, two of the digits in its gradient. Every epoch goes through the same batches without
augmentation, so that a batch can begin where its images were left an epoch ago. Judged on held-out training images,
never on test images, by PGD-20 and Auto-PGD on nine targets. f-units are those of the whole training, an image. Without
a name the table of what is finished is printed. A trial that was stopped begins again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import half_hour
from torch import Tensor, nn

import robustdeq as rd
from robustdeq.attacks import APGD, PGD
from robustdeq.attacks.starts import goals, numbered, slope_of
from robustdeq.environment import keep_freed_memory
from robustdeq.evaluation import Entry
from robustdeq.evaluation.suites import exact
from robustdeq.files import write_json
from robustdeq.models.modes import images_only
from robustdeq.options import choose
from robustdeq.recipe import Recipe
from robustdeq.recipes import recipe
from robustdeq.training import TrainingAttack
from robustdeq.training.attacks import Attacked
from robustdeq.training.step import TrainStep

SEEDS, IMAGES = range(3), 15_000


@dataclass(frozen=True)
class Kept(TrainingAttack):
    """PGD from where the same images were left an epoch ago (Zheng et al. 2020, arXiv 1912.11969). moves: by the number
    of the batch, which stands in ``batch``, what its images were changed by."""

    name: ClassVar[str] = "kept"
    moves: dict[int, Tensor] = field(default_factory=dict)
    batch: list[int] = field(default_factory=lambda: [0])

    def __call__(
        self, pgd: PGD, model: nn.Module, deq: Any, x: Tensor, y: Tensor, indices: Tensor
    ) -> Attacked:  # fmt: skip
        (number,), before = self.batch, self.moves.get(self.batch[0])
        random = pgd.threat.spread(x, numbered(x, pgd.seed, 0, indices))
        at = random if before is None else pgd.threat.project(x, x + before)
        with images_only(model):
            (goal,) = goals(pgd, model, x, y)
            for _ in range(pgd.steps):
                slope = slope_of(pgd, model, at, goal, first=False, wanted=True)[2]
                at = pgd.threat.project(x, pgd.threat.ascend(at, slope, pgd.step_size))
        self.moves[number] = at - x
        return Attacked(at)


def trials(digits: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    """By name what a trial is, and its last phase."""
    eps = 0.15 if digits else half_hour.EPS
    whole = {"attack_steps": 5, "step_size": eps / 4} if digits else {"attack_steps": 2, "step_size": 0.75 * eps}
    short = 3 if digits else 2
    # Picard's steps, as on CIFAR-10, estimate no inverse that an adjoint solve could begin with.
    adjoint = {
        "implicit": ("PGD-5, Broyden's steps and the implicit gradient, 7 steps of its solver",
                     whole | {"gradient": "implicit"}),
        "reused": ("the same, 2 steps from the estimate that the forward solve leaves",
                   whole | {"gradient": {"name": "implicit", "reuse": True, "steps": 2}}),
    } if digits else {}  # fmt: skip
    return {
        "whole": (f"PGD-{whole['attack_steps']} on whole solves", whole),
        "fewer": (
            f"the same on {short} steps of the solver", whole | {"attack": {"name": "pgd", "solver_steps": short}},
        ),
        "carried": (
            f"the same on {short} steps, each from the state before",
            whole | {"attack": {"name": "pgd", "solver_steps": short, "carried": True}},
        ),
        "kept": ("one step on a whole solve, from where the image was left", whole | {"attack_steps": 1}),
        "one": (
            "one step of 1.25 eps on a whole solve, from a random start",
            {"attack_steps": 1, "step_size": 1.25 * eps},
        ),
        **adjoint,
    }  # fmt: skip


def planned(digits: bool, data: str, name: str, seed: int) -> Recipe:
    last = choose("trial", name, trials(digits))[1]
    if digits:
        plain, epochs = recipe("digits").changed({"validation": 337}), 6
        if name in ("implicit", "reused"):
            plain = plain.changed({"model_options": {"solver": "broyden"}})
        first = [{"epochs": 14, "attack_steps": 1, "step_size": 1.25 * 0.15, "solver_steps": 4}]
    else:
        plain = replace(recipe("cifar10-small"), model_options={}).changed({"data": data, **half_hour.COMMON})
        plain = plain.changed({**half_hour.MUON, "objective": half_hour.SOFT, "model_options": half_hour.SMOOTH})
        first, epochs = half_hour.SHORT4[:1], 2
    phases = [*first, {"epochs": epochs, **last}]
    chosen = plain.changed({"phases": phases, "seed": seed, "ema": 0.0, "validation_points": 0})
    if name != "kept":
        return chosen
    *before, final = chosen.training.phases
    return replace(chosen, training=replace(chosen.training, phases=[*before, replace(final, attack=Kept())]))


def run(digits: bool, data: str, out: Path, name: str, seed: int) -> None:
    chosen = planned(digits, data, name, seed)
    splits, config = chosen.load(), chosen.training
    train = splits.train.take(slice(IMAGES))
    model: Any = rd.create_model(chosen.model, num_classes=10, seed=seed, **chosen.model_options)
    size, attack = config.batch_size, config.phases[-1].attack
    batches = [slice(at, at + size) for at in range(0, len(train) - size + 1, size)]
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    update = TrainStep(model, optimizer, config, config.epochs * len(batches))
    for epoch in range(config.epochs):
        for number, batch in enumerate(batches):
            if isinstance(attack, Kept):
                attack.batch[0] = number
            images = train.take(batch)
            update(images.images(), images.labels, epoch * len(batches) + number, epoch)
        print(name, seed, f"epoch {epoch + 1} of {config.epochs}", flush=True)
    spent = model.tally.units / (size * len(batches))
    suite = [
        Entry("PGD-20", "PGD-20", PGD(config.threat, config.eps / 4, 20), exact),
        Entry("APGD-T", "APGD", APGD(config.threat, 50, loss="dlr-targeted", targets=9, stack=4), exact),
    ]
    held = splits.validation.take(slice(half_hour.POINTS))
    shares = rd.evaluate(model.eval(), held, suite=suite, batch_size=125, checks=0).shares()
    row = {"units": spent, **{column: shares[column].percent for column in ("clean", "PGD-20", "All")}}
    write_json(out / f"{name}-{seed}.json", row)


def table(digits: bool, out: Path) -> str:
    lines = ["| attacks of the last phase | seeds | f-units | clean | PGD-20 | All |", "|---|---|---|---|---|---|"]
    for name, (what, _) in trials(digits).items():
        files = [file for seed in SEEDS if (file := out / f"{name}-{seed}.json").exists()]
        rows: list[Any] = [json.loads(file.read_text()) for file in files]
        if rows:
            cells = [f"{mean(row['units'] for row in rows):.0f}"]
            cells += [half_hour.spread([row[column] for row in rows]) for column in ("clean", "PGD-20", "All")]
            lines.append(f"| {name}: {what} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--out", type=Path, default=Path("runs/starts"))
    options = parser.parse_args()
    keep_freed_memory()
    digits = options.data == "digits"
    out = options.out / ("digits" if digits else "cifar10")
    out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.names:
            if not (out / f"{name}-{seed}.json").exists():
                run(digits, options.data, out, name, seed)
    print(table(digits, out))


if __name__ == "__main__":
    main()
