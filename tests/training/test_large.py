"""The largest recipe of CIFAR-10, as it is but for its batch: slow, since a step takes seconds on a CPU."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STEPS = 3


@pytest.fixture
def images(tmp_path):
    """32x32 pixels in ten classes: so many that an epoch in batches of four has ``STEPS`` steps."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 4 * STEPS + 1), ("test", 1)):
        for number in range(max(count, 10)):
            folder = tmp_path / "images" / split / f"class-{number % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_cifar10_large_starts_and_goes_on_where_it_was_stopped(images, tmp_path):
    out = tmp_path / "run"
    words = [sys.executable, "-m", "robustdeq", "train", "cifar10-large", "--data", str(images), "--out", str(out)]
    words += ["--set", "batch_size=4", "validation=1", "validation_points=0"]
    for epochs in (1, 2):  # the first run is stopped after its first epoch, the second after its next one
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until = time.monotonic() + 600
        while len(rows(out)) < epochs and process.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=200)[0]
        assert (out / "last.safetensors").exists(), said
        assert [(row["step"], row["epoch"]) for row in rows(out)][:epochs] == [
            (STEPS * epoch, epoch) for epoch in range(1, epochs + 1)
        ], said


def rows(out):
    """A row an epoch."""
    if not (log := out / "log.jsonl").exists():
        return []
    return [row for row in map(json.loads, log.read_text().splitlines()) if "epoch" in row]
