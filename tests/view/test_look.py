"""A look is what the attacks and the analysis give, watched or not; a stopped one leaves nothing behind."""

import dataclasses

import pytest
import torch
from small_models import images_for, own

from robustdeq.analysis import states_along
from robustdeq.attacks import APGD, PGD, EndToEnd, Frozen, JointOptimisation, Linf, ThroughGradient
from robustdeq.defences import EntropyReduction
from robustdeq.testing import left_untouched
from robustdeq.view import Settings, Stopped, Watch, look
from robustdeq.view.look import ATTACKS

EPS = 0.2
DEFENCE = EntropyReduction(EPS, EPS / 4)
PLAIN = {
    "PGD": (Settings(eps=EPS, steps=5), lambda m: (PGD(Linf(EPS), EPS / 4, 5), ThroughGradient(m, "unrolled"))),
    "phantom": (
        Settings(eps=EPS, steps=5, gradient="phantom"),
        lambda m: (PGD(Linf(EPS), EPS / 4, 5), ThroughGradient(m, "phantom")),
    ),
    "whole": (
        Settings(eps=EPS, steps=5, whole=True),
        lambda m: (PGD(Linf(EPS), EPS / 4, 5, keep="highest"), ThroughGradient(m, "unrolled")),
    ),
    "seed": (
        Settings(eps=EPS, steps=5, seed=3),
        lambda m: (PGD(Linf(EPS), EPS / 4, 5, seed=3), ThroughGradient(m, "unrolled")),
    ),
    "APGD": (
        Settings(attack="APGD", eps=EPS, steps=5),
        lambda m: (APGD(Linf(EPS), 5), ThroughGradient(m, "unrolled")),
    ),
    "joint": (Settings(attack="joint", eps=EPS, steps=5), lambda m: (JointOptimisation(Linf(EPS), iterations=5), m)),
    "static": (
        Settings(eps=EPS, steps=9, defended=True, sees="static"),
        lambda m: (PGD(Linf(EPS), EPS / 4, 9, keep="highest"), ThroughGradient(m, "unrolled")),
    ),
    "frozen": (Settings(eps=EPS, steps=3, defended=True), lambda m: (PGD(Linf(EPS), EPS / 4, 3), Frozen(DEFENCE(m)))),
    "end-to-end": (
        Settings(eps=EPS, steps=2, defended=True, sees="end-to-end"),
        lambda m: (PGD(Linf(EPS), EPS / 4, 2), EndToEnd(DEFENCE(m))),
    ),
}
"""Settings, and the attack with the module that it looks at, as a user would write them."""


@pytest.mark.parametrize("name", PLAIN)
def test_the_attacked_image_is_that_of_the_attack_itself(name, sharp, image):
    x, label = image
    settings, plain = PLAIN[name]
    attack, seen = plain(sharp)
    told = []
    with left_untouched(sharp):
        found = look(sharp, x, label, settings, Watch(lambda done, total: told.append((done, total))))
    assert torch.equal(found.adversarial, attack(seen, x, torch.tensor([label]))[0])
    assert told == [(done, told[0][1]) for done in range(found.passes)] and found.passes >= 1
    assert Linf(EPS).contains(x, found.adversarial[None]).all()


@pytest.mark.parametrize("sees, keep", [("static", "highest"), ("frozen", "worst"), ("end-to-end", "worst")])
def test_an_image_that_is_to_hold_behind_a_defence_is_the_worst_of_all_steps(sees, keep):
    """The first one past the bare model's boundary made a defence look better than it is."""
    settings = Settings(defended=True, sees=sees)
    assert ATTACKS["PGD"](settings).keep == keep
    assert ATTACKS["PGD"](dataclasses.replace(settings, defended=False)).keep == "worst"


@pytest.mark.parametrize("name", PLAIN)
def test_an_attack_that_breaks_nothing_takes_all_the_passes_that_were_announced(name, image, sharp):
    x, label = image
    told = []
    settings = dataclasses.replace(PLAIN[name][0], eps=1e-7)
    found = look(sharp, x, label, settings, Watch(lambda done, total: told.append(total)))
    assert set(told) == {found.passes}


@pytest.mark.parametrize("name", PLAIN)
def test_a_stop_ends_the_attack_at_the_next_injection_and_leaves_the_model_as_it_was(name, image, sharp):
    x, label = image
    for allowed in (0, 1, 4):
        asked = []

        def stopped(allowed=allowed, asked=asked):
            asked.append(None)
            return len(asked) > allowed

        with left_untouched(sharp), pytest.raises(Stopped):
            look(sharp, x, label, dataclasses.replace(PLAIN[name][0], eps=1e-7), Watch(stopped=stopped))
        assert len(asked) == allowed + 1
        assert not any(module._forward_pre_hooks for module in sharp.modules())


@pytest.mark.parametrize("name", ["PGD", "static", "frozen"])
def test_the_courses_are_those_of_the_analysis_and_the_last_is_the_deployed_one(name, sharp, image):
    x, label = image
    settings = PLAIN[name][0]
    found = look(sharp, x, label, settings)
    deployed = DEFENCE(sharp) if settings.defended else sharp
    names = ["clean", "attacked"] + ["clean, defended", "attacked, defended"] * settings.defended
    assert [course.name for course in found.courses] == names and found.deployed.name == names[-1]
    x_adv = found.adversarial[None]
    assert torch.equal(found.courses[1].states.probabilities, states_along(sharp, x_adv).probabilities)
    assert int(found.deployed.states.prediction[-1, 0]) == int(deployed(x_adv).argmax(1))
    assert found.courses[0].deviation is None
    for course in found.courses[1:]:
        bound = course.deviation.perturbation + course.deviation.accumulation
        assert (course.deviation.total <= bound * (1 + 1e-5)).all()


def test_without_an_attack_there_is_the_clean_image_alone(sharp, image):
    x, label = image
    found = look(sharp, x, label, Settings(attack="none", defended=True, eps=EPS))
    assert found.adversarial is None and (found.passes, found.units, found.updates) == (0, 0, 0)
    assert [course.name for course in found.courses] == ["clean", "clean, defended"]
    assert Linf(EPS).contains(x, found.regulated[None]).all() and not torch.equal(found.regulated, x[0])


def test_an_image_without_a_label_has_the_deployed_prediction(sharp):
    for x in images_for(sharp, 6).split(1):
        for defended in (False, True):
            found = look(sharp, x, None, Settings(attack="none", eps=EPS, defended=defended))
            assert found.label == int(found.deployed.states.prediction[-1, 0])


def test_what_is_not_one_image_with_a_label_is_one_line(sharp, image):
    x, _ = image
    wrong = ((x, 4, r"allowed: 0\.\.3"), (x.repeat(2, 1, 1, 1), 0, "2 images"), (x[:, :, :2], 0, "shape"))
    for images, label, words in wrong:
        for attack in ("none", "PGD"):
            with pytest.raises(ValueError, match=words):
                look(sharp, images, label, Settings(attack=attack))


def test_a_model_of_one_step_is_defended_by_nothing():
    model = own(4, steps=1)
    found = look(model, images_for(model, 1), 0, Settings(defended=True, sees="static", steps=2))
    assert found.updates == 0 and torch.equal(found.regulated, found.adversarial)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attack": "APDG"}, "did you mean 'APGD'"), ({"eps": 0}, "allowed: a number in"), ({"eps": "x"}, "8/255"),
        ({"steps": 0}, "steps=0; allowed: 1..1000"), ({"steps": 2.5}, "steps=2.5"), ({"seed": -1}, "seed=-1"),
        ({"seed": None}, "seed=None"), ({"gradient": "fantom"}, "did you mean 'phantom'"),
        ({"defended": True, "attack": "joint"}, "allowed: static"), ({"sees": "all"}, "unknown knowledge"),
        ({"defended": True, "gradient": "phantom"}, "allowed: unrolled"),
        ({"attack": "APGD", "whole": True}, "allowed: of PGD"), ({"whole": 1}, "allowed: true or false"),
        ({"attack": "joint", "gradient": "phantom"}, "allowed: unrolled"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Settings(**options)
    assert len(str(error.value).splitlines()) == 1
