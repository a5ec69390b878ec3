"""Two machines: torchrun --nnodes 2 in two network namespaces of this one, joined by a pair of virtual cards.

Slow, and skipped where namespaces may not be made (that takes root and iproute2): ``pytest -n 0 -m slow`` on this file.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ADDRESSES = ("10.77.0.1", "10.77.0.2")
TRAIN = (
    "-m", "robustdeq", "train", "smoke", "--set", 'model_options={"steps": 2}', "validation=1180", "batch_size=16",
    'phases=[{"epochs": 2, "attack_steps": 1, "step_size": 0.05}]', "checkpoint_seconds=0", "ema=0.9",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def machines():
    """The names of two namespaces that reach each other, and nothing else."""
    names = [f"robustdeq-{os.getpid()}-{number}" for number in range(2)]
    cards = [f"rdq{os.getpid() % 100000}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cards[0], "netns", names[0], "type", "veth", "peer", "name", cards[1], "netns", names[1])
        for name, card, address in zip(names, cards, ADDRESSES):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
            for device in ("lo", card):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield list(zip(names, cards))
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


def start(machines, out):
    """The same command on both machines."""
    launched = []
    for rank, (name, card) in enumerate(machines):
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank",
            str(rank), "--master-addr", ADDRESSES[0], "--master-port", "29555",
        ]  # fmt: skip
        words = ["ip", "netns", "exec", name, *torchrun, *TRAIN, "--out", str(out)]
        said = (out.parent / f"{out.name}-{rank}.said").open("a")
        own = {**os.environ, "GLOO_SOCKET_IFNAME": card}
        launched.append(subprocess.Popen(words, env=own, stdout=said, stderr=said, start_new_session=True))
    return launched


def said(out):
    return "\n".join(Path(f"{out}-{rank}.said").read_text()[-2000:] for rank in range(2))


def test_a_training_on_two_machines_is_killed_on_both_and_goes_on(machines, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert [process.wait(240) for process in start(machines, whole)] == [0, 0], said(whole)
    first = start(machines, cut)
    until = time.monotonic() + 120
    while not (cut / "last.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (cut / "last.safetensors").exists(), said(cut)
    for process in first:  # torchrun starts its worker in a session of its own
        for pid in below(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(30)
    assert not (cut / "model").exists()
    assert [process.wait(240) for process in start(machines, cut)] == [0, 0], said(cut)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (whole, cut))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def below(pid):
    """A process and all that it started, the last first."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*(one for child in children for one in below(int(child))), pid]
