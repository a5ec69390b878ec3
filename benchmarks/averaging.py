"""The weights of the last step beside their moving average: python benchmarks/averaging.py RUN... --data DIR

Both of every training run (a folder with last.safetensors, trained with ``ema``), on the same held-out images and under
the same attacks as the search of ``half_hour.py``, percent.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from half_hour import HELD_OUT, POINTS

import robustdeq as rd
from robustdeq.environment import keep_freed_memory
from robustdeq.files import read_tensors
from robustdeq.recipes import recipe
from robustdeq.training import CHECKPOINT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--points", type=int, default=POINTS)
    options = parser.parse_args()
    keep_freed_memory()
    print("| run | weights | clean | PGD-20 | worst |\n|---|---|---|---|---|")
    for run in options.runs:
        held = recipe(str(run / "config.json")).changed({"data": options.data}).load().validation
        tensors = read_tensors(run / CHECKPOINT, "allowed: a training run")[0]
        for kind, name in (("model", "last"), ("average", "average")):
            model: Any = rd.load_model(run / "model").eval()
            model.load_state_dict({k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{kind}.")})
            found = rd.evaluate(model, held.take(slice(options.points)), suite=HELD_OUT, batch_size=125, checks=0)
            shares = {label: share.percent for label, share in found.shares().items()}
            print(f"| {run.name} | {name} | {shares['clean']:.1f} | {shares['PGD-20']:.1f} | {shares['All']:.1f} |")


if __name__ == "__main__":
    main()
