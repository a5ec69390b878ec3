"""Entropy reduction in training: the update, and its attack where asked for, see the image as the defence leaves it."""

import json
from dataclasses import replace

import pytest
import torch
from small_models import images, nano, own

import robustdeq as rd
from robustdeq.distributed import SINGLE
from robustdeq.recipes import recipe
from robustdeq.training import Phase, TrainConfig, Trainer
from robustdeq.training.piece import Piece
from robustdeq.training.step import TrainStep

BATCH, STEPS, EPS = 6, 5, 0.15
DEFENCE = rd.EntropyReduction(eps=0.1, step_size=0.04, updates=3, every=2)
CONFIG = TrainConfig(
    phases=(Phase(epochs=1, attack_steps=2, step_size=0.1),), batch_size=BATCH, eps=EPS, objective="trades"
)
X, Y = images(BATCH, shape=(1, 8, 8)), torch.arange(BATCH)


def update(model, config):
    """The images of every forward of an update, and whether it was made in train mode."""
    seen = []
    model.register_forward_pre_hook(lambda model, args: seen.append((args[0].detach().clone(), model.training)))
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    TrainStep(model, optimizer, config, 10)(X, Y, 0, 0)
    return [x for x, training in seen if not training], [x for x, training in seen if training]


def make():
    return own(10, side=8, steps=STEPS)


def left(x):
    return DEFENCE(make()).trajectory(x).inputs[-1]


def test_the_update_sees_what_the_defence_leaves_and_the_attack_the_image_itself():
    plain_attack, (clean, x_adv) = update(make(), CONFIG)
    attack, (reduced, reduced_adv) = update(make(), replace(CONFIG, entropy_reduction=DEFENCE))
    assert torch.equal(clean, X) and all(map(torch.equal, attack, plain_attack))
    assert torch.equal(reduced, left(X)) and torch.equal(reduced_adv, left(x_adv))
    assert 0 < float((reduced_adv - x_adv).abs().max()) <= DEFENCE.eps + 1e-6


def test_an_attack_that_sees_it_too_takes_the_gradient_where_the_image_was_left():
    """x' - x is a constant."""
    config = replace(CONFIG, attack_entropy_reduction=DEFENCE)
    attack, (_, x_adv) = update(make(), config)

    class Reduced(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = make()

        def forward(self, x):
            return self.model(x + (left(x.detach()) - x).detach())

    none = {True: None, False: None}
    plain = Piece(CONFIG, Reduced(), None, none, SINGLE, X, Y, 0, 0, 0).attacked().images
    assert len(attack) == 1 + 2 and torch.equal(attack[0], left(X))
    torch.testing.assert_close(x_adv, plain)


def test_with_perturbed_weights_and_penalties_the_images_are_reduced_once():
    model = make()
    config = replace(CONFIG, entropy_reduction=DEFENCE, awp=0.01, consistency=1.0, jacobian={"weight": 1, "share": 1})
    update(model, config)
    looks = len(range(DEFENCE.every, STEPS, DEFENCE.every))
    assert model.tally.updates == 2 * BATCH * looks * DEFENCE.updates  # of the images and of the attacked ones


def test_it_leaves_no_trace_in_modes_statistics_and_gradients():
    plain, reduced = nano(steps=3).train(), nano(steps=3).train()
    shut = rd.EntropyReduction(updates=0, every=1)  # it runs, and leaves every image as it is
    for model, defence in ((plain, None), (reduced, shut)):
        update(model, replace(CONFIG, entropy_reduction=defence, attack_entropy_reduction=defence))
    assert all(map(torch.equal, plain.state_dict().values(), reduced.state_dict().values()))
    assert all(inner.training for inner in reduced.modules())


def test_it_is_an_option_of_the_command_line_that_is_written_down_and_read_back():
    options = {"entropy_reduction": {"updates": 3, "eps": "8/255"}, "attack_entropy_reduction": {}}
    chosen = recipe("smoke").changed(options)
    assert chosen.training.entropy_reduction == rd.EntropyReduction(updates=3)
    assert chosen.training.attack_entropy_reduction == rd.EntropyReduction()
    written = json.loads(json.dumps(chosen.training.to_dict()))
    assert TrainConfig.from_dict(written) == chosen.training
    assert chosen.changed({"entropy_reduction": None}).training.entropy_reduction is None
    with pytest.raises(ValueError, match="did you mean 'updates'"):
        recipe("smoke").changed({"entropy_reduction": {"update": 3}})


def test_a_run_with_another_one_is_refused(tmp_path):
    train, phases = rd.data.digits().train.take(slice(BATCH)), (Phase(epochs=1, attack_steps=0),)
    config = replace(CONFIG, phases=phases, entropy_reduction=DEFENCE)
    Trainer(make(), train, config, tmp_path).run()
    other = replace(config, entropy_reduction=replace(DEFENCE, updates=4))
    with pytest.raises(ValueError, match=r"of a run with another training\.entropy_reduction\.updates"):
        Trainer(make(), train, other, tmp_path).run()


def test_what_cannot_be_had_is_refused(tmp_path):
    train = rd.data.digits().train.take(slice(32))
    resnet = rd.create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1, seed=0)
    for name in ("entropy_reduction", "attack_entropy_reduction"):
        with pytest.raises(ValueError, match=rf"^{name}=.* PreActResNet, which has no states; allowed: None"):
            Trainer(resnet, train, replace(CONFIG, **{name: DEFENCE}), tmp_path)
        with pytest.raises(ValueError, match=r"EntropyReduction: every=9; allowed: 1\.\.5"):
            Trainer(make(), train, replace(CONFIG, **{name: replace(DEFENCE, every=9)}), tmp_path)
    joint = (Phase(epochs=1, attack="joint", attack_steps=2),)
    with pytest.raises(ValueError, match=r"attack_entropy_reduction with attack='joint'.*; allowed: None"):
        replace(CONFIG, phases=joint, attack_entropy_reduction=DEFENCE)
    replace(CONFIG, phases=joint, entropy_reduction=DEFENCE)
