"""Auto-PGD here beside the reference's: python benchmarks/apgd.py MODEL --data path/to/cifar10 --points 50

APGD-CE, then APGD-T at nine targets on what stands, 100 steps each, once by pyautoattack's AutoAttack and once by ours,
through the same gradient. The starts differ, since ours are drawn for each sample; so an outcome may.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import robustdeq as rd
from robustdeq.attacks import APGD, AutoAttack, ThroughGradient, predictions
from robustdeq.data import load
from robustdeq.environment import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--stack", type=int, default=4)
    options = parser.parse_args()
    keep_freed_memory()
    model: Any = rd.load_model(options.model).eval()
    test = load(options.data).test.take(slice(options.points))
    x, y, threat = test.images(), test.labels, rd.Linf(options.eps)
    with torch.no_grad():
        correct = predictions(model(x)) == y
    view, indices = ThroughGradient(model, "unrolled"), torch.arange(len(x))
    ours = [APGD(threat, 100, stack=options.stack), APGD(threat, 100, loss="dlr-targeted", stack=options.stack)]
    chains = {"pyautoattack": [AutoAttack(threat, attacks=("apgd-ce", "apgd-t"))], "here": ours}
    print("| | stand | f-units an image | seconds |\n|---|---|---|---|")
    for name, attacks in chains.items():
        stands, before, began = correct.clone(), model.tally.units, time.perf_counter()
        for attack in attacks:
            found = attack(view, x[stands], y[stands], indices=indices[stands])
            with torch.no_grad():
                stands[stands.clone()] = predictions(model(found)) == y[stands]
        spent, seconds = (model.tally.units - before) / len(x), time.perf_counter() - began
        print(
            f"| {name} | {int(stands.sum())} of {len(x)} | {spent:,.0f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
