"""Options are checked by name and kind, everywhere; a choice is a name, its options, or an object of one's own."""

import dataclasses
import inspect
import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import pytest

import robustdeq as rd
from robustdeq.attacks import PGD, THREATS, AutoAttack, EndToEnd, IntermediateState
from robustdeq.defences import EarlyState, SmoothSign
from robustdeq.dynamics import SOLVERS
from robustdeq.evaluation import Entry
from robustdeq.files import read_json
from robustdeq.gradients import GRADIENTS
from robustdeq.options import Registry, checked, describe, parsed
from robustdeq.training import OBJECTIVES, SCHEDULES, STATE_SAMPLERS, JacobianPenalty, Phase, TrainConfig
from robustdeq.training.optim import OPTIMIZERS, Optimizer

REGISTRIES = [SOLVERS, GRADIENTS, THREATS, OBJECTIVES, SCHEDULES, STATE_SAMPLERS]
PUBLIC = [
    *(cls for registry in REGISTRIES for cls in registry.values()), rd.EntropyReduction, rd.DEQClassifier, PGD,
    AutoAttack, Entry, SmoothSign, EndToEnd, IntermediateState, EarlyState, JacobianPenalty, Phase, TrainConfig,
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
    with pytest.raises(ValueError, match="missing a required argument: 'x'; allowed: x, y"):
        Point()


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_choice_is_written_down_and_read_back(registry):
    for name, cls in registry.items():
        needed = {"eps": 0.5} if registry is THREATS else {}
        made = registry.resolve({"name": name, **needed})
        assert type(made) is cls and isinstance(made, registry.base)
        assert registry.resolve(made) is made
        assert registry.resolve(json.loads(json.dumps(describe(made), allow_nan=False))) == made


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
@pytest.mark.parametrize("wrong", [None, 3, "", {}, object(), int, [1]], ids=lambda wrong: type(wrong).__name__)
def test_anything_else_is_refused_with_the_choices(registry, wrong):
    with pytest.raises(ValueError, match=rf"unknown {registry.kind} .*allowed: {', '.join(registry)}, or a "):
        registry.resolve(wrong)


class Shape:
    pass


SHAPES: Registry[Shape] = Registry("shape", Shape)


@SHAPES.register
@dataclasses.dataclass(frozen=True)
class Round(Shape):
    name: ClassVar[str] = "round"
    radius: float = 1.0


class Mine(Shape):
    """No dataclass, not registered."""

    def __init__(self, size):
        self.size = size


@checked
@dataclasses.dataclass(frozen=True)
class Holder:
    shape: Annotated[Any, SHAPES] = "round"
    other: Annotated[Any, SHAPES] | None = None
    several: Sequence[Annotated[Any, SHAPES]] = ()
    wanted: bool = False


def test_a_field_holds_the_object_that_its_name_stands_for():
    assert Holder().shape == Round() and Holder().other is None
    assert Holder({"name": "round", "radius": 2}).shape == Round(2)
    assert Holder(several=["round", Round(3)]).several == (Round(), Round(3))
    with pytest.raises(ValueError, match="did you mean 'round'"):
        Holder(other="rund")
    with pytest.raises(ValueError, match="did you mean 'radius'"):
        dataclasses.replace(Holder(), shape={"name": "round", "radus": 2})


def test_an_object_of_ones_own_is_held_and_written_down_by_its_class():
    mine = Mine(3)
    assert Holder(mine).shape is mine
    written = describe(Holder(mine))["shape"]
    assert written == {"class": f"{__name__}.Mine", "size": 3}
    with pytest.raises(ValueError, match=r"Mine is a class outside of this package.* allowed: the Shape itself"):
        Holder(written)


@pytest.mark.parametrize("value", ["no", 0, 1, None, "true"])
def test_a_switch_is_true_or_false(value):
    for make in (
        lambda: Holder(wanted=value),
        lambda: TrainConfig(phases=[Phase(epochs=1, attack_steps=0)], flip=value),
        lambda: Optimizer.resolve({"name": "sgd", "nesterov": value}),
    ):
        with pytest.raises(ValueError, match=r"(wanted|flip|nesterov)=.*; allowed: true or false"):
            make()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_the_options_of_torchs_own(name):
    made = Optimizer.resolve(name)
    assert Optimizer.resolve(made) is made
    assert Optimizer.resolve(json.loads(json.dumps(made.to_dict()))) == made
    option = "ns_steps" if name == "muon" else "foreach"
    with pytest.raises(ValueError, match=rf"unknown option '{option}x' .did you mean '{option}'"):
        Optimizer.resolve({"name": name, f"{option}x": True})
    with pytest.raises(ValueError, match="unknown option 'lr'"):
        Optimizer.resolve({"name": name, "lr": 1.0})


@pytest.mark.parametrize("options", [{"betas": [0.9]}, {"betas": [0.9, 5.0]}, {"betas": 3}, {"eps": -1.0}])
def test_an_option_that_torch_stumbles_over_is_one_line(options):
    with pytest.raises(ValueError, match=r"^optimizer .*\.$"):
        Optimizer.resolve({"name": "adamw", **options})


def test_a_registry_takes_named_dataclasses_of_its_base_and_no_name_twice():
    table = Registry("solver", rd.dynamics.Solver)

    @dataclasses.dataclass(frozen=True)
    class Mine(rd.Picard):
        name = "mine"

    assert table.register(Mine) is Mine and isinstance(table.resolve("mine"), Mine)
    with pytest.raises(ValueError, match="solver 'mine' is Mine already; allowed: another name"):
        table.register(Mine)
    for wrong in (int, type("NoDataclass", (rd.dynamics.Solver,), {"name": "plain"})):
        with pytest.raises(ValueError, match="cannot be registered; allowed: a dataclass on Solver with a name"):
            table.register(wrong)


@pytest.mark.parametrize("registry", [SOLVERS, GRADIENTS, OBJECTIVES], ids=lambda registry: registry.kind)
def test_what_stands_for_a_choice_without_its_name_is_told_so(registry):
    with pytest.raises(
        ValueError, match=rf"^unknown {registry.kind} \{{'gain': 1\}} without a 'name'; allowed: .*, or a "
    ):
        registry.resolve({"gain": 1})
    cls = next(iter(registry.values()))
    with pytest.raises(ValueError, match=rf", a class; allowed: {cls.__name__}\(...\), an object"):
        registry.resolve(cls)


def test_a_name_that_stands_twice_in_json_is_refused(tmp_path):
    """JSON itself takes the last one, without a word."""
    twice = '{"weight": 1, "share": {"weight": 1}, "weight": 2}'
    with pytest.raises(ValueError, match=r"is no JSON \('weight' is there twice\)"):
        parsed(twice)
    (tmp_path / "config.json").write_text(twice)
    with pytest.raises(ValueError, match=r"config.json cannot be read \('weight' is there twice\); mend it"):
        read_json(tmp_path / "config.json", "mend it")
    assert parsed('{"weight": {"weight": 2}}') == {"weight": {"weight": 2}}
