"""The commands that a report shows make the same again."""

import json
import shlex
import subprocess
import sys

import pytest

import robustdeq as rd
from robustdeq.cli import _command, main
from robustdeq.evaluation import Evaluation
from robustdeq.recipes import recipe
from robustdeq.report.again import evaluate_command, reproduce_command, train_command
from robustdeq.report.runs import read_runs


@pytest.mark.parametrize("threat", [rd.Linf(0.15), rd.L2(0.5)], ids=lambda threat: threat.name)
def test_an_evaluation_made_again_has_the_same_outcomes(threat, whole, digits, tmp_path):
    model, out = rd.load_model(whole / "model"), tmp_path / "quick"
    options = {"suite": "quick", "threat": threat, "batch_size": 3, "seed": 4, "checks": 0}
    first = rd.evaluate(model, digits.take(slice(4)), out=out, **options)
    (run,) = read_runs([out])
    line = evaluate_command(run.evaluations[0], model, str(whole / "model"), "digits")
    assert "\n" not in line and "--suite quick" in line
    words = shlex.split(line)[1:]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main([*words, "--checks", "0"]) == 0
    again = Evaluation.read(tmp_path / "again")
    assert again.shares() == first.shares() and again.record.identity.threat == first.record.identity.threat
    assert {name: robust.tolist() for name, robust in again.robust.items()} == {
        name: robust.tolist() for name, robust in first.robust.items()
    }


def test_an_evaluation_of_the_command_line_keeps_its_command(whole, tmp_path):
    words = ["robustdeq", "evaluate", str(whole / "model"), "--suite", "quick", "--set", "steps=2", "--subset", "2"]
    words += ["--checks", "0", "--out", str(tmp_path / "an evaluation")]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, timeout=200)
    (run,) = read_runs([tmp_path / "an evaluation"])
    assert shlex.split(evaluate_command(run.evaluations[0], None, "", None)) == words


def test_what_the_record_does_not_tell_is_in_capitals(whole):
    (run,) = read_runs([whole / "bare"])
    line = evaluate_command(run.evaluations[0], None, "", None)
    assert "evaluate MODEL --suite SUITE --data DATA " in line and "of no suite at its defaults" in line


@pytest.mark.parametrize("every, updates", [(2, 10), (1, 10), (2, 3)])
def test_a_defence_that_the_command_line_does_not_put_on_is_told(whole, digits, tmp_path, every, updates):
    model = rd.load_model(whole / "model")
    defended = rd.EntropyReduction(0.15, 0.0375, updates, every)(model)
    rd.evaluate(defended, digits.take(slice(2)), suite="quick", threat=rd.Linf(0.15), out=tmp_path, steps=1, checks=0)
    (run,) = read_runs([tmp_path])
    line = evaluate_command(run.evaluations[0], None, "", None)
    assert "--defend" in line.splitlines()[0]
    assert ("another than --defend puts on" in line) is ((every, updates) != (2, 10))


def test_a_training_is_made_again_from_its_plan(whole):
    (run,) = read_runs([whole])
    words = shlex.split(train_command(run.trainings[0]))[1:]
    plan = _command(*words).changed().plan()
    assert plan == json.loads((whole / "config.json").read_text())


@pytest.mark.parametrize("full", [True, False])
def test_a_reproduction_is_made_again_with_its_defence(whole, tmp_path, full):
    out = tmp_path / 'it\'s "here"'
    (out / "training" / "baseline").mkdir(parents=True)
    (out / "training" / "baseline" / "config.json").write_bytes((whole / "config.json").read_bytes())
    defence = {"eps": 0.15, "step_size": 0.02, "updates": 7, "every": 2}
    plan = {"recipe": "smoke", "rows": {"baseline": {}}, "defence": defence, "full": full}
    (out / "recipe.json").write_text(json.dumps(plan))
    (run,) = read_runs([out])
    command = _command(*shlex.split(reproduce_command(run, plan))[1:])
    made = command.changed()
    assert command.full == full and made.defence == rd.EntropyReduction(**defence)
    assert made.training == recipe(str(whole / "config.json")).training
