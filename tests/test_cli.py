"""The command line as a user meets it: real processes, exit codes, one or two lines for a mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import robustdeq as rd
from robustdeq.cli import COMMANDS, main
from robustdeq.commands import Evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=3), tmp_path_factory.mktemp("model"))


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "robustdeq", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trin", "digits"], "unknown command 'trin' (did you mean 'train'?)"),
        (["train", "digts", "--out", "OUT"], "unknown recipe 'digts' (did you mean 'digits'?)"),
        (["train", "smoke", "--out", "OUT", "--resume"], "holds no last.safetensors; allowed: the folder of a run"),
        (["train", "smoke", "--out", "OUT", "--sede", "1"], "unknown option '--sede' (did you mean '--seed'?)"),
        (["train", "smoke", "--out", "OUT", "--seed", "one"], "--seed"),
        (["train", "smoke", "--out", "OUT", "--seed", "-1"], "seed=-1"),
        (["train", "smoke"], "--out"),
        (["train", "smoke", "--out", "OUT", "--set", "lerning_rate=1"], "did you mean 'learning_rate'"),
        (["train", "smoke", "--out", "OUT", "--set", "learning_rate"], "allowed: NAME=VALUE"),
        (["train", "smoke", "--out", "OUT", "--set", "model=mdeq-nan"], "did you mean 'mdeq-nano'"),
        (["train", "smoke", "--out", "OUT", "--set", "data_seed=-1"], "seed=-1; allowed"),
        (["train", "smoke", "--out", "OUT", "--set", 'model_options={"stps": 3}'], "did you mean 'steps'"),
        (["train", "smoke", "--out", "OUT", "--set", 'phases=[{"epoch": 1}]'], "did you mean 'epochs'"),
        (["train", "smoke", "--out", "OUT", "--set", "validation_points=10", "batch_size=5000"], "batch_size=5000"),
        (["train", "no/such.json", "--out", "OUT"], "no/such.json cannot be read"),
        (["train", "smoke", "--out", "OUT", "--set", "flip=no"], "flip='no'; allowed: true or false"),
        (["train", "smoke", "--out", "OUT", "--set", "pad=1", "--set", "pad=2"], "pad= is given twice"),
        (["train", "smoke", "--out", "OUT", "--seed", "1", "--set", "seed=2"], "--seed and --set seed="),
        (["train", "smoke", "--out", "OUT", "--set", "phases=5"], "phases=5; allowed: a list"),
        (["train", "smoke", "--out", "OUT", "--set", "phases=[5]"], "allowed: the fields of Phase by name"),
        (["train", "smoke", "--out", "OUT", "--set", "model_options=null"], "allowed: options by name"),
        (["train", "smoke", "--out", "OUT", "--set", 'solver="picard"'], 'allowed: model_options={"solver": ...}'),
        (["train", "smoke", "--out", "OUT", "--set", "epochs=3"], 'allowed: phases=[{"epochs": ..., ...}]'),
        (["evaluate", "MODEL", "--out", "OUT", "--steps", "3"], "unknown option '--steps'; allowed: --set steps=VALUE"),
        (["train", "smoke", "--out", "OUT", "--clean", "--objective", "trades"], "--clean with --objective,"),
        (["train", "smoke", "--out", "OUT", "--set", "eps=0.1", 'threat={"name": "L2", "eps": 1}'], "allowed: one of"),
        (["train", "smoke", "--out", "OUT", "--solver", "picard", "--set", 'model_options={"solver": "anderson"}'],
         "--solver and --set model_options= with a solver"),
        (["train", "smoke", "--out", "OUT", "--solver", '{"name": "anderson", "memry": 2}'], "did you mean 'memory'"),
        (["reproduce", "smoke", "--out", "OUT", "--set", "auto_points=0"], "auto_points=0"),
        (["reproduce", "smoke", "--out", "OUT", "--set", 'defence={"update": 1}'], "did you mean 'updates'"),
        (["train", "smoke", "--out", "OUT", "--solver", "broydn"], "did you mean 'broyden'"),
        (["train", "smoke", "--out", "OUT", "--gradient", "fantom"], "did you mean 'phantom'"),
        (["evaluate", "no/such model", "--out", "OUT"], "no/such model"),
        (["evaluate", "MODEL", "--out", "OUT", "--suite", "standrd"], "did you mean 'standard'"),
        (["evaluate", "MODEL", "--out", "OUT", "--eps", "-0.1"], "eps=-0.1"),
        (["evaluate", "MODEL", "--out", "OUT", "--subset", "100000"], "--subset 100000; allowed: 1..360"),
        (["evaluate", "MODEL", "--out", "OUT", "--set", "stpes=3"], "did you mean 'steps'"),
        (["evaluate", "MODEL", "--out", "OUT", "--set", "batch_size=3"], "unknown option 'batch_size'"),
        (["evaluate", "MODEL", "--out", "OUT", "--set", "queries=3"], "suite quick: unknown option 'queries'"),
        (["evaluate", "MODEL", "--out", "OUT", "--suite", "paper", "--set", "states=[9]"], "allowed: 1..3"),
        (["evaluate", "MODEL", "--out", "OUT", "--checks", "-1"], "checks=-1"),
        (["evaluate", "MODEL", "--out", "OUT", "--states", "--defend"], "allowed: --states alone"),
        (["evaluate", "MODEL", "--out", "OUT", "--states", "--checks", "9"], "--states with --checks, which"),
        (["certify", "MODEL", "--out", "OUT", "--attacked", "0", "--suite", "standard", "--steps", "9"],
         "--attacked 0 with --suite, --steps"),
        (["train", "smoke", "--out", "OUT", "--clean", "--attack-gradient", "phantom"], "--clean with --attack-grad"),
        (["certify", "MODEL", "--out", "OUT", "--sigma", "25"], "--sigma=25; allowed: a number in (0, 10]"),
        (["bench", "--out", "OUT", "--json", "--compare", "old.json"], "--json with --compare"),
        (["view", "MODEL", "--space", "OUT", "--port", "8000", "--browser"], "--space with --port, --browser"),
        (["evaluate", "MODEL", "--out", "OUT", "--states", "--set", "queries=3"], "unknown option 'queries'"),
        (["evaluate", "MODEL", "--out", "OUT", "--data", "digit"], "did you mean 'digits'"),
        (["attack", "MODEL", "--out", "OUT", "--loss", "crossentropy"], "unknown loss"),
        (["attack", "MODEL", "--out", "OUT", "--device", "tpu"], "--device"),
        (["reproduce", "digits", "--jobs", "0", "--out", "OUT"], "jobs=0"),
        (["convert", "FILE", "--out", "OUT"], "FILE"),
        (["convert", "missing.pth", "--out", "OUT"], "missing.pth"),
    ],
)
def test_a_mistake_is_one_or_two_lines_with_exit_code_2_and_nothing_is_written(
    arguments, message, folder, tmp_path, capfd
):
    foreign = tmp_path / "foreign.pth"
    foreign.write_text("not a checkpoint")
    names = {"OUT": str(tmp_path / "out"), "MODEL": str(folder), "FILE": str(foreign)}
    assert main([names.get(word, word) for word in arguments]) == 2
    shown = capfd.readouterr().err
    assert names.get(message, message) in shown
    assert 1 <= len(shown.strip().splitlines()) <= 2 and "Traceback" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["attack", "analyze", "reproduce", "bench", "view"])
def test_a_verb_whose_work_no_processes_share_refuses_a_launcher(verb, folder, tmp_path, monkeypatch, capfd):
    """Each would do all of it, on one GPU and in one folder; what ``bench`` measures is then another thing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = {"bench": [], "reproduce": ["smoke"]}.get(verb, [str(folder)])
    out = [] if verb == "view" else ["--out", str(tmp_path / "out")]
    assert main([verb, *words, *out]) == 2 and not (tmp_path / "out").exists()
    assert f"{verb}: in 2 processes; allowed: one" in capfd.readouterr().err


def test_a_number_of_images_is_refused_where_no_images_are(tmp_path, capfd):
    folder = rd.save_model(rd.create_model("mdeq-nano", seed=0, image_shape=(1, 16, 16)), tmp_path / "model")
    assert main(["view", str(folder), "--count", "5", "--space", str(tmp_path / "out")]) == 2
    assert "view without --data with --count" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_a_mistake_in_a_real_process():
    found = _run("train", "digts", "--out", "unused")
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("robustdeq: unknown recipe 'digts' (did you mean 'digits'?)")
    assert len(found.stderr.splitlines()) == 1


def test_every_help_shows_examples(capfd):
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code in (0, None)
        assert f"\n  robustdeq {name} " in capfd.readouterr().out


def test_train_then_evaluate_then_attack(tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["train", "smoke", "--out", str(out), "--states", "random", "--objective", "trades"]) == 0
    first = (out / "model" / "model.safetensors").read_bytes()
    assert main(["train", "smoke", "--out", str(out), "--states", "random", "--objective", "trades"]) == 0
    assert (out / "model" / "model.safetensors").read_bytes() == first
    assert main(["train", "smoke", "--out", str(out)]) == 2  # another run is in this folder
    assert "another training.objective" in capfd.readouterr().err
    again = tmp_path / "again"
    assert main(["train", str(out / "config.json"), "--out", str(again)]) == 0
    assert (again / "model" / "model.safetensors").read_bytes() == first
    judged = tmp_path / "judged"
    assert main(["train", "smoke", "--out", str(judged), "--set", "validation_points=20", "ema=0.9"]) == 0
    assert "best on held-out images" in capfd.readouterr().out
    best = (judged / "best" / "model.safetensors").read_bytes()
    assert (judged / "model" / "model.safetensors").read_bytes() == best
    steps = [json.loads(line)["step"] for line in (judged / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 20

    found = tmp_path / "found"
    assert main(["evaluate", str(out / "model"), "--subset", "10", "--out", str(found)]) == 0
    assert capfd.readouterr().out.strip() == (found / "table.md").read_text().strip()

    attacked = tmp_path / "attacked"
    arguments = [str(out / "model"), "--subset", "10", "--steps", "2", "--gradient", "phantom", "--out", str(attacked)]
    assert main(["attack", *arguments]) == 0
    tensors = load_file(attacked / "images.safetensors")
    assert tensors["adversarial"].shape == (10, 1, 8, 8)
    model = rd.load_model(out / "model")
    right = model(tensors["adversarial"]).argmax(1) == tensors["labels"]
    assert torch.equal(right, tensors["robust"])
    assert (tensors["adversarial"] - tensors["images"]).abs().max() <= 0.15 + 1e-6


def test_set_may_be_given_several_times(tmp_path):
    out = tmp_path / "run"
    words = ["--set", "pad=1", "flip=true", "--states", "random", "--set=ema=0.5", "--set", "data=digits"]
    assert main(["train", "smoke", "--out", str(out), *words]) == 0
    config = json.loads((out / "config.json").read_text())
    training = config["training"]
    assert (training["pad"], training["flip"], training["ema"], config["data"]) == (1, True, 0.5, "digits")
    assert training["states"]["name"] == "random"


def test_evaluate_by_suite_defended_and_every_state(folder, tmp_path, capfd):
    few = [str(folder), "--subset", "4", "--batch-size", "3"]
    budget = ["--set", "steps=2", "iterations=2", "queries=3", 'attacks=["apgd-ce"]']
    adaptive = ["--defend", "--suite", "adaptive", "--checks", "2", "--images", *budget]
    assert main(["evaluate", *few, *adaptive, "--out", str(tmp_path / "all")]) == 0
    shown = capfd.readouterr().out
    assert all(f"| {column} |" in shown for column in ("static", "frozen", "end-to-end", "black-box", "All"))
    assert "the first 4 test images of scikit-learn digits" in shown and "The defence costs" in shown
    assert "Checks on the first 2 samples" in shown
    found = rd.Evaluation.read(tmp_path / "all")
    assert all(images[:].shape == (4, 1, 8, 8) for images in found.images.values())
    assert main(["evaluate", *few, "--states", "--set", "steps=2", "--out", str(tmp_path / "states")]) == 0
    assert "| ensemble, mean of the states |" in capfd.readouterr().out
    assert len(json.loads((tmp_path / "states" / "readouts.json").read_text())["states"]) == 3


def test_an_evaluation_that_cannot_stand_beside_is_refused_before_the_first_attack(folder, tmp_path, capfd):
    few = [str(folder), "--checks", "0", "--set", "steps=1", "--out"]
    assert main(["evaluate", "--subset", "4", *few, str(tmp_path / "bare")]) == 0
    beside = ["--defend", "--beside", str(tmp_path / "bare")]
    assert main(["evaluate", "--subset", "3", *beside, *few, str(tmp_path / "other")]) == 2
    assert "other points, images" in capfd.readouterr().err and not (tmp_path / "other").exists()
    assert main(["evaluate", "--subset", "4", *beside, *few, str(tmp_path / "same")]) == 0
    assert "| All, without the defence |" in capfd.readouterr().out


def test_a_model_is_judged_on_what_its_run_held_out(tmp_path, capfd):
    """The digits are cut by ``data_seed``, which the run tells, beside the model and wherever that is moved to."""
    run = ["--set", "data_seed=1", 'phases=[{"epochs":1,"attack_steps":0}]', "validation_points=0"]
    assert main(["train", "smoke", *run, "--out", str(tmp_path)]) == 0
    tests, said, moved = {}, {}, tmp_path / "far" / "away"
    shutil.copytree(tmp_path / "model", moved)
    cases = {"own": (tmp_path / "model", []), "moved": (moved, []), "other": (moved, ["--data-seed", "0"])}
    for name, (model, more) in cases.items():
        out = tmp_path / name
        words = ["--set", "steps=1", "--subset", "50", "--checks", "0", *more, "--out", str(out)]
        assert main(["evaluate", str(model), *words]) == 0
        said[name] = capfd.readouterr().err
        assert ("trained on" in said[name]) == (name == "other")
        tests[name] = json.loads((out / "evaluation.json").read_text())["identity"]["images"]
    few = [rd.data.load("digits", seed=seed).test.take(slice(50)).digest() for seed in (1, 1, 0)]
    assert list(tests.values()) == few and few[0] != few[2]
    assert "was trained on images cut by --data-seed 1; they may be among those" in said["other"]
    rd.save_model(rd.load_model(moved), moved)  # it is still that model
    assert (moved / "trained-on.json").read_bytes() == (tmp_path / "model" / "trained-on.json").read_bytes()
    for damage in ('{"data": "digits"}', '{"data": "digits", "data_seed": "x", "validation": null, "threat": null}',
                   '{"data": "digits", "data_seed": 1, "validation": null, "threat": "Linf"}', "[]"):  # fmt: skip
        (moved / "trained-on.json").write_text(damage)
        assert main(["evaluate", str(moved), *words[:6], "--out", str(tmp_path / "damaged")]) == 2
        assert "trained-on.json" in capfd.readouterr().err
    (moved / "trained-on.json").unlink()
    assert main(["evaluate", str(moved), *words[:6], "--out", str(tmp_path / "unknown")]) == 0
    assert "they may be among those that it is judged on, cut by --data-seed 0" in capfd.readouterr().err


def test_convert_leaves_the_folder_of_a_run_alone(tmp_path, capfd):
    model = rd.create_model("mdeq-large", seed=0, channels=(16, 16), head_channels=(4, 4), features=8)
    torch.save({"state_dict": rd.models.to_official(model)}, tmp_path / "theirs.pth")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert main(["convert", str(tmp_path / "theirs.pth"), "--out", str(run)]) == 2
    assert "holds config.json; allowed: a new folder" in capfd.readouterr().err
    assert (run / "config.json").read_text() == "{}"


def test_convert_reads_the_authors_layout(tmp_path):
    model = rd.create_model("mdeq-large", seed=0, channels=(16, 16), head_channels=(4, 4), features=8)
    torch.save({"state_dict": rd.models.to_official(model)}, tmp_path / "theirs.pth")
    assert main(["convert", str(tmp_path / "theirs.pth"), "--out", str(tmp_path / "ours")]) == 0
    back = rd.load_model(tmp_path / "ours")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.eval()(x), back(x))


def test_the_plan_beside_a_model_is_found_however_its_source_is_written(tmp_path, monkeypatch):
    """Else held-out images were cut by another seed, and among them were images that the model had been trained on."""
    monkeypatch.chdir(tmp_path)
    for place in ("run/model", "images"):
        (tmp_path / place).mkdir(parents=True)
    for written, asked in (("images", str(tmp_path / "images/")), ("uoft-cs/cifar10", "cifar10")):
        (tmp_path / "run" / "config.json").write_text(json.dumps({"data": written, "data_seed": 7}))
        for data, seed in ((asked, 7), (written, 7), ("digits", None)):
            verb = Evaluate(model="run/model", out=Path("out"), data=data)
            assert verb._plan(Path("run/model")).get("data_seed") == seed


def test_no_verb_takes_the_folder_of_another(folder, tmp_path, capfd):
    """Its table.md was written over, and what it had been the table of was not told."""
    words = [str(folder), "--subset", "4", "--out", str(tmp_path)]
    verbs = {
        "evaluate": ["--set", "steps=1", "--checks", "0"], "certify": ["--n", "20", "--n0", "2", "--attacked", "0"],
        "evaluate --states": ["--set", "steps=1"], "analyze": ["--steps", "1"],
    }  # fmt: skip
    for verb, options in verbs.items():
        place = [*words[:-1], str(tmp_path / verb)]
        assert main([*verb.split(), *place, *options]) == 0
        before = (tmp_path / verb / "table.md").read_bytes()
        for other in verbs.keys() - {verb}:
            assert main([*other.split(), *place, *verbs[other]]) == 2
            assert "give another --out" in capfd.readouterr().err, (verb, other)
        assert (tmp_path / verb / "table.md").read_bytes() == before
    (tmp_path / "recipe.json").write_text("{}")
    assert main(["evaluate", *words]) == 2
    assert "is the folder of a reproduction; give another --out" in capfd.readouterr().err


def test_a_ball_is_the_one_that_was_asked_for_and_another_than_that_of_the_training_is_told(tmp_path, capfd):
    """A model trained in an L2 ball was judged in an L-inf one without a word, and no option asked for the other."""
    run = ["--set", "threat=L2", "eps=0.5", 'phases=[{"epochs":1,"attack_steps":1}]', "validation_points=0"]
    assert main(["train", "smoke", *run, "--out", str(tmp_path)]) == 0
    words = ["evaluate", str(tmp_path / "model"), "--subset", "4", "--set", "steps=1", "--checks", "0", "--out"]
    assert main([*words, str(tmp_path / "own"), "--threat", "L2", "--eps", "0.5"]) == 0
    told = capfd.readouterr()
    assert "L2, eps 0.5" in told.out and "trained in" not in told.err
    assert main([*words, str(tmp_path / "other")]) == 0
    assert "was trained in the ball L2 0.5, and is attacked in Linf 0.15" in capfd.readouterr().err
    assert main([*words, str(tmp_path / "both"), "--data-seed", "3"]) == 0  # neither hides the other
    told = capfd.readouterr().err
    assert "was trained in the ball L2 0.5" in told and "was trained on images cut by --data-seed 0" in told
    assert main([*words, str(tmp_path / "none"), "--threat", "L2"]) == 2
    assert "--threat L2 without --eps" in capfd.readouterr().err
    assert main([*words, str(tmp_path / "none"), "--threat", "L2", "--eps", "1", "--defend"]) == 2
    assert "allowed: Linf, the ball of input entropy reduction" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_folder_of_a_training_is_told_from_a_model_and_from_a_recipe(folder, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    (run / "config.json").write_text("{}")
    assert main(["evaluate", str(run), "--out", str(tmp_path / "out")]) == 2
    assert f"is the folder of a training; allowed: its model, {run / 'model'}" in capfd.readouterr().err
    assert main(["train", str(run), "--out", str(tmp_path / "out")]) == 2
    assert f"is a folder, no recipe; allowed: {run / 'config.json'}" in capfd.readouterr().err
    shutil.rmtree(run / "model")
    assert main(["evaluate", str(run / "model"), "--out", str(tmp_path / "out")]) == 2
    assert f"the training in {run} has not ended" in capfd.readouterr().err
