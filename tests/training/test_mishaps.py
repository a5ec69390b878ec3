"""What goes wrong in a run leaves the run as it was: numbers that are not finite, kills between two files, signals."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from small_models import nano, own
from torch import nn

import robustdeq as rd
from robustdeq.dynamics import Picard
from robustdeq.gradients import Phantom
from robustdeq.training import JacobianPenalty, Phase, TrainConfig, Trainer
from robustdeq.training.step import TrainStep

EPS = 0.15
CONFIG = TrainConfig(
    eps=EPS, batch_size=32, learning_rate=5e-3, phases=(Phase(epochs=2, attack_steps=1, step_size=EPS),),
    validation_points=10, validation_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def splits():
    return rd.data.digits()


def _trainer(splits, folder, config=CONFIG, model=None):
    model = nano(steps=3) if model is None else model
    return Trainer(model, splits.train.take(slice(96)), config, folder, splits.validation)


def test_numbers_that_are_not_finite_leave_every_weight_and_statistic_and_are_told_with_residuals(splits, tmp_path):
    trainer = _trainer(splits, tmp_path)
    done = []

    def poison(step, total, text):
        """After the fourth update the first image of the fifth is brightness without end inside the model."""
        done.append({key: value.clone() for key, value in trainer.model.state_dict().items()})
        if step == 4:
            trainer.model.inject.register_forward_hook(lambda module, given, u: _infinite(u))

    with pytest.raises(FloatingPointError, match=r"step 4: .*residual .*of 32 samples not finite; nothing was updated"):
        trainer.run(poison)
    with safe_open(str(trainer.checkpoint), framework="pt") as file:
        facts = json.loads(file.metadata()["robustdeq"])
        kept = {key.removeprefix("model."): file.get_tensor(key) for key in file.keys() if key.startswith("model.")}  # noqa: SIM118
    assert facts["step"] == 4
    for state in (trainer.model.state_dict(), kept):
        assert all(torch.equal(value, state[key]) for key, value in done[-1].items())


def _infinite(u):
    return torch.utils._pytree.tree_map(lambda part: part * float("inf") if isinstance(part, torch.Tensor) else part, u)


def test_a_kill_while_an_epoch_is_judged_does_not_lose_the_epoch(splits, tmp_path, monkeypatch):
    config = replace(CONFIG, checkpoint_seconds=0.0)
    whole = _trainer(splits, tmp_path / "whole", config)
    whole.run()
    cut = _trainer(splits, tmp_path / "cut", config)
    monkeypatch.setattr(cut, "_judge", lambda images: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        cut.run()
    again = _trainer(splits, tmp_path / "cut", config)
    again.run()
    assert [row["epoch"] for row in again.history] == [1, 2]
    timeless = [{k: v for k, v in row.items() if k not in TIMES} for row in (*whole.history, *again.history)]
    assert timeless[:2] == timeless[2:]


TIMES = {"seconds", "images_per_second", "memory_gib"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(splits, tmp_path, number):
    whole = _trainer(splits, tmp_path / "whole")
    whole.run()
    cut = _trainer(splits, tmp_path / "cut")

    def ask(step, total, text):
        if step == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        cut.run(ask)
    assert signal.getsignal(number) is before
    again = _trainer(splits, tmp_path / "cut")
    steps = []
    again.run(lambda step, total, text: steps.append(step))
    assert steps == [5, 6]
    assert all(map(torch.equal, whole.model.state_dict().values(), again.model.state_dict().values()))


def test_checkpoints_say_which_versions_made_them(splits, tmp_path):
    trainer = _trainer(splits, tmp_path)
    trainer.run()
    with safe_open(str(trainer.checkpoint), framework="pt") as file:
        found = json.loads(file.metadata()["robustdeq"])["environment"]
    assert found["packages"]["torch"] == torch.__version__ and found["processes"] == 1 and "commit" in found


def test_tied_weights_can_be_saved_and_resumed(splits, tmp_path):
    def tied():
        model = own(10, side=8)
        model.add_module("second_name", model.readout)
        return model

    first = _trainer(splits, tmp_path, model=tied())
    first.run()
    again = _trainer(splits, tmp_path, model=tied())
    again.run()
    assert all(map(torch.equal, first.model.state_dict().values(), again.model.state_dict().values()))


def test_a_phase_made_of_objects_is_written_down_by_name():
    phase = Phase(epochs=1, attack_steps=1, solver=Picard(0.5), gradient=Phantom(3))
    found = TrainConfig.from_dict(json.loads(json.dumps(replace(CONFIG, phases=(phase,)).to_dict())))
    assert found == replace(CONFIG, phases=(phase,))
    assert found.to_dict()["phases"][0]["solver"] == {"name": "picard", "damping": 0.5}


def test_overfitting_that_creeps_is_told():
    from robustdeq.training.words import warnings

    falls = [(0.50, 0.40), (0.47, 0.45), (0.46, 0.50), (0.44, 0.55)]
    history = [{"accuracy_adv": rises, "validation": {"robust": robust}} for robust, rises in falls]
    assert warnings(history[:3]) == []
    assert "catastrophic overfitting" in warnings(history)[0]


def test_the_averaged_weights_are_watched_like_the_last():
    """The average may be what is kept: it has a gap of its own, also where the last weights have none any more."""
    from robustdeq.training.words import warnings

    gone = {"unrolled": 0.09, "phantom": 0.11, "robust": 0.09}
    apart = {"unrolled": 0.07, "phantom": 0.27, "robust": 0.07}
    row = {"accuracy_adv": 0.5, "validation": gone}
    assert warnings([row]) == []
    assert "7.0% under the unrolled and 27.0% under the phantom" in warnings([row | {"validation_ema": apart}])[0]
    before = {"accuracy_adv": 0.4, "validation": gone, "validation_ema": {**gone, "robust": 0.27}}
    masked, overfits = warnings([before, row | {"validation_ema": apart}])
    assert "of the averaged weights" in masked and "of the averaged weights rises" in overfits


def _update(config, model):
    images = rd.data.digits().train
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    update = TrainStep(model, optimizer, config, 100)
    return update(images.images(slice(32)), images.labels[:32], 0, 0)


def test_weight_perturbation_reaches_every_weight_in_half_precision():
    """Autocast keeps casts of the weights; they must not outlive the weights they were made of."""
    losses = {
        (precision, awp): _update(replace(CONFIG, awp=awp, precision=precision), nano(steps=3)).loss
        for precision in ("float32", "bfloat16")
        for awp in (0.0, 0.2)
    }
    rise = {precision: losses[precision, 0.2] - losses[precision, 0.0] for precision in ("float32", "bfloat16")}
    assert rise["float32"] > 0.1
    assert rise["bfloat16"] == pytest.approx(rise["float32"], rel=0.25)


def test_weight_perturbation_leaves_frozen_weights_alone():
    """Those of a model that is fine-tuned in part, which have no gradient."""
    model = nano(steps=3)
    model.inject.requires_grad_(False)
    frozen = [value.clone() for value in model.inject.parameters()]
    assert _update(replace(CONFIG, awp=0.2), model).loss > _update(CONFIG, nano(steps=3)).loss
    assert all(map(torch.equal, frozen, model.inject.parameters()))


def test_regularisers_show_batchnorm_the_batch_once():
    plain, regularised = (nano(steps=3) for _ in range(2))
    _update(CONFIG, plain)
    _update(replace(CONFIG, awp=1e-9, jacobian=JacobianPenalty(weight=1e-9, share=1.0, low=3, high=3)), regularised)
    for one, two in zip(plain.modules(), regularised.modules()):
        if isinstance(one, nn.BatchNorm2d):
            assert one.num_batches_tracked == two.num_batches_tracked == 1
            torch.testing.assert_close(one.running_mean, two.running_mean, rtol=1e-4, atol=1e-6)


def test_a_step_with_the_jacobian_penalty_has_an_n_of_its_own_and_the_solver_of_its_phase():
    model = nano(steps=3)
    steps = []
    model.register_forward_pre_hook(
        lambda module, given, options: steps.append((module.training, options["steps"])), with_kwargs=True
    )
    phase = Phase(epochs=1, attack_steps=1, solver={"name": "picard", "damping": 1.0}, solver_steps=2)
    config = replace(CONFIG, phases=(phase,), jacobian=JacobianPenalty(weight=1.0, share=1.0, low=6, high=6))
    _update(config, model)
    assert steps == [(False, 2), (True, 6)]
