"""Muon on matrices, AdamW on the rest."""

import pytest
import torch
from torch import nn

from robustdeq.training import OPTIMIZERS, Phase, TrainConfig
from robustdeq.training.optim import Muon


def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (8, 1, 1, 1), (6, 5), (6,), ()]
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for weight in made:
        weight.grad = torch.randn(weight.shape, generator=generator)
    return made


def flats(made):
    copies = [
        nn.Parameter(weight.detach().flatten(1).clone() if weight.dim() > 2 else weight.detach().clone())
        for weight in made
    ]
    for copy, weight in zip(copies, made):
        copy.grad = weight.grad.reshape(copy.shape).clone()
    return copies


def test_it_takes_torchs_steps_on_flattened_filters_and_adamws_on_the_rest():
    mine, theirs = weights(), flats(weights())
    optimizer = Muon(mine, lr=0.1, weight_decay=0.01)
    options = {"lr": 0.1, "weight_decay": 0.01}
    matrices, rest = [theirs[0], theirs[2]], [theirs[1], theirs[3], theirs[4]]
    others = [torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options), torch.optim.AdamW(rest, **options)]
    for step in range(3):
        for optimizer_step in (optimizer, *others):
            optimizer_step.step()
        for one, other in zip(mine, theirs):
            assert torch.equal(one.flatten(), other.flatten())
            one.grad, other.grad = one.grad * (step - 1), other.grad * (step - 1)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (8, 4, 1, 1), (8, 1, 3, 3), (1, 4, 1, 1)])
def test_weights_whose_memory_is_laid_out_otherwise_move_the_same(shape):
    plain, last = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    for weight in (plain, last):
        weight.grad = weight.detach() ** 2
    last.data = last.data.to(memory_format=torch.channels_last)
    for weight in (plain, last):
        Muon([weight], lr=0.1).step()
    assert torch.equal(plain, last)
    assert not torch.equal(plain.detach() ** 2, plain.grad)


def test_its_state_is_put_back():
    whole, cut = weights(), weights()
    optimizer = Muon(whole, lr=0.1)
    first = Muon(cut, lr=0.1)
    optimizer.step(), first.step()
    again = Muon(cut, lr=0.1)
    again.load_state_dict(first.state_dict())
    optimizer.step(), again.step()
    assert all(torch.equal(one, other) for one, other in zip(whole, cut))


def test_a_weight_without_a_gradient_stays():
    made = weights()
    made[0].grad = None
    before = made[0].detach().clone()
    Muon(made, lr=0.1).step()
    assert torch.equal(made[0], before)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"ns_steps": 3}, {"beta2": 0.95}])
def test_it_is_chosen_by_name_with_its_options(options):
    make, defaults = OPTIMIZERS["muon"]
    made = weights()
    before = [weight.detach().clone() for weight in made]
    make(made, lr=0.1, weight_decay=0.0, **defaults, **options).step()
    assert all(not torch.equal(one, other) for one, other in zip(made, before))


SENSELESS = [{"ns_steps": 5.5}, {"ns_steps": 0}, {"ns_steps": -3}, {"ns_steps": 100}, {"momentum": -1}]


@pytest.mark.parametrize("options", SENSELESS)
def test_options_that_no_update_takes_are_refused_before_a_run(options):
    with pytest.raises(ValueError, match="optimizer"):
        TrainConfig(phases=(Phase(epochs=1, attack_steps=0),), optimizer={"name": "muon", **options})
