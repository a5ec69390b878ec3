"""A real training process, killed with SIGKILL at random steps and started again."""

import os
import random
import signal
import time

import torch
from launcher import FORK
from safetensors.torch import load_file
from small_models import nano

import robustdeq as rd
from robustdeq.training import CHECKPOINT, Phase, TrainConfig, Trainer

CONFIG = TrainConfig(
    eps=0.15, batch_size=32, states="random", ema=0.9, checkpoint_seconds=0, pad=1, accumulate=2,
    phases=(Phase(epochs=4, attack_steps=1, step_size=0.1),),
)  # fmt: skip


def train(out):
    """24 updates of a model with BatchNorm."""
    torch.set_num_threads(1)
    Trainer(nano(steps=3), rd.data.digits().train.take(slice(192)), CONFIG, out).run()


def test_a_run_killed_twice_ends_with_the_same_bits(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole)
    draw = random.Random(0)
    for kill in range(2):
        before = written(cut)
        process = FORK.Process(target=train, args=(cut,))
        process.start()
        deadline = time.monotonic() + 60
        while written(cut) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.02, 0.2))  # some steps later, wherever it then is
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {kill} came too late to prove anything"
    assert steps(cut) < steps(whole)
    train(cut)
    one, two = (load_file(out / CHECKPOINT) for out in (whole, cut))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert steps(cut) == steps(whole)


def written(out):
    """When the last checkpoint was written; None before the first."""
    file = out / CHECKPOINT
    return file.stat().st_mtime_ns if file.exists() else None


def steps(out):
    log = out / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0
