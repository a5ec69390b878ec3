"""What a whole recipe takes on one thread: python benchmarks/updates.py [--recipe cifar10-small]

The CPU seconds of one update of each phase, the least of several, times the updates that the phase has. To compare with
another commit put its src in PYTHONPATH, in turn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch

import robustdeq as rd
from robustdeq import environment
from robustdeq.recipes import recipe
from robustdeq.training.step import TrainStep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar10-small")
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(environment, "keep_freed_memory"):  # as the command line does
        environment.keep_freed_memory()
    chosen, whole = recipe(options.recipe), 0.0
    model: Any = rd.create_model(chosen.model, seed=0, **chosen.model_options)
    draw, size = torch.Generator().manual_seed(0), chosen.training.batch_size
    x = torch.rand(size, *model.image_shape, generator=draw)
    y = torch.randint(10, (size,), generator=draw)
    for phase in chosen.training.phases:
        config = replace(chosen.training, phases=(replace(phase, epochs=1),), validation_points=0, learning_rate=1e-9)
        step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-9), config, total=10**9)
        seconds = []
        for _ in range(options.repeats + 1):
            began = time.process_time()
            step(x, y, 0, 0)
            seconds.append(time.process_time() - began)
        updates = phase.epochs * (options.images // size)
        whole += updates * min(seconds[1:]) / 60
        print(f"{phase.epochs} epochs, {updates} updates of {min(seconds[1:]):.3f} s")
    print(f"{chosen.name}: {whole:.1f} CPU minutes")


if __name__ == "__main__":
    main()
