"""Real processes under torchrun (Gloo): what they find together is what one process finds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from launcher import launch
from safetensors.torch import load_file
from several import CONFIGS, train
from small_models import own

import robustdeq as rd
from robustdeq.processes import ALONE
from robustdeq.training import Trainer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Every config trained by two processes."""
    out = tmp_path_factory.mktemp("two")
    launch(HERE / "several.py", out)
    return out


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_and_one_end_with_the_same_weights(together, tmp_path, name):
    train(name, tmp_path, ALONE)
    one, two = (load_file(folder / name / "model" / "model.safetensors") for folder in (tmp_path, together))
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5


def test_metrics_and_validation_are_of_the_whole_batch(together, tmp_path):
    train("pgd-at", tmp_path, ALONE)
    one, two = (
        [json.loads(line) for line in (folder / "pgd-at" / "run" / "log.jsonl").read_text().splitlines()][-1]
        for folder in (tmp_path, together)
    )
    assert one["validation"] == two["validation"]
    for name in ("loss", "accuracy_adv", "evaluations_per_image"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)


def test_the_command_line_under_a_launcher(tmp_path):
    """A model with BatchNorm; the second call finds nothing left to do. Only the first process speaks."""
    command = ["-m", "robustdeq", "train", "smoke", "--out", tmp_path / "run"]
    first, second = launch(*command), launch(*command)
    assert first == second and first.count("2 epochs") == 1
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_a_batch_that_the_processes_cannot_share_is_refused():
    images = rd.data.digits().train.take(slice(64))
    with pytest.raises(ValueError, match="batch_size=32 with accumulate=1 on 3 processes"):
        Trainer(
            own(10, side=8),
            images,
            replace(CONFIGS["pgd-at"], validation_points=0),
            "unused",
            processes=replace(ALONE, count=3),
        )
