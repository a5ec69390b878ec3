"""What a run leaves to be read: JSON lines, TensorBoard events, W&B on request, a closing summary."""

import json
from dataclasses import replace

import pytest
from small_models import own
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import robustdeq as rd
from robustdeq.training import Phase, TrainConfig, Trainer, summary
from robustdeq.training.words import warnings

CONFIG = TrainConfig(
    eps=0.15, batch_size=8, validation_points=10, validation_steps=1, states="random",
    phases=(Phase(epochs=2, attack_steps=1),),
)  # fmt: skip
EVERY_EPOCH = {
    "loss", "accuracy_clean", "accuracy_adv", "residual", "solver_steps", "evaluations_per_image", "images_per_second",
    "memory_gib", "validation/clean", "validation/unrolled", "validation/phantom", "validation/robust",
}  # fmt: skip


def _trained(folder, **options):
    splits = rd.data.digits()
    trainer = Trainer(own(10, side=8), splits.train.take(slice(80)), CONFIG, folder, splits.validation, **options)
    trainer.run()
    return trainer


def test_tensorboard_has_what_json_has(tmp_path):
    trainer = _trained(tmp_path)
    lines = [json.loads(line) for line in trainer.log.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 10, 20, 20]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "train/learning_rate", "train/solver_steps"} | EVERY_EPOCH <= set(board.Tags()["scalars"])
    shown = [event.value for event in board.Scalars("loss")]
    assert shown == pytest.approx([line["loss"] for line in lines if "loss" in line], rel=1e-6)


def test_mean_solver_steps_and_evaluations_are_those_of_random_states(tmp_path):
    """N = 5, two forwards an update, one t each: between 2 and 10 evaluations of f an image."""
    last = _trained(tmp_path).history[-1]
    assert 1 < last["solver_steps"] < 5 and 2 < last["evaluations_per_image"] < 10


def test_the_summary_tells_time_speed_and_the_best(tmp_path):
    history = _trained(tmp_path).history
    best = max(row["validation"]["robust"] for row in history)
    text = summary(history)
    assert text.startswith("2 epochs, 160 images, ")
    assert f"best on held-out images: robust {100 * best:.1f}%" in text
    judged = ({"robust": 0.3, "clean": 0.6}, {"robust": 0.2, "clean": 0.7})
    calm = [{**row, "kept": "validation", "validation": of} for row, of in zip(history, judged)]
    assert "best on held-out images: robust 20.0% after epoch 2 (clean 70.0%)" in summary(calm)  # the one that is kept
    warned = [*history[:-1], {**history[-1], "warnings": ["something"]}]
    assert summary(warned).splitlines()[-1] == "warning: something"


def test_what_nobody_attacked_has_no_accuracy_under_attack(tmp_path):
    """Of a clean epoch the log, the summary and the warnings called the share of the images as they are attacked."""
    splits, phases = rd.data.digits(), (Phase(epochs=1, attack_steps=1), Phase(epochs=1, attack_steps=0))
    images = splits.train.take(slice(80))
    trainer = Trainer(own(10, side=8), images, replace(CONFIG, phases=phases), tmp_path, splits.validation)
    trainer.run()
    attacked, clean = trainer.history
    assert "% attacked" in summary([attacked]) and "% attacked" not in summary([attacked, clean])
    steps = [json.loads(line)["train"] for line in trainer.log.path.read_text().splitlines() if '"train"' in line]
    assert [type(step["accuracy_adv"]) for step in steps] == [float, type(None)] and "accuracy_adv" not in clean
    best, fallen = ({**row, "validation": {"robust": share}} for row, share in ((clean, 0.5), (clean, 0.1)))
    assert warnings([best, fallen]) == []


def test_wandb_gets_every_number_of_a_run_that_may_be_resumed(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = _trained(tmp_path, wandb=True)
    assert trainer.log.wandb.id == (tmp_path / "wandb-id").read_text()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb")) and wandb.run is None


def test_wandb_that_is_not_installed_is_said_in_one_line(tmp_path):
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="wandb is not installed; allowed: pip install wandb"):
            _trained(tmp_path, wandb=True)
    else:
        pytest.skip("it is installed")
