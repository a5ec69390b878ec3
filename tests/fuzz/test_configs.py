"""RECIPE as the config.json of a run, with damage: `train CONFIG.json` and `reproduce CONFIG.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from damage import FOREVER, Damage, spoiled_json
from law import cases, every, sandbox, told

from robustdeq.recipes import recipe

SETTINGS = {
    "phases": [{"epochs": 1, "attack_steps": 1, "solver_steps": 1}], "model_options": {"steps": 2}, "batch_size": 1000,
    "validation_points": 2, "validation_steps": 1, "jacobian": {"weight": 0.1},
    "optimizer": {"name": "sgd", "momentum": 0.9}, "objective": {"name": "pgd-at", "label_smoothing": 0.1},
}  # fmt: skip
"""One update, with as many kinds of option as fit in."""


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    return json.loads(json.dumps(recipe("smoke").changed(SETTINGS).plan()))


def refused(verb: str, damage: Damage, capfd: Any) -> None:
    """A config that might be right is trained, and then there is a model."""
    with sandbox() as place:
        (place / "plan.json").write_bytes(damage.data)
        out = place / "out"
        codes = (2,) if damage.sure else (0, 1, 2)
        told("config files", [verb, "plan.json", "--out", "out"], place, capfd, codes=codes, how=damage.how,
             right=lambda: "" if (out / "model").exists() else "no model")  # fmt: skip


@cases(50)
def test_a_config_with_damage(runs, plan, capfd):
    every(runs, lambda damage: refused("train", damage, capfd), spoiled_json(plan, forever=FOREVER))


@cases(20)
def test_a_config_with_damage_that_is_reproduced(runs, plan, capfd):
    strategy = spoiled_json(plan, forever=FOREVER).filter(lambda damage: damage.sure)
    every(runs, lambda damage: refused("reproduce", damage, capfd), strategy)


@pytest.mark.parametrize("verb", ["train", "reproduce"])
@pytest.mark.parametrize("name", ["no.json", "folder.json", "loop.json", "plan.json/x.json", ".json", "\udcff.json"])
def test_a_config_that_is_no_file(name: str, verb: str, plan, capfd):
    with sandbox() as place:
        Path("folder.json").mkdir()
        Path("loop.json").symlink_to("loop.json")
        Path("plan.json").write_text(json.dumps(plan))
        told("config files", [verb, name, "--out", "out"], place, capfd)
