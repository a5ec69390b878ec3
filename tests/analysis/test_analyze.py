"""`robustdeq analyze` as a user meets it: what it writes, that it goes on, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_models import own

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.commands.analyze import Analyze

COMMAND = ["--subset", "6", "--steps", "2", "--batch-size", "4", "--solver", "picard", "--solver"]
COMMAND += ['{"name": "anderson", "memory": 2}', "--defend", "--sweep", "--seed", "3"]
FILES = ["analysis.json", "detector.csv", "deviations.csv", "quantiles.csv", "samples.csv", "states.csv", "sweep.csv"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shape = {"channels": (8,), "head_channels": (2,), "features": 8}
    model = rd.create_model("mdeq-nano", seed=1, steps=3, **shape)  # right on one of the six images at z^[3]
    return rd.save_model(model, tmp_path_factory.mktemp("models") / "a <b>bold</b> name")


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("analysis") / "out"
    assert main(["analyze", str(folder), *COMMAND, "--out", str(out)]) == 0
    return out


def test_it_writes_every_number_once_as_a_table_and_in_few(out):
    told = json.loads((out / "analysis.json").read_text())
    assert list(told["solvers"]) == ["picard", "anderson (memory=2)"]
    model, data = told["solvers"]["picard"], rd.data.digits().test.take(slice(6))
    bare = rd.analysis.variant(rd.load_model(told["model"]), solver="picard")
    states = pd.read_csv(out / "states.csv")
    mine = states[(states["solver"] == "picard") & (states["inputs"] == "clean")]
    probabilities = rd.analysis.probabilities_along(bare, data.images())
    assert mine["p7"].to_numpy() == pytest.approx(probabilities[:, :, 7].T.flatten().numpy(), abs=1e-6)
    assert len(states) == 2 * 5 * 6 * 3  # solvers, kinds of inputs, samples, steps
    right = (probabilities[-1].argmax(1) == data.labels).sum()
    assert right > 0
    assert model["accuracy"]["clean"][-1]["count"] == right
    samples = pd.read_csv(out / "samples.csv")
    assert samples.query("solver == 'picard' and inputs == 'clean'")["label"].tolist() == data.labels.tolist()
    assert told["readouts"]["states"][-1]["clean"]["count"] == right
    center, *_ = told["sweep"]["rows"]
    assert (center["updates"], center["units"]) == (10, 3 + 10) and len(pd.read_csv(out / "sweep.csv")) > 8
    table = (out / "table.md").read_text()
    assert table.startswith("| solver | clean | attacked |")
    assert all(f"| {row} |" in table for row in ("anderson (memory=2)", "picard, regulated", "z^[3]", "T_f"))


def test_the_same_command_goes_on_and_ends_with_the_same_numbers(folder, out, capfd):
    before = {name: (out / name).read_bytes() for name in FILES}
    (out / "measured" / "picard" / "000004.safetensors").unlink()  # as if it had been killed there
    next((out / "sweep" / "picard").glob("*updates-5*")).unlink()
    for name in FILES:
        (out / name).unlink()
    kept = (out / "measured" / "picard" / "000000.safetensors").stat().st_mtime_ns
    assert main(["analyze", str(folder), *COMMAND, "--out", str(out)]) == 0
    assert (out / "measured" / "picard" / "000000.safetensors").stat().st_mtime_ns == kept
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert "| picard |" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "0.1"], "belongs to another eps, options.defence.eps, options.defence.step_size; give another"),
        (["--seed", "4"], "belongs to another seed; give another folder"),
    ],
)
def test_a_folder_is_of_one_analysis(folder, out, words, message, capfd):
    given = [word for word in COMMAND if word not in ("--seed", "3")] + ["--out", str(out)]
    given += words if "--seed" in words else ["--seed", "3", *words]
    assert main(["analyze", str(folder), *given]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--solver", "broydn"], "did you mean 'broyden'"),
        (["--solver", '{"name": "anderson", "memry": 2}'], "did you mean 'memory'"),
        (["--steps", "0"], "steps=0; allowed"),
        (["--subset", "100000"], "--subset 100000; allowed: 1..360"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(folder, words, message, tmp_path, capfd):
    assert main(["analyze", str(folder), *words, "--out", str(tmp_path / "new")]) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_a_model_without_states_is_refused(tmp_path, capfd):
    plain = rd.save_model(rd.create_model("resnet18", channels=(8, 16), stem=8, seed=0), tmp_path / "resnet")
    assert main(["analyze", str(plain), "--out", str(tmp_path / "new")]) == 2
    error = capfd.readouterr().err.strip()
    assert "analyze: the model is a PreActResNet" in error and "allowed: a DEQClassifier" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_by_default_every_solver_that_can_take_the_steps():
    analyze = Analyze(model="model", out=Path("out"))
    assert list(analyze._solvers(own(solver="broyden", steps=5))) == ["broyden", "anderson", "picard", "reversible"]
    assert "reversible" not in analyze._solvers(own(steps=20))  # its way back would lose all digits of float32


def test_its_help_has_examples(capfd):
    with pytest.raises(SystemExit):
        main(["analyze", "--help"])
    shown = capfd.readouterr().out
    assert "robustdeq analyze runs/mine/model --out runs/mine/analysis" in shown and "--sweep" in shown
