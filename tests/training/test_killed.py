"""A real training process, killed with SIGKILL at random steps and started again."""

import os
import random
import signal
import subprocess
import sys
import time

OPTIONS = ["--states", "random", "--set", "ema=0.9", "checkpoint_seconds=0", "pad=1", "accumulate=2"]


def _start(out):
    command = [sys.executable, "-m", "robustdeq.cli", "train", "smoke", "--out", str(out), *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def _written(run):
    """When the last checkpoint was written; None before the first."""
    file = run / "last.safetensors"
    return file.stat().st_mtime_ns if file.exists() else None


def _steps(log):
    return log.read_text().count("\n") if log.exists() else 0


def test_a_run_killed_twice_ends_with_the_same_bits(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _start(whole).wait(120) == 0
    draw = random.Random(0)
    for kill in range(2):
        before = _written(cut)
        process = _start(cut)
        deadline = time.monotonic() + 60
        while _written(cut) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.4))  # some steps later, wherever it then is
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (cut / "model").exists(), f"kill {kill} came too late to prove anything"
    process = _start(cut)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    weights = "model/model.safetensors"
    assert (cut / weights).read_bytes() == (whole / weights).read_bytes()
    assert _steps(cut / "log.jsonl") == _steps(whole / "log.jsonl")
