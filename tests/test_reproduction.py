"""The main job on its smallest recipe: real processes, killed for real."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from robustdeq.cli import main
from robustdeq.files import write_json
from robustdeq.options import settings
from robustdeq.recipes import recipe
from robustdeq.reproduction import Repeated, Reproduction
from robustdeq.reproduction.seeds import seeds_table
from robustdeq.reproduction.table import evaluated

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


def _few(cifar10, tmp_path):
    """The first real images, as a source of their own."""
    (tmp_path / "cifar10").mkdir()
    for split, rows in (("train", 260), ("test", 40)):
        first = pq.read_table(cifar10 / f"{split}.parquet").slice(0, rows)
        pq.write_table(first, tmp_path / "cifar10" / f"{split}.parquet")
    return tmp_path / "cifar10"


def test_cifar10_small_is_reproduced_on_images_of_one_s_own_choice(cifar10, tmp_path, capsys):
    """The recipe, shortened, on the first real images: held out as asked for, judged on them, and counted."""
    out = tmp_path / "out"
    command = ["reproduce", "cifar10-small", "--data", str(_few(cifar10, tmp_path)), "--out", str(out), "--set", *SHORT]
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


def test_seeds_have_a_folder_each_and_one_table(whole, tmp_path):
    """The one seed here is finished, and nothing is done again."""
    job = Repeated(recipe=recipe("smoke"), out=tmp_path / "out", seeds=1)
    shutil.copytree(whole[0], job.out / "seed-0")
    write_json(job.out / "seeds.json", job.recipe.plan())
    told, table = job.run(lambda *_: None), (job.out / "table.md").read_text()
    assert table.strip() in told and (job.out / "report.html").exists()
    assert table == seeds_table({0: evaluated(job.parts()[0])}) and "seeds 0." in table
    assert list(replace(job, seeds=3).parts()) == [0, 1, 2]
    assert {part.recipe.training.seed for part in replace(job, seeds=3).parts().values()} == {0, 1, 2}
    other = replace(job.recipe, training=replace(job.recipe.training, batch_size=64))
    with pytest.raises(ValueError, match=r"another training\.batch_size"):
        replace(job, recipe=other).run(lambda *_: None)


def test_the_table_of_seeds_has_means_and_counts_and_what_stands_in_one_row_only(whole):
    rows = evaluated(Reproduction(recipe=recipe("smoke"), out=whole[0]))
    exchanged = {**rows, "baseline": rows["random states"], "random states": rows["baseline"]}
    table = seeds_table({3: rows, 5: exchanged})
    one, other = (rows[row].shares()["clean"].count for row in ("baseline", "random states"))
    spread = f"({100 / 24 * min(one, other):.1f} to {100 / 24 * max(one, other):.1f})"
    assert f"| baseline | {100 / 48 * (one + other):.1f} {spread} {one}, {other} of 24 |" in table
    assert "seeds 3, 5" in table
    beside = next(line for line in table.splitlines() if line.startswith("| random states | clean |"))
    by_seed = [tuple(map(int, pair.split(","))) for pair in beside.split("|")[3].split(";")]
    assert by_seed[0] == by_seed[1][::-1] and by_seed[0][0] - by_seed[0][1] == other - one
    assert beside.split("|")[5].split(",") == [f" {sum(by_seed[0])}", f" {sum(by_seed[0])} "]


def test_a_network_without_states_is_a_row_like_any_other(cifar10, tmp_path, capsys):
    """Further rows of cifar10-small: trained, attacked and counted; what only a DEQ has is left out."""
    shortened = recipe("cifar10-small").changed({"data": str(_few(cifar10, tmp_path)), **settings(SHORT)})
    phases = [{"epochs": 1, "attack_steps": 1, "step_size": 0.03}]
    further = {name: {**row, "phases": phases} for name, row in shortened.further.items()}
    job = Reproduction(recipe=replace(shortened, further=further), out=tmp_path / "out", jobs=2)
    table = job.run(lambda *_: None)
    explicit, phantom = (
        json.loads((job.model(row) / "config.json").read_text()) for row in ("explicit network", "phantom gradient")
    )
    assert explicit["model"] == "resnet18" and phantom["solver"]["name"] == "broyden"
    assert "| explicit network |" in table and "| explicit network + entropy reduction |" not in table
    assert "| phantom gradient + entropy reduction |" in table and not job.analysis("explicit network").exists()
    told = json.loads((job.out / "recipe.json").read_text())["rows"]
    assert told["explicit network"]["model"] == "resnet18" and "model" not in told["baseline"]
