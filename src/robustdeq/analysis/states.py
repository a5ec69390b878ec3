"""Clean and robust accuracy of every state z^[t], as the figure shows them."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation import Readouts


@dataclass(frozen=True)
class StateAccuracy:
    """Correct predictions at z^[t], t = 1..T, of ``points`` images.

    clean: on the images. robust: on images attacked at that very state through its exact gradient. transferred: on
    images attacked at z^[N], the state that the model deploys.
    """

    points: int
    clean: list[int]
    robust: list[int]
    transferred: list[int]


def state_accuracy(found: Readouts) -> StateAccuracy:
    """The curves of what ``evaluation.readouts`` found."""
    clean, robust, transferred = (
        [shares[name].count for shares in found.states] for name in ("clean", "own", "transfer")
    )
    return StateAccuracy(found.states[0]["clean"].total, clean, robust, transferred)
