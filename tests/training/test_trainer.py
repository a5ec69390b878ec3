"""Training: the step does what its config says, and a run is a function of its config and seed."""

import dataclasses
import json

import pytest
import torch
from small_models import own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD, Linf
from robustdeq.recipe import clean, trainer_of
from robustdeq.recipes import recipe
from robustdeq.training import PGDAT, TRADES, JacobianPenalty, Phase, TrainConfig, Trainer
from robustdeq.training.optim import OneCycle
from robustdeq.training.piece import Reader

EPS = 0.15
SHORT = TrainConfig(
    eps=EPS, batch_size=64, learning_rate=5e-3, phases=(Phase(epochs=2, attack_steps=2, step_size=EPS / 2),)
)


@pytest.fixture(scope="module")
def images():
    return rd.data.digits().train.take(slice(128))


def _model(**options):
    return rd.create_model("mdeq-nano", seed=0, **{"steps": 3, **options})


def _train(images, folder, config=SHORT, progress=None, **options):
    trainer = Trainer(_model(**options), images, config, folder, images.take(slice(20)))
    return trainer.run(progress), trainer.history


def _state(model):
    return model.state_dict().values()


@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
@pytest.mark.parametrize("states", ["final", "random"])
def test_same_config_same_weights_and_the_loss_falls(images, tmp_path, objective, states):
    config = dataclasses.replace(SHORT, objective=objective, states=states)
    one, history = _train(images, tmp_path / "one", config, dropout=0.2)
    torch.manual_seed(99)  # the run must not look at the global generator
    two, _ = _train(images, tmp_path / "two", config, dropout=0.2)
    assert all(torch.equal(a, b) for a, b in zip(_state(one), _state(two)))
    assert history[-1]["loss"] < history[0]["loss"]


MANY = dataclasses.replace(
    SHORT, states="random", pad=1, ema=0.9, awp=0.01, accumulate=2, validation_points=10, validation_steps=2,
    jacobian=JacobianPenalty(weight=1.0, share=0.5, low=2, high=3), start_noise=0.1, consistency=0.1,
    entropy_reduction={"updates": 1},
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A run that was not interrupted: its folder, weights and history."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *_train(images, folder, MANY, dropout=0.2)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_run_resumed_in_the_middle_of_an_epoch_ends_with_the_same_bits(images, tmp_path, whole, seconds):
    """With a checkpoint after every step, and with one after every epoch only."""
    config = dataclasses.replace(MANY, checkpoint_seconds=seconds)
    folder, model, whole_history = whole

    class Stop(Exception):
        pass

    def stop(done, total, text):
        if done == 3:  # in the middle of the second epoch
            raise Stop

    with pytest.raises(Stop):
        _train(images, tmp_path, config, stop, dropout=0.2)
    resumed, history = _train(images, tmp_path, config, dropout=0.2)
    assert all(torch.equal(a, b) for a, b in zip(_state(model), _state(resumed)))
    assert [row["epoch"] for row in history] == [1, 2]
    assert [row["loss"] for row in history] == [row["loss"] for row in whole_history]
    best = [rd.load_model(run / "best") for run in (folder, tmp_path)]
    assert all(torch.equal(a, b) for a, b in zip(_state(best[0]), _state(best[1])))


def test_another_seed_gives_other_weights(images, tmp_path):
    config = dataclasses.replace(SHORT, phases=(Phase(epochs=1, attack_steps=1),))
    one, _ = _train(images, tmp_path / "one", config)
    two, _ = _train(images, tmp_path / "two", dataclasses.replace(config, seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(_state(one), _state(two)))


class Watch(nn.Module):
    """Notes what every forward of a model was asked for."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, []

    def forward(self, x):
        asks = any(p.requires_grad for p in self.model.parameters())
        self.calls.append((len(x), self.training, asks, torch.is_grad_enabled()))
        return self.model(x)


def _batch(images):
    return images.images(slice(8)), images.labels[:8]


def test_the_attack_is_made_in_eval_mode_for_images_only_and_the_update_in_train_mode(images):
    x, y = _batch(images)
    model = _model()
    attacker, updated = Watch(model), Watch(model)
    attacker.train(), updated.train()
    x_adv = PGDAT().attack(Linf(EPS), 3, EPS / 2, 0)(attacker, x, y)
    PGDAT().losses(updated, x, x_adv, y)
    assert [call[1:3] for call in attacker.calls] == [(False, False)] * 3
    assert updated.calls == [(8, True, True, True)]
    assert all(p.grad is None for p in model.parameters())


def test_trades_computes_the_natural_logits_of_the_attack_once(images):
    x, y = _batch(images)
    attacker, updated = Watch(_model()), Watch(_model())
    x_adv = TRADES().attack(Linf(EPS), 4, EPS / 2, 0)(attacker, x, y)
    TRADES().losses(updated, x, x_adv, y)
    assert [call[3] for call in attacker.calls] == [False, True, True, True, True]
    assert len(updated.calls) == 2


def test_trades_is_ce_plus_six_kl(images):
    x, y = _batch(images)
    model = _model().eval()
    objective = TRADES()
    attack = objective.attack(Linf(EPS), 2, EPS / 2, 0)
    found = objective.losses(model, x, attack(model, x, y), y).total
    p = model(x).softmax(1)
    q = model(attack(model, x, y)).softmax(1)
    expected = -p.gather(1, y[:, None]).log().mean() + 6 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_read_at_the_states_that_were_drawn(images):
    x, _ = _batch(images)
    model = _model(steps=8).eval()
    drawn = iter([3, 5, 2, 7])
    reader = Reader(model, draw=lambda: next(drawn))
    for t in (3, 5, 2, 7):
        assert torch.equal(reader(x), model(x, steps=t))


def test_a_phase_sets_attack_and_solver_steps(images, tmp_path):
    seen = []

    class Spy(type(_model())):
        def forward(self, x, steps=None, gradient=None, solver=None):
            seen.append((self.training, steps, solver))
            return super().forward(x, steps, gradient, solver)

    model = _model(steps=5)
    model.__class__ = Spy
    phases = (Phase(epochs=1, attack_steps=1, solver_steps=2, solver="picard"), Phase(epochs=1, attack_steps=2))
    Trainer(model, images.take(slice(64)), dataclasses.replace(SHORT, phases=phases), tmp_path).run()
    assert seen == [(False, 2, rd.Picard()), (True, 2, rd.Picard()), *[(False, 5, None)] * 2, (True, 5, None)]


def test_a_non_finite_loss_stops_before_the_update(images, tmp_path):
    model = _model()
    with torch.no_grad():
        model.readout.classifier.bias.fill_(float("nan"))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match=r"step 0: .*nothing was updated"):
        Trainer(model, images, SHORT, tmp_path).run()
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, model.parameters()))


def test_training_against_attacks_pays_off(tmp_path):
    """On 600 digits in a few epochs: far more robust than the same model trained without attacks."""
    splits = rd.data.digits()
    x, y = splits.test.images(slice(100)), splits.test.labels[:100]
    robust = {}
    for attack_steps in (0, 1):
        phases = (Phase(epochs=3, attack_steps=attack_steps, step_size=EPS, solver_steps=2),)
        config = dataclasses.replace(SHORT, phases=phases, learning_rate=8e-3)
        model, _ = _train(splits.train.take(slice(600)), tmp_path / str(attack_steps), config)
        x_adv = PGD(Linf(EPS), EPS / 4, 10)(model, x, y)
        robust[attack_steps] = int((model(x_adv).argmax(1) == y).sum())
    assert robust[1] >= robust[0] + 20


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    rates = [2 * OneCycle().share((step + 1) / 100) for step in range(100)]
    assert max(rates) == pytest.approx(2.0) and rates.index(max(rates)) == 29
    assert rates[-1] == pytest.approx(0, abs=1e-12) and rates[:30] == sorted(rates[:30])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"eps": -1.0}, "eps=-1.0"),
        ({"objective": "trade"}, "did you mean 'trades'"),
        ({"objective": {"name": "trades", "wieght": 3}}, "did you mean 'weight'"),
        ({"states": "randm"}, "did you mean 'random'"),
        ({"gradient": "unroled"}, "did you mean 'unrolled'"),
        ({"threat": "linf"}, "did you mean 'Linf'"),
        ({"phases": ()}, r"phases=\(\); allowed: at least one"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ],
)
def test_a_wrong_config_says_what_is_allowed(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORT, **change)


def test_a_batch_larger_than_the_set_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match="batch_size=64 with 10 training images"):
        Trainer(_model(), images.take(slice(10)), SHORT, tmp_path)


def test_points_without_held_out_images_are_refused_and_of_fewer_all_are_taken(images, tmp_path):
    config = dataclasses.replace(SHORT, validation_points=8)
    with pytest.raises(ValueError, match="validation_points=8 without validation images; allowed: 0"):
        Trainer(_model(), images, config, tmp_path, images.take(slice(0)))
    trainer = Trainer(_model(), images, config, tmp_path, images.take(slice(5)))
    assert trainer.held_out is not None and len(trainer.held_out) == 5


def test_any_field_of_a_recipe_can_be_changed_by_name_and_read_back(tmp_path):
    chosen = recipe("cifar10-small").changed(
        {"model": "mdeq-nano", "model_options": {"steps": 3}, "data": "digits", "data_seed": 4, "learning_rate": 0.5}
    )
    (tmp_path / "config.json").write_text(json.dumps(chosen.plan()))
    again = recipe(str(tmp_path / "config.json"))
    assert again.plan() == chosen.plan()
    assert (again.model, again.data_seed, dict(again.model_options)) == ("mdeq-nano", 4, {"steps": 3})
    kept = recipe("cifar10-small").changed({"model_options": {"steps": 3}}).model_options
    assert kept == {**recipe("cifar10-small").model_options, "steps": 3}
    assert again.training.learning_rate == 0.5
    assert not torch.equal(again.load().train.labels, recipe("digits").load().train.labels)
    with pytest.raises(ValueError, match="did you mean 'data_seed'"):
        chosen.changed({"data_sed": 1})


def test_label_smoothing_moves_the_targets_of_both_objectives(images):
    x, y = _batch(images)
    model = _model().eval()
    for plain, smooth in ((PGDAT(), PGDAT(label_smoothing=0.2)), (TRADES(), TRADES(label_smoothing=0.2))):
        uniform = -model(x).log_softmax(1).mean()
        found, expected = (objective.losses(model, x, x, y).total for objective in (smooth, plain))
        torch.testing.assert_close(found, 0.8 * expected + 0.2 * uniform)


def test_of_a_training_without_attacks_the_best_clean_accuracy_is_kept(images, tmp_path):
    """Every epoch may tie at 0% robust, and the first one has learnt nothing; or says one class, which is robust."""
    judged = {"validation_points": 20, "validation_steps": 10}
    phases = (Phase(epochs=4, attack_steps=0),)
    config = dataclasses.replace(SHORT, phases=phases, threat=Linf(1.0), eps=None, **judged)
    _, history = _train(images, tmp_path, config)
    scores = [row["validation"] for row in history]
    assert scores[0]["clean"] < max(score["clean"] for score in scores)
    kept = rd.load_model(tmp_path / "best")
    few = images.take(slice(20))
    right = float((kept(few.images()).argmax(1) == few.labels).float().mean())
    assert right == pytest.approx(max(score["clean"] for score in scores))


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"gradient": "phantom"}, "no solver"),
        ({"attack_gradient": "implicit"}, "no solver"),
        ({"phases": (Phase(epochs=1, attack_steps=1, solver="broyden"),)}, "no solver"),
        ({"phases": (Phase(epochs=1, attack_steps=1, gradient="phantom"),)}, "no solver"),
        ({"phases": (Phase(epochs=1, attack_steps=0, solver_steps=2),)}, "None"),
        ({"phases": (Phase(epochs=1, attack_steps=1, attack={"name": "pgd", "solver_steps": 2}),)}, "None"),
    ],
)
def test_what_a_network_without_states_cannot_do_is_refused(images, tmp_path, change, allowed):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=f"with a Sequential, which has no states; allowed: {allowed}"):
        Trainer(network, images, dataclasses.replace(SHORT, **change), tmp_path)


@pytest.mark.parametrize("changed", ["steps", "solver", "held-out images"])
def test_a_run_of_a_model_put_together_by_hand_goes_on_with_the_same_alone(images, tmp_path, changed):
    config = dataclasses.replace(SHORT, validation_points=5, validation_steps=1)

    def trainer(validation=slice(20), **options):
        model = own(10, side=8, **options)
        return Trainer(model, images, config, tmp_path, images.take(validation))

    trainer().run()
    others = {
        "steps": {"steps": 3}, "solver": {"solver": "broyden"}, "held-out images": {"validation": slice(50, 70)},
    }  # fmt: skip
    with pytest.raises(ValueError, match=changed.replace("-", "_").split()[0]):
        trainer(**others[changed]).run()


def test_a_recipe_s_model_is_made_for_the_images_that_it_is_given(tmp_path):
    """Grey pictures of eight pixels were refused by a recipe for colour ones of 32, and no option said so."""
    chosen = recipe("cifar10-small").changed({"data": "digits"})
    assert trainer_of(chosen, tmp_path, chosen.load()).model.image_shape == (1, 8, 8)


@pytest.mark.parametrize("objective, smoothing", [("trades", 0.1), ("mart", 0.0), ("pgd-at", 0.1)])
def test_without_attacks_nothing_is_compared_with_itself(objective, smoothing):
    options = {"name": objective, **({"label_smoothing": smoothing} if smoothing else {})}
    plain = clean(recipe("smoke").changed({"objective": options}).training)
    assert plain.objective == PGDAT(label_smoothing=smoothing) and not any(phase.attack_steps for phase in plain.phases)
