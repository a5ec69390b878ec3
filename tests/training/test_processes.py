"""Several processes (Gloo): what they find together is what one process finds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from launcher import launch, launch_function
from safetensors.torch import load_file
from several import CONFIGS, train, train_all
from small_models import own

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.distributed import SINGLE
from robustdeq.training import Trainer


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Every config trained by two processes."""
    out = tmp_path_factory.mktemp("two")
    launch_function(train_all, out)
    return out


def last_row(out):
    return [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()][-1]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_and_one_end_with_the_same_weights_and_metrics(together, tmp_path, name):
    train(name, tmp_path, SINGLE)
    one, two = (load_file(folder / name / "model" / "model.safetensors") for folder in (tmp_path, together))
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5
    if name == "pgd-at":  # of the whole batch
        one, two = (last_row(folder / name) for folder in (tmp_path, together))
        assert one["validation"] == two["validation"]
        for key in ("loss", "accuracy_adv", "evaluations_per_image"):
            assert two[key] == pytest.approx(one[key], rel=1e-5)


def test_the_command_line_under_torchrun(tmp_path, capsys):
    """A model with BatchNorm. Only the first process speaks, nothing outlives the group, and one process alone finds
    nothing left to do."""
    phases = 'phases=[{"epochs": 2, "attack_steps": 1, "solver_steps": 2}]'
    words = ["train", "smoke", "--set", phases, "validation_points=20", "--out", str(tmp_path / "run")]
    first = launch(Path(__file__).with_name("torn_down.py"), *words)
    assert main(words) == 0
    assert capsys.readouterr().out == first and first.count("2 epochs") == 1
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_a_batch_that_the_processes_cannot_share_is_refused():
    images = rd.data.digits().train.take(slice(64))
    config = replace(CONFIGS["pgd-at"], validation_points=0)
    with pytest.raises(ValueError, match="batch_size=32 with accumulate=1 on 3 processes"):
        Trainer(own(10, side=8), images, config, "unused", distributed=replace(SINGLE, world_size=3))
