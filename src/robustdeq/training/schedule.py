"""What changes over a run: the attack and the number of solver steps by phases, the learning rate by step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..dynamics.solver import check_count, check_number


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs with one attack.

    attack_steps: 0 trains on clean images, 1 is FGSM with a random start. step_size: in pixel units of [0, 1].
    solver_steps: N in this phase; None takes the model's.
    """

    epochs: int
    attack_steps: int
    step_size: float = 2 / 255
    solver_steps: int | None = None

    def __post_init__(self) -> None:
        check_count("Phase", "epochs", self.epochs)
        check_count("Phase", "attack_steps", self.attack_steps, 0)
        check_number("Phase", "step_size", self.step_size, 0)
        if self.solver_steps is not None:
            check_count("Phase", "solver_steps", self.solver_steps)


def one_cycle(step: int, total: int, peak: float, warmup: float = 0.3) -> float:
    """Learning rate at ``step`` in 0..total-1: linear to ``peak`` over a share ``warmup``, then a cosine to 0."""
    done = (step + 1) / total
    if done <= warmup:
        return peak * done / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
