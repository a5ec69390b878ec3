"""Trains small models, by one process or by several, for test_processes.py. Not a test itself."""

from dataclasses import replace
from pathlib import Path

import torch
from small_models import own

import robustdeq as rd
from robustdeq.distributed import Distributed, launched
from robustdeq.training import Phase, TrainConfig, Trainer

BASE = TrainConfig(
    eps=0.15, batch_size=32, learning_rate=5e-3, pad=1, validation_points=20, validation_steps=2,
    phases=(Phase(epochs=1, attack_steps=3, step_size=0.05),),
)  # fmt: skip
CONFIGS = {
    "pgd-at": BASE,
    "trades": replace(BASE, objective="trades", states={"name": "random", "per": "sample"}, awp=0.01, ema=0.9),
    "random": replace(BASE, states={"name": "random", "low": 2, "high": 7}, gradient="phantom"),
    "accumulated": replace(BASE, accumulate=2, start_noise=0.5, consistency=1.0),
    "reduced": replace(
        BASE,
        entropy_reduction={"eps": 0.1, "step_size": 0.05, "updates": 2, "every": 2},
        attack_entropy_reduction={"eps": 0.1, "step_size": 0.1, "updates": 1},
    ),
    "several": replace(BASE, states={"name": "several", "weights": [1, 0, 2]}, objective="mart", accumulate=2),
}


def train(name: str, out: Path, distributed: Distributed) -> None:
    """Five updates of a model without BatchNorm."""
    splits = rd.data.digits()
    images, held = splits.train.take(slice(160)), splits.validation
    model = own(10, side=8)
    Trainer(model, images, CONFIGS[name], out / name / "run", held, distributed=distributed).run()
    if distributed.main:
        rd.save_model(model, out / name / "model")


def train_all(out: Path) -> None:
    torch.set_num_threads(1)
    with launched() as distributed:
        for name in CONFIGS:
            train(name, out, distributed)
