"""What people mistype most often, and what they read then."""

import json

import pytest
import torch
from torch import nn

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.training import TrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=3), tmp_path_factory.mktemp("model"))


def said(capfd, *words):
    """The one line of a command that is refused."""
    assert main(list(map(str, words))) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_distances_may_be_fractions(folder, tmp_path, capfd):
    words = ["--subset", "4", "--checks", "0", "--set", "steps=1", "step_size=2/255"]
    assert main(["evaluate", str(folder), "--eps", "8/255", *words, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["identity"]["eps"] == 8 / 255
    pgd = [attack["options"] for attack in record["attacks"].values() if attack["attack"] == "PGD"]
    assert {options["step_size"] for options in pgd} == {2 / 255}
    assert TrainConfig(phases=[{"epochs": 1, "attack_steps": 1, "step_size": "2/255"}], eps="4/255").eps == 4 / 255
    assert rd.EntropyReduction(eps="8/255").eps == rd.Linf("8/255").eps == 8 / 255
    capfd.readouterr()
    for wrong in ("8/", "8/0", "-8/255", "8/255/1", "eight", "nan", "inf"):
        assert "8/255" in said(capfd, "evaluate", folder, f"--eps={wrong}", "--out", tmp_path / "other")


def test_an_l2_ball_of_eight_is_questioned():
    with pytest.warns(UserWarning, match="did you mean 8/255"):
        rd.L2(8)


def test_a_normalisation_in_front_of_a_model_is_told_where_it_belongs():
    class Normalise(nn.Module):
        def forward(self, x):
            return (x - 0.5) / 0.25

    model = nn.Sequential(Normalise(), rd.create_model("mdeq-nano", seed=0))
    with pytest.raises(ValueError, match=r"allowed: \[0, 1\] \(a normalisation belongs into the model"):
        model(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="divide 8-bit pixels by 255"):
        rd.create_model("mdeq-nano", seed=0)(torch.full((1, 1, 8, 8), 255.0))


def test_images_of_another_size_name_the_option():
    model = rd.create_model("mdeq-small", seed=0)
    with pytest.raises(ValueError, match=r"load them with image_size=32, or make .* image_shape=\(1, 28, 28\)"):
        model(torch.rand(1, 1, 28, 28))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_with_a_wrapper_s_prefix_are_read(prefix, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    state = {prefix + key: value for key, value in load_file(folder / "model.safetensors").items()}
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(next(rd.load_model(tmp_path).parameters()), next(rd.load_model(folder).parameters()))


@pytest.mark.parametrize("content", ["[]", "5", "null", '"x"', "{}", "{", "[" * 9999, '{"recipe": 5}',
                                     '{"recipe": "smoke", "training": 5}', '{"recipe": "smoke", "x": 1}'])  # fmt: skip
def test_what_is_no_config_is_one_line(content, tmp_path, capfd):
    file = tmp_path / "config.json"
    file.write_text(content)
    for verb in ("train", "reproduce"):
        assert "config.json" in said(capfd, verb, file, "--out", tmp_path / "out") or '"recipe": 5' in content
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suite", ["[/x]", "[red]quick", "\x1b[31mquick", "quick\nquick"])
def test_markup_in_a_name_is_a_name(suite, folder, tmp_path, capfd):
    line = said(capfd, "evaluate", folder, "--suite", suite, "--out", tmp_path / "out")
    assert "unknown suite" in line and "\x1b" not in line


def test_offline_asks_no_hub(folder, tmp_path, capfd, monkeypatch):
    import socket

    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    line = said(capfd, "evaluate", "nobody/nothing", "--offline", "--out", tmp_path / "out")
    assert "not asked offline" in line
    line = said(capfd, "evaluate", folder, "--data", "nobody/nothing", "--offline", "--out", tmp_path / "out")
    assert "OFFLINE is set" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["runs/none", "./none", "none/at/all", "/no/model"])
def test_a_mistyped_folder_is_no_hub_name(name, folder, tmp_path, capfd):
    assert "no such folder" in said(capfd, "evaluate", name, "--out", tmp_path / "out")
    line = said(capfd, "evaluate", folder, "--data", name, "--out", tmp_path / "out")
    assert "no such folder" in line and "hub" in line


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "--out", "OUT"], "train: RECIPE missing"), (["train", "smoke"], "train: --out missing"),
        (["train", "smoke", "more", "--out", "OUT"], "'more' beside another RECIPE"),
        (["train", "smoke", "--out"], "--out without a value"), (["convert", "x"], "--out missing"),
        (["train", "smoke", "--out", "FILE"], "is a file; allowed: a folder"),
        (["evaluate", "MODEL", "--out", "FILE", "--subset", "3"], "is a file; allowed: a folder"),
    ],
)  # fmt: skip
def test_what_is_missing_or_in_the_way_is_named(words, message, folder, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    names = {"OUT": tmp_path / "out", "FILE": tmp_path / "file", "MODEL": folder}
    assert message in said(capfd, *(names.get(word, word) for word in words))
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "out").exists()
