"""z^[0] drawn at random in training: what it is, who begins there, and that nothing else changes."""

from dataclasses import replace

import pytest
import torch
from small_models import images, own

import robustdeq as rd
from robustdeq.attacks.starts import numbered
from robustdeq.distributed import SINGLE
from robustdeq.seeds import mix
from robustdeq.training import Phase, TrainConfig, Trainer
from robustdeq.training.piece import START, Piece
from robustdeq.training.step import TrainStep

BATCH = 8
CONFIG = TrainConfig(
    phases=(Phase(epochs=1, attack_steps=2),), batch_size=BATCH, eps=0.15, start_noise=0.5, objective="trades", seed=3
)


def starts(config, step=0):
    """z^[0] of every forward of an update; None where it is not said."""
    model, seen = own(10, side=8), []
    model.register_forward_pre_hook(lambda model, args, options: seen.append(options.get("start")), with_kwargs=True)
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    TrainStep(model, optimizer, config, 10)(images(BATCH, shape=(1, 8, 8)), torch.arange(BATCH), step, 0)
    return seen


def test_attack_and_update_begin_at_the_same_numbers_of_the_sample():
    seen = starts(CONFIG, step=4)
    wanted = 0.5 * numbered(torch.zeros(BATCH, 12), mix(3, START, 4), 0, torch.arange(BATCH), torch.randn)
    assert len(seen) == 5 and all(torch.equal(start, wanted) for start in seen)
    assert not torch.equal(starts(CONFIG, step=5)[0], wanted)


def test_the_numbers_do_not_depend_on_how_the_batch_is_divided():
    whole, pieces = starts(CONFIG)[0], starts(replace(CONFIG, accumulate=2))
    assert torch.equal(torch.cat([pieces[0], pieces[5]]), whole)


def test_they_are_normal_of_the_standard_deviation():
    class Wide(torch.nn.Module):  # what a piece asks of a DEQ for its start
        def zeros(self, x):
            return torch.zeros(len(x), 1000)

    none, x = {True: None, False: None}, torch.zeros(100, 1, 8, 8)
    piece = Piece(CONFIG, own(), Wide(), none, SINGLE, x, torch.zeros(100, dtype=torch.int64), 0, 0, 0)
    drawn = piece.start["start"]
    assert abs(float(drawn.mean())) < 0.01 and float(drawn.std()) == pytest.approx(0.5, rel=0.02)


def test_without_it_nobody_says_where_to_begin():
    assert starts(replace(CONFIG, start_noise=0.0)) == [None] * 5


def test_a_warm_update_begins_at_the_state_of_its_attack():
    phase = Phase(epochs=1, attack={"name": "joint", "warm": 2}, attack_steps=1)
    natural, _, warm = starts(replace(CONFIG, phases=(phase,)))
    assert warm.shape == natural.shape and not torch.equal(warm, natural)


def test_a_network_without_states_is_refused(tmp_path):
    resnet = rd.create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1, seed=0)
    with pytest.raises(ValueError, match=r"start_noise=0\.5 with a PreActResNet, which has no states; allowed: 0"):
        Trainer(resnet, rd.data.digits().train.take(slice(32)), CONFIG, tmp_path)
