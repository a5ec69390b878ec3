"""Optimizers of one's own: groups keep their rates, what is counted goes on, what cannot be kept is said at once."""

import pytest
import torch
from torch import nn

import robustdeq as rd
from robustdeq.training import Phase, TrainConfig, Trainer


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def config(optimizer, **options):
    phases = (Phase(epochs=2, attack_steps=0, step_size=0.0),)
    chosen = {"learning_rate": 0.1, "batch_size": 64, **options}
    return TrainConfig(phases=phases, threat=rd.Linf(0.1), optimizer=optimizer, **chosen)


@pytest.fixture(scope="module")
def images():
    return rd.data.digits().train.take(slice(256))


def resting(params, lr, weight_decay):
    params = list(params)
    groups = [{"params": params[:2], "lr": 0.0}, {"params": params[2:]}]
    return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay)


def test_a_group_with_a_rate_of_its_own_keeps_its_share_of_the_schedule(images, tmp_path):
    before, after = net(), Trainer(net(), images, config(resting), tmp_path).run()
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters())]
    assert moved == [False, False, True, True]


class Counting(torch.optim.SGD):
    """Its steps shrink by what it counts in its group."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            for weight in group["params"]:
                weight.grad.div_(group["k"])
        return super().step(closure)


def counting(params, lr, weight_decay):
    return Counting(params, lr=lr, weight_decay=weight_decay)


def test_what_an_optimizer_counts_in_its_groups_goes_on_after_a_stop(images, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total, text):
        if done == 5:
            raise Stop

    whole = Trainer(net(), images, config(counting), tmp_path / "whole").run()
    begun = Trainer(net(), images, config(counting, checkpoint_seconds=0), tmp_path / "cut")
    with pytest.raises(Stop):
        begun.run(stop)
    again = Trainer(net(), images, config(counting, checkpoint_seconds=0), tmp_path / "cut")
    resumed = again.run()
    assert again.optimizer.param_groups[0]["k"] == 8
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))


class Remembering(torch.optim.SGD):
    def step(self, closure=None):
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["history"] = [weight.detach().clone()]
        return super().step(closure)


def remembering(params, lr, weight_decay):
    return Remembering(params, lr=lr, weight_decay=weight_decay)


def test_a_state_that_no_checkpoint_can_hold_is_one_line_after_the_first_step(images, tmp_path):
    trainer = Trainer(net(), images, config(remembering), tmp_path)
    with pytest.raises(ValueError, match=r"optimizer\.0\.history is a list; allowed: tensors and numbers"):
        trainer.run()
    assert trainer.step == 1
