"""The scripts that a user copies run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "attack_and_evaluate": "| All |",
    "deq_of_your_own": "| PGD |",
    "defence_of_your_own": "| All, without the defence |",
    "images_of_your_own": "| PGD |",
    "solver_of_your_own": "| PGD |",
}


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_as_it_stands(name, tmp_path):
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert SAYS[name] in run.stdout
