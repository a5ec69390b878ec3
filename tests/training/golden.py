"""Losses of five updates on digits in float64; run as a script it writes golden.json anew."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from small_models import nano

import robustdeq as rd
from robustdeq.training import Phase, TrainConfig
from robustdeq.training.step import TrainStep

FILE = Path(__file__).with_name("golden.json")
EPS = 0.15
UPDATES = 5
ATTACKS = {"clean": ("pgd-at", 0), "fgsm": ("pgd-at", 1), "pgd-at": ("pgd-at", 3), "trades": ("trades", 3)}
STATES = {"final": "final", "random": "random", "random per sample": {"name": "random", "per": "sample"}}


def losses(attack: str, states: str) -> list[float]:
    objective, attack_steps = ATTACKS[attack]
    phase = Phase(epochs=1, attack_steps=attack_steps, step_size=EPS / max(attack_steps, 1))
    config = TrainConfig(phases=(phase,), eps=EPS, batch_size=16, learning_rate=5e-3, objective=objective)
    config = replace(config, states=STATES[states], schedule="cosine")
    model = nano(dtype=torch.float64, steps=4)
    optimizer = config.optimizer(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    update = TrainStep(model, optimizer, config, UPDATES)
    train = rd.data.digits().train
    rows = [slice(16 * step, 16 * (step + 1)) for step in range(UPDATES)]
    return [update(train.images(r).double(), train.labels[r], step, 0).loss for step, r in enumerate(rows)]


if __name__ == "__main__":
    found = {attack: {states: losses(attack, states) for states in STATES} for attack in ATTACKS}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
