"""What the suite ``adaptive`` costs behind entropy reduction: python benchmarks/adaptive.py MODEL [--points 100]

A model of the digits (``robustdeq train digits``), CPU seconds on one thread. To compare with another commit put its
src in PYTHONPATH; where that commit does not know the folder, its mdeq-nano is given the folder's weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import robustdeq as rd
from robustdeq import environment

EPS = 0.15


def model_of(folder: Path) -> Any:
    try:
        return rd.load_model(folder).eval()
    except ValueError:
        model: Any = rd.create_model("mdeq-nano", num_classes=10)
        lacking, _ = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        if lacking:
            raise
        return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(environment, "keep_freed_memory"):  # as the command line does
        environment.keep_freed_memory()
    defended = rd.EntropyReduction(eps=EPS, step_size=EPS / 4)(model_of(options.model))
    test, began = rd.data.load("digits").test, time.process_time()
    spend = {name: getattr(options, name) for name in ("restarts", "iterations", "queries")}
    result = rd.evaluate(
        defended, test.images()[: options.points], test.labels[: options.points], suite="adaptive",
        threat=rd.Linf(EPS), checks=0, **spend,
    )  # fmt: skip
    spent = time.process_time() - began
    print(result.table())
    seconds = {name: total["seconds"] for name, total in result.to_dict().get("totals", {}).items()}
    for name, own in seconds.items():
        print(f"{own / sum(seconds.values()):5.1%} {name}")
    print(f"{rd.__file__}: {spent:.0f} CPU seconds")


if __name__ == "__main__":
    main()
