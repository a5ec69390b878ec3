"""What stands against f-units, for PGD, Auto-PGD and the joint attack: python benchmarks/joint.py runs/mine/model

Every attack has the same images, which the model classifies correctly; a chain hands on what is still standing. Every
adversarial image is classified by the deployed forward and must lie in the ball. f-units are per image; seconds are of
this machine. Attacks that are done are kept in --out and not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import robustdeq as rd
from robustdeq.attacks import APGD, PGD, AutoAttack, JointOptimisation, Linf, Threat, ThroughGradient, predictions
from robustdeq.files import write_json
from robustdeq.options import choose

BATCH = 250


def attacks(threat: Threat) -> dict[str, list[Any]]:
    """Chains of attacks by name, cheap ones first."""
    joint = JointOptimisation(threat)
    chains: dict[str, list[Any]] = {}
    for steps in (5, 10, 20, 40, 100):
        chains[f"PGD-{steps}"] = [PGD(threat, threat.eps / 4, steps)]
    for steps, warm in ((20, 1), (20, 2), (100, 2)):
        chains[f"PGD-{steps}, solves of {warm} from the state before"] = [
            PGD(threat, threat.eps / 4, steps, keep="highest", warm=warm)
        ]
    for iterations in (10, 20, 40, 80, 160):
        chains[f"joint-{iterations}"] = [replace(joint, iterations=iterations)]
    three = JointOptimisation(threat, 40, loss="cw-targeted", order="nearest", targets=3, stack=9, step=4.0, seed=1)
    nine = replace(three, iterations=45, targets=9, step=2.0, seed=2, finish=20)
    chains["joint-20, joint-40 at 3 targets"] = [replace(joint, iterations=20), three]
    chains["joint-20, joint-40 at 3 targets, joint-45 at 9"] = [replace(joint, iterations=20), three, nine]
    for iterations in (20, 50, 100):
        chains[f"APGD-{iterations}"] = [APGD(threat, iterations)]
    chains["APGD-CE, APGD-T (reference, 100)"] = [AutoAttack(threat, attacks=["apgd-ce", "apgd-t"])]
    return chains


def measured(chain: Sequence[Any], model: Any, threat: Threat, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    view, stands = ThroughGradient(model, "unrolled"), torch.ones(len(x), dtype=torch.bool)
    before, began = model.tally.units, time.perf_counter()
    for attack in chain:
        module = model if isinstance(attack, JointOptimisation) or getattr(attack, "warm", None) else view
        for rows in torch.nonzero(stands).flatten().split(BATCH):
            x_adv = attack(module, x[rows], y[rows], indices=rows)
            with torch.no_grad():
                broken = (predictions(model(x_adv)) != y[rows]) & threat.contains(x[rows], x_adv)
            stands[rows[broken]] = False
    spent = {"units": (model.tally.units - before) / len(x), "seconds": time.perf_counter() - began}
    return {"stands": int(stands.sum()), **spent}


def table(found: dict[str, Any], names: Iterable[str]) -> str:
    lines = ["| attack | stand | f-units an image | seconds |", "|---|---|---|---|"]
    for name in names:
        row = found["attacks"][name]
        lines.append(f"| {name} | {row['stands']} | {row['units']:.0f} | {row['seconds']:.0f} |")
    return "\n".join([f"{found['clean']} of {found['points']} images are classified correctly.", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--eps", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None, help="N, instead of the model's own")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the rows of the table; default all")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    options = parser.parse_args()
    model: Any = rd.load_model(options.model).eval()
    model.steps = options.steps or model.steps
    threat = Linf(options.eps or (0.15 if options.data == "digits" else 8 / 255))
    test: Any = rd.data.load(options.data).test.take(slice(options.points))
    x, y = test.images(), test.labels
    with torch.no_grad():
        right = torch.cat([predictions(model(part)) for part in x.split(BATCH)]) == y
    found: dict[str, Any] = {"clean": int(right.sum()), "points": len(x), "attacks": {}}
    if options.out.exists():
        found = json.loads(options.out.read_text())
    chains = attacks(threat)
    chains = {name: choose("row", name, chains) for name in options.only or chains}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name, chain in chains.items():
        if name not in found["attacks"]:
            found["attacks"][name] = measured(chain, model, threat, x[right], y[right])
            write_json(options.out, found)
            print(name, found["attacks"][name], flush=True)
    print(table(found, chains))


if __name__ == "__main__":
    main()
