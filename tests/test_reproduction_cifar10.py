"""The recipe cifar10-small, shortened, on the first real images: real processes, and every kind of row."""

import contextlib
import io
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from robustdeq.cli import main
from robustdeq.recipes import RECIPES

SHORT = [
    'phases=[{"epochs": 2, "attack_steps": 1, "step_size": 0.03, "solver_steps": 2}]', "batch_size=50",
    "validation=60", "validation_points=20", "validation_steps=2", "validation_every=1",
    "test_points=20", "auto_points=4",
    "data_seed=3", 'auto_attacks=["apgd-ce"]', 'defence={"updates": 1}',
    'model_options={"steps": 3, "channels": [8, 8], "head_channels": [4, 4], "features": 16, "stem_stride": 4}',
]  # fmt: skip


@pytest.fixture(scope="module")
def reproduced(cifar10, tmp_path_factory):
    """Made once: its command, its folder and what was printed. Further rows are as short as the others."""
    place, printed = tmp_path_factory.mktemp("cifar10-small"), io.StringIO()
    (place / "cifar10").mkdir()
    for split, rows in (("train", 260), ("test", 40)):
        first = pq.read_table(cifar10 / f"{split}.parquet").slice(0, rows)
        pq.write_table(first, place / "cifar10" / f"{split}.parquet")
    whole, phases = RECIPES["cifar10-small"](), [{"epochs": 1, "attack_steps": 1, "step_size": 0.03}]
    shortened = replace(whole, further={name: {**row, "phases": phases} for name, row in whole.further.items()})
    command = ["reproduce", "cifar10-small", "--data", str(place / "cifar10"), "--out", str(place / "out")]
    command += ["--jobs", "2", "--set", *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "cifar10-small", lambda: shortened)
        with contextlib.redirect_stdout(printed):
            assert main([*command, "--seed", "5"]) == 0
        yield command, place / "out", printed.getvalue()


def test_cifar10_small_is_reproduced_on_images_of_one_s_own_choice(reproduced, capsys):
    """Held out as asked for, judged on them, and counted."""
    command, out, printed = reproduced
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


def test_a_network_without_states_is_a_row_like_any_other(reproduced):
    """Further rows of cifar10-small: trained, attacked and counted; what only a DEQ has is left out."""
    _, out, table = reproduced
    configs = (out / "models" / row / "config.json" for row in ("explicit-network", "phantom-gradient"))
    explicit, phantom = (json.loads(config.read_text()) for config in configs)
    assert explicit["model"] == "resnet18" and phantom["solver"]["name"] == "broyden"
    assert "| explicit network |" in table and "| explicit network + entropy reduction |" not in table
    assert "| phantom gradient + entropy reduction |" in table
    assert (out / "analysis" / "phantom-gradient.json").exists()
    assert not (out / "analysis" / "explicit-network.json").exists()
    told = json.loads((out / "recipe.json").read_text())["rows"]
    assert told["explicit network"]["model"] == "resnet18" and "model" not in told["baseline"]
