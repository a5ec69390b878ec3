"""The main job on its smallest recipe: real processes, killed for real."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from robustdeq.cli import main

ROWS = ["baseline", "random states", "no attacks in training"]


def _start(out, *more):
    command = [sys.executable, "-m", "robustdeq.cli", "reproduce", "smoke", "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction") / "whole"
    process = _start(out)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out, printed


def test_it_writes_table_results_models_and_figures(whole):
    out, printed = whole
    table = (out / "table.md").read_text()
    assert table.strip() in printed and "The report, for a browser:" in printed and (out / "report.html").exists()
    results = json.loads((out / "results.json").read_text())
    expected = [name for row in ROWS[:2] for name in (row, f"{row} + entropy reduction")] + [ROWS[2]]
    assert list(results["rows"]) == expected
    for name in expected:
        shares = results["rows"][name]["shares"]
        smallest = min(share["count"] / share["total"] for share in shares.values() if share["total"] == 4)
        assert shares["All"]["count"] / 4 <= smallest
        assert f"| {name} | " in table
        flags = {flag["name"] for flag in results["rows"][name]["flags"]}
        assert flags == {"static", "black-box"} if "entropy reduction" in name else len(flags) >= 7
    for row in ROWS:
        assert results["analysis"][row]["readouts"]["early"] in range(1, 5)
        assert (out / "models" / row.replace(" ", "-") / "model.safetensors").exists()
    for figure in ("entropy.png", "states.png"):
        assert (out / "figures" / figure).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.rglob(".*")]


def test_killed_and_started_again_it_gives_the_same_table(whole, tmp_path):
    out, _ = whole
    again = tmp_path / "again"
    process = _start(again)
    checkpoint = again / "training" / "baseline" / "last.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = _children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and children and not (again / "table.md").exists()
    deadline = time.monotonic() + 10
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children)), "a killed run left its jobs behind"

    process = _start(again)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert (again / "table.md").read_text() == (out / "table.md").read_text()

    began = time.monotonic()
    process = _start(again)  # all done: nothing is trained or attacked again
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (again / "table.md").read_text() == (out / "table.md").read_text()
    assert time.monotonic() - began < 60


def test_a_folder_of_another_run_is_refused(whole, tmp_path):
    out, _ = whole
    process = _start(out, "--seed", "1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "another training.seed" in errors
    (tmp_path / "file").write_text("mine")
    process = _start(tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "is not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SHORT = [
    'phases=[{"epochs": 2, "attack_steps": 1, "step_size": 0.03, "solver_steps": 2}]', "batch_size=50",
    "validation=60", "validation_points=20", "validation_steps=2", "validation_every=1",
    "test_points=20", "auto_points=4",
    "data_seed=3", 'auto_attacks=["apgd-ce"]', 'defence={"updates": 1}',
    'model_options={"steps": 3, "channels": [8, 8], "head_channels": [4, 4], "features": 16, "stem_stride": 4}',
]  # fmt: skip


def test_cifar10_small_is_reproduced_on_images_of_one_s_own_choice(cifar10, tmp_path, capsys):
    """The recipe, shortened, on the first real images: held out as asked for, judged on them, and counted."""
    for split, rows in (("train", 260), ("test", 40)):
        (tmp_path / "cifar10").mkdir(exist_ok=True)
        first = pq.read_table(cifar10 / f"{split}.parquet").slice(0, rows)
        pq.write_table(first, tmp_path / "cifar10" / f"{split}.parquet")
    out = tmp_path / "out"
    command = ["reproduce", "cifar10-small", "--data", str(tmp_path / "cifar10"), "--out", str(out), "--set", *SHORT]
    assert main([*command, "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert "| baseline + entropy reduction |" in printed and "20 test images, in their published order" in printed
    plan = json.loads((out / "recipe.json").read_text())
    assert (plan["data_seed"], plan["validation"], plan["seed"]) == (3, 60, 5)
    config = json.loads((out / "training" / "baseline" / "config.json").read_text())
    assert config["training"]["validation_points"] == 20 and config["data_seed"] == 3
    lines = [json.loads(line) for line in (out / "training" / "baseline" / "log.jsonl").read_text().splitlines()]
    assert any("validation" in line for line in lines)
    best = (out / "training" / "baseline" / "best" / "model.safetensors").read_bytes()
    assert (out / "models" / "baseline" / "model.safetensors").read_bytes() == best
    assert json.loads((out / "models" / "baseline" / "config.json").read_text())["classes"] == list("0123456789")
    assert main([*command, "--seed", "6"]) == 2 and "another training.seed" in capsys.readouterr().err
