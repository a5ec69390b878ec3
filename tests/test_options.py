"""Options are checked by name, everywhere."""

import dataclasses
import inspect

import pytest

import robustdeq as rd
from robustdeq.attacks import PGD, AutoAttack, EndToEnd, IntermediateState
from robustdeq.evaluation import Entry
from robustdeq.options import checked
from robustdeq.regulation import SmoothSign
from robustdeq.training import JacobianPenalty, Phase, TrainConfig
from robustdeq.training.objectives import OBJECTIVES
from robustdeq.training.optimizers import OPTIMIZERS
from robustdeq.training.schedule import SCHEDULES

PUBLIC = [
    *rd.dynamics.SOLVERS.values(), *rd.gradients.GRADIENTS.values(), *OBJECTIVES.values(), *SCHEDULES.values(),
    rd.Linf, rd.L2, rd.EntropyReduction, rd.DEQClassifier, PGD, AutoAttack, Entry, SmoothSign, EndToEnd,
    IntermediateState, JacobianPenalty, Phase, TrainConfig, OPTIMIZERS["sgd"],
]  # fmt: skip


@pytest.mark.parametrize("cls", [c for c in PUBLIC if len(inspect.signature(c).parameters)], ids=lambda c: c.__name__)
def test_a_misspelt_option_is_a_value_error_that_names_the_nearest(cls):
    name = list(inspect.signature(cls).parameters)[-1]
    with pytest.raises(ValueError, match=f"{cls.__name__}: unknown option '{name}x' .did you mean '{name}'"):
        cls(**{f"{name}x": 1})


def test_checked_leaves_the_class_as_it_was():
    @checked
    @dataclasses.dataclass(frozen=True)
    class Point:
        """A point."""

        x: int
        y: int = 2

    assert Point(1) == Point(1, 2) == dataclasses.replace(Point(5), x=1)
    assert list(inspect.signature(Point).parameters) == ["x", "y"]
    with pytest.raises(TypeError, match="missing"):
        Point()
