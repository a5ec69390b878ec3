"""What does not fit is refused before anything is written; damage is refused and never trained on."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.training import Phase, TrainConfig, Trainer

SHORT = ["--set", "phases=[{\"epochs\": 1, \"attack_steps\": 1}, {\"epochs\": 1, \"attack_steps\": 0}]",
         "batch_size=400", 'model_options={"steps": 2}']  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return rd.data.load("digits").train


def config(**options):
    return TrainConfig(phases=[Phase(epochs=1, attack_steps=1)], batch_size=32, **options)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--solver", "reversible", "--set", "attack_gradient=simultaneous"], "allowed: anderson, broyden, picard"),
        (["--set", "model_options={\"image_shape\": [3, 32, 32]}"], "image_shape=(1, 8, 8)"),
        (["--set", "model_options={\"image_shape\": [1, 16, 16]}"], "image_size=16"),
        (["--set", "pad=8"], "pad=8 of 8x8 pixels; allowed: less than a side"),
        (["--set", "pad=1000000"], "pad=1000000"),
        (["--set", "phases=[{\"epochs\": 1, \"attack_steps\": 0}, {\"epochs\": 1, \"attack_steps\": 0, "
          "\"solver\": \"reversible\", \"gradient\": \"simultaneous\"}]"], "allowed: anderson, broyden, picard"),
        (["--set", "model_options={\"num_classes\": 9}"], "labels up to 9 for a model of 9 classes"),
        (["--set", "auto_attacks=[\"x\"]"], "unknown AutoAttack attack 'x'"),
        (["--clean", "--set", "phases=[{\"epochs\": 1, \"attack_steps\": 1}]"], "--clean and --set phases="),
        (["--set", "phases=[{"], "is no JSON"),
        (["--set", "model_options={\"channels\": [24000, 48000]}"], "its weights take"),
        (["--seed", str(2**70)], "allowed: 0.."),
        (["--gradient", "None"], "--gradient None"),
        (["--seed", "1", "--seed", "2"], "--seed is given twice"),
        (["--clean=yes"], "allowed: --clean alone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["train", "reproduce"])
def test_a_command_that_cannot_begin_writes_nothing(verb, words, message, tmp_path, capfd):
    if verb == "reproduce" and words[0] in ("--solver", "--clean", "--gradient", "--clean=yes"):
        pytest.skip("no such flag")
    assert main([verb, "smoke", "--out", str(tmp_path / "out"), *words]) == 2
    shown = capfd.readouterr().err
    assert message in shown and len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_wandb_that_is_missing_claims_no_folder(tmp_path, capfd):
    from importlib.util import find_spec

    if find_spec("wandb"):
        pytest.skip("wandb is installed")
    assert main(["train", "smoke", "--wandb", "--out", str(tmp_path / "out")]) == 2
    assert "wandb is not installed" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_a_rehearsal_leaves_no_trace(images, tmp_path):
    model = rd.create_model("mdeq-nano", seed=0, steps=2, dropout=0.1)
    trainer = Trainer(model, images, config(awp=0.01, jacobian={"weight": 1.0, "share": 1.0}), tmp_path)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    trainer.rehearse()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not list(tmp_path.iterdir())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_epoch_s_account_leaves_no_trace_in_the_averages(images, tmp_path):
    """BatchNorm has seen the batches of the updates and nothing else."""
    model = rd.create_model("mdeq-nano", seed=0, steps=2)
    Trainer(model, images.take(slice(96)), config(), tmp_path).run()
    counts = {int(value) for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts == {3}


def old_weight_norm():
    return nn.Sequential(nn.Flatten(), torch.nn.utils.weight_norm(nn.Linear(64, 10)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make, options, message",
    [
        (lambda: rd.create_model("mdeq-nano", seed=0).requires_grad_(False), {}, "every parameter is frozen"),
        (old_weight_norm, {"ema": 0.9}, r"ema=0\.9 of a model that cannot be copied"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10).requires_grad_(False), nn.BatchNorm1d(10)),
         {"awp": 0.1}, r"awp=0\.1 moves weights of two dimensions"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_trained_so_is_refused(make, options, message, images, tmp_path):
    with pytest.raises(ValueError, match=message):
        Trainer(make(), images, config(**options), tmp_path)


def test_labels_beyond_the_classes_are_refused_in_a_clean_phase_too(images, tmp_path):
    model = rd.create_model("mdeq-nano", num_classes=9, seed=0, steps=2)
    clean = TrainConfig(phases=[Phase(epochs=1, attack_steps=0)], batch_size=32)
    with pytest.raises(ValueError, match="labels up to 9 for a model of 9 classes"):
        Trainer(model, images, clean, tmp_path).rehearse()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(["train", "smoke", "--out", str(out), *SHORT]) == 0
    return out


def _bit(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def _changed(path, change):
    """The file with another header or other tensors, as a foreign program would write it."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


def _no_moments(tensors, metadata):
    for key in [key for key in tensors if "exp_avg" in key]:
        del tensors[key]


def _negative_step(tensors, metadata):
    metadata["robustdeq"] = json.dumps({**json.loads(metadata["robustdeq"]), "step": -1})


def _int8(tensors, metadata):
    tensors.update({key: value.to(torch.int8) for key, value in tensors.items() if key.startswith("model.")})


@pytest.mark.parametrize("damage", [_bit, _no_moments, _negative_step, _int8])
def test_a_damaged_checkpoint_is_never_trained_on(damage, run, tmp_path, capfd):
    import shutil

    out = shutil.copytree(run, tmp_path / "out")
    damage(out / "last.safetensors") if damage is _bit else _changed(out / "last.safetensors", damage)
    weights = (out / "model" / "model.safetensors").read_bytes()
    assert main(["train", "smoke", "--out", str(out), *SHORT]) == 2
    shown = capfd.readouterr().err
    assert "is damaged" in shown and "remove it to start this run anew" in shown and len(shown.splitlines()) == 1
    assert (out / "model" / "model.safetensors").read_bytes() == weights


NO_STEPS = ["{}", "[]", "5", '{"step": null}', "[" * 3000, '{"step": 1' + "0" * 400 + "}", "\x00"]


@pytest.mark.parametrize("line", NO_STEPS, ids=range(len(NO_STEPS)))
def test_a_log_line_that_says_no_step_is_dropped(line, run, tmp_path):
    import shutil

    out = shutil.copytree(run, tmp_path / "out")
    with (out / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    assert main(["train", "smoke", "--out", str(out), *SHORT]) == 0
    assert (out / "log.jsonl").read_text() == (run / "log.jsonl").read_text()


class Single(nn.Linear):
    """A readout that ends in an operation of single precision."""

    def forward(self, z):
        logits = super().forward(z)
        with torch.autocast("cpu", enabled=False):
            return logits @ torch.ones(10, 10)


def test_what_cannot_be_computed_in_half_precision_is_refused_before_it_begins(images, tmp_path):
    model = rd.create_model("mdeq-nano", seed=0)
    model.readout = Single(model.layout.size, 10)
    assert Trainer(model, images, config(), tmp_path / "single").rehearse() is None
    with pytest.raises((ValueError, RuntimeError), match="dtype"):
        Trainer(model, images, config(precision="bfloat16"), tmp_path / "half").rehearse()
    assert not (tmp_path / "half").exists()
