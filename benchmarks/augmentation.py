"""What crop and flip add to clean training of a model: python benchmarks/augmentation.py --batches 20

Paired: every batch is trained on twice, with and without augmentation, in turns first. The share is the time of
crop_and_flip alone over the time of a training step without it (medians over the batches, with the quartiles of the
pairwise shares). The difference of the two step times is also given; on a busy machine its noise is larger than it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import robustdeq as rd
from robustdeq.data import ImageSet, crop_and_flip
from robustdeq.seeds import generator


def images(source: str | None, count: int, device: str) -> ImageSet:
    """Real images, or random ones of CIFAR-10's shape: crop and flip cost the same on both."""
    if source:
        return rd.data.load(source).train.take(slice(count)).to(device)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator(0))
    return ImageSet(pixels, torch.arange(count) % 10, tuple("0123456789"), "random pixels").to(device)


def seconds(work: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(model_name: str, data: ImageSet, batch: int, device: str) -> list[tuple[float, float, float]]:
    """Seconds of augmentation alone, of a step without it and of a step with it, for every batch."""
    torch.manual_seed(0)
    model = rd.create_model(model_name, num_classes=len(data.classes)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    found = []
    for index, (x, y) in enumerate(data.batches(batch, generator(1))):
        augment = lambda x=x, index=index: crop_and_flip(x, generator(2, index), pad=4, flip=True)  # noqa: E731
        plain, augmented = lambda x=x, y=y: step(x, y), lambda y=y, augment=augment: step(augment(), y)
        order = [("plain", plain), ("augmented", augmented)][:: 1 if index % 2 else -1]
        times = {name: seconds(work, device) for name, work in order}
        found.append((seconds(augment, device), times["plain"], times["augmented"]))
    return found[1:]  # the first batch pays for allocations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mdeq-small")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--source", help="a data set, as robustdeq.data.load takes it; without it random pixels")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = images(given.source, given.batch * (given.batches + 1), given.device)
    found = measure(given.model, data, given.batch, given.device)
    alone, plain, augmented = (statistics.median(column) for column in zip(*found))
    shares = statistics.quantiles([a / p for a, p, _ in found], n=4)
    result = {
        **vars(given),
        "data": data.source,
        "augmentation_ms": round(1e3 * alone, 3),
        "step_ms": round(1e3 * plain, 1),
        "step_with_augmentation_ms": round(1e3 * augmented, 1),
        "share_percent": round(100 * alone / plain, 3),
        "share_quartiles_percent": [round(100 * share, 3) for share in shares],
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
