"""Red flags rise over gradients that were masked on purpose, and over nothing else."""

from dataclasses import asdict

import pytest
import torch
from small_models import own
from torch import nn

import robustdeq as rd
from robustdeq.defences import Defended
from robustdeq.evaluation import Flag, flags
from robustdeq.evaluation.flags import LEVEL
from robustdeq.evaluation.record import AttackRecord, Batch, Checks, CleanBatch, Identity, Record

THREAT = rd.Linf(0.1)


class Masked(nn.Module):
    """A classifier whose input or output is spoiled."""

    def __init__(self, model, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def _detached(model):
    """The state is cut off from the image: the gradient of the readout alone is left."""

    class Cut(nn.Module):
        def forward(self, x):
            return model.readout(model.trajectory(x).z.detach())

    return Cut()


def _fired(model, digits, **options):
    found = rd.evaluate(model, digits, suite=[], threat=THREAT, checks=60, opaque=True, **options)
    return {flag.name for flag in found.flags if flag.fired}, found


def test_a_sound_model_raises_no_flag(sound, digits):
    fired, found = _fired(sound, digits)
    assert fired == set() and len(found.flags) == 10
    assert "Checks on the first 60 samples: 10 passed." in found.table()
    assert found.to_dict()["flags"] == [asdict(flag) for flag in found.flags]
    assert found.robustbench()["unreliable"] is False


@pytest.mark.parametrize(
    "mask, expected",
    [
        (_detached, {"gradients", "huge eps", "black-box"}),
        (lambda model: Masked(model, after=lambda logits: (1e4 * logits).clamp(-1e3, 1e3)), {"gradients"}),
        (lambda model: Masked(model, after=lambda logits: 1e4 * logits), {"gradients"}),
        (lambda model: Masked(model, before=lambda x: (16 * x).round() / 16), {"gradients", "huge eps", "black-box"}),
        (lambda model: Masked(model, after=lambda logits: logits + torch.randn_like(logits)), {"random"}),
    ],
    ids=["detached state", "clamped output", "saturated output", "quantised input", "random output"],
)
def test_a_masked_gradient_raises_its_flag(mask, expected, sound, digits):
    torch.manual_seed(0)
    fired, found = _fired(mask(sound), digits)
    assert expected <= fired
    assert all(f"RED FLAG {name}: " in found.table() for name in expected)
    assert found.robustbench()["unreliable"] is True


class Centred(Masked):
    """Whose logits depend on the other images of a batch, as BatchNorm's in train mode do."""

    def forward(self, x):
        return self.model((x - x.mean(0) + 0.3).clamp(0, 1))


class TwoFaced(Masked):
    """Another function where a gradient is asked for: attacks stop at a boundary that is not the deployed one's."""

    def forward(self, x):
        return self.model(x) + 0.05 * torch.is_grad_enabled() * self.model(1 - x)


def test_an_attack_that_sees_another_model_than_the_one_that_is_judged_is_told(sound, digits):
    assert "batch" in _fired(Centred(sound), digits)[0]
    fired, found = _fired(TwoFaced(sound), digits)
    assert "gradient mode" in fired and "batch" not in fired
    assert "RED FLAG gradient mode: " in found.table() and found.robustbench()["unreliable"] is True
    # Whatever is random differs there as well; one flag says it.
    noisy = _fired(Masked(sound, after=lambda logits: logits + torch.randn_like(logits)), digits)[0]
    assert "random" in noisy and not noisy & {"batch", "gradient mode"}


def test_dynamics_that_do_not_converge_are_told(sound, digits):
    wild = own(10, side=8, steps=3)
    with torch.no_grad():
        wild.cell.mix.weight.mul_(40)
    few = digits.take(slice(5))
    by_name = {
        name: {flag.name: flag for flag in rd.evaluate(model, few, suite=[], threat=THREAT, checks=5).flags}
        for name, model in (("wild", wild), ("sound", sound))
    }
    assert by_name["wild"]["residual"].fired and by_name["wild"]["residual"].value > 0.5
    assert not by_name["sound"]["residual"].fired


def test_the_checks_are_made_once_and_can_be_left_out(sound, digits, tmp_path):
    calls = []

    def note(done, total, text):
        calls.append(text)

    def measured(checks):
        given = {"suite": [], "threat": THREAT, "out": tmp_path, "checks": checks, "progress": note}
        return rd.evaluate(sound, digits.take(slice(6)), **given)

    assert measured(0).flags == [] and "No checks" in measured(0).table()
    first = measured(4)
    before = sound.tally.evaluations
    again = measured(4)
    assert sound.tally.evaluations == before + 4 + 6 * 4 and again.flags == first.flags  # one, and all
    assert measured(5).record.checks.points == 5


def _record(checks=None, **attacks):
    """A record of attacks on samples that are all classified correctly."""
    points = max((attack.points for attack in attacks.values()), default=0)
    clean = {0: CleanBatch(predictions=[1] * points, labels=[1] * points, probabilities=0)}
    identity = Identity(
        model="x", weights="", deployed="", solver=None, steps=None, readout=None, defence=None, logits=[0.0],
        points=points, images="", norm="Linf", eps=0.1, seed=0, batch_size=250,
    )  # fmt: skip
    columns = {name: attack.column for name, attack in attacks.items()}
    return Record(identity=identity, samples="", columns=columns, attacks=attacks, clean=clean, checks=checks)


def _trial(fell, stand, loss):
    return [0] * fell + [1] * stand, loss


def _checks(**changes):
    """The measurements of a sound model on forty samples, but for the changes."""
    sound = {
        "gradients": _trial(0, 40, None),
        "repeated": _trial(0, 40, None),
        "more steps": _trial(30, 10, 2.0),
        "fewer steps": _trial(20, 20, 1.5),
        "half eps": _trial(10, 30, 1.0),
        "double eps": _trial(40, 0, 4.0),
        "huge eps": _trial(40, 0, 9.0),
        "square": _trial(10, 30, 1.0),
    }
    made = sound | {name.replace("_", " "): check for name, check in changes.items()}
    outcomes, values = ({name: check[at] for name, check in made.items()} for at in (0, 1))
    return Checks(points=40, outcomes=outcomes, values=values)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, set()),
        ({"gradients": _trial(2, 38, None)}, set()),
        ({"gradients": _trial(3, 37, None)}, {"gradients"}),
        ({"repeated": _trial(1, 39, None)}, {"random"}),
        ({"alone": _trial(2, 38, None), "with gradient": _trial(0, 40, None)}, set()),
        ({"alone": _trial(3, 37, None), "with gradient": _trial(0, 40, None)}, {"batch"}),
        ({"alone": _trial(0, 40, None), "with gradient": _trial(1, 39, None)}, {"gradient mode"}),
        ({"fewer_steps": _trial(36, 4, 1.5)}, set()),  # six samples may be chance
        ({"fewer_steps": _trial(37, 3, 1.5)}, {"more steps"}),
        ({"square": _trial(37, 3, 1.0)}, {"black-box"}),
        ({"half_eps": _trial(0, 40, 2.0)}, {"loss"}),
        ({"double_eps": _trial(0, 40, 1.9)}, {"loss"}),
        ({"huge_eps": _trial(37, 3, 9.0)}, set()),  # 7.5% of 40, at least 1.6%
        ({"huge_eps": _trial(36, 4, 9.0)}, {"huge eps"}),
        ({"residual": ([], 0.5)}, set()),
        ({"residual": ([], 0.51)}, {"residual"}),
        ({"residual": ([], None)}, {"residual"}),
        ({"phantom": _trial(23, 17, 1.0)}, {"gradients differ"}),
    ],
)
def test_each_flag_has_its_slack(changes, expected):
    assert {flag.name for flag in flags(_record(_checks(**changes))) if flag.fired} == expected


@pytest.mark.parametrize("eps, half, expected", [(1.0, 1.0, set()), (1.0, 2.0, {"loss"}), (0.0, 2.0, set())])
def test_a_ball_that_cannot_grow_need_not_raise_the_loss(eps, half, expected):
    """Twice Linf(1) is Linf(1), the box; and twice nothing is nothing."""
    record = _record(_checks(double_eps=_trial(30, 10, 2.0), half_eps=_trial(10, 30, half)))
    record.identity.eps = eps
    assert {flag.name for flag in flags(record) if flag.fired} == expected


def test_without_a_correct_sample_nothing_is_claimed():
    names = ("gradients", "more_steps", "fewer_steps", "half_eps", "double_eps", "huge_eps", "square")
    checks = _checks(**dict.fromkeys(names, ([], None)))
    assert not any(flag.fired for flag in flags(_record(checks)))


def _attack(outcomes, column="PGD", gradient=None, independent=True):
    return AttackRecord(
        column=column, attack="PGD", view="View", settings={"gradient": {"name": gradient}} if gradient else {},
        points=len(outcomes), independent=independent, batches={0: Batch(outcomes=outcomes)},
    )  # fmt: skip


@pytest.mark.parametrize(
    "unrolled, phantom, fired",
    [
        ([0] * 40 + [1] * 60, [0] * 20 + [1] * 80, True),
        ([0] * 20 + [1] * 80, [0] * 40 + [1] * 60, True),
        ([0] * 20 + [1] * 80, [0] * 24 + [1] * 76, False),  # four points
        ([0] * 4 + [1] * 16, [0] * 7 + [1] * 13, False),  # fifteen points, but three samples say nothing
        ([0] * 200 + [1] * 800, [0] * 245 + [1] * 755, False),
        ([0] * 200 + [1] * 800, [0] * 255 + [1] * 745, True),
    ],
)
def test_unrolled_and_phantom_may_differ_by_five_points_and_chance(unrolled, phantom, fired):
    record = _record(u=_attack(unrolled, gradient="unrolled"), p=_attack(phantom, gradient="phantom"))
    (flag,) = flags(record)
    assert flag.name == "gradients differ" and flag.fired is fired and flag.allowed == 5
    assert flag.value == pytest.approx(100 * abs(sum(unrolled) - sum(phantom)) / len(phantom))
    shared = _attack(phantom, gradient="phantom", independent=False)
    assert flags(_record(u=_attack(unrolled, gradient="unrolled"), p=shared)) == []


@pytest.mark.parametrize("static, fired", [([0] * 30 + [1] * 70, True), ([0] * 12 + [1] * 88, False)])
def test_a_transfer_must_not_beat_the_attacks_that_know_the_defence(static, fired):
    record = _record(
        s=_attack(static, "PGD static"),
        f=_attack([0] * 10 + [1] * 90, "frozen"),
        e=_attack([0] * 12 + [1] * 80, "end-to-end"),
    )
    (flag,) = flags(record)
    assert isinstance(flag, Flag) and flag.name == "static" and flag.fired is fired


@pytest.mark.parametrize("weak", ["surrogate", "transfer"])
@pytest.mark.parametrize("strong", ["PGD", "white-box", "frozen"])
@pytest.mark.parametrize("fell, fired", [(16, False), (17, True)])
def test_images_of_other_models_must_not_beat_the_attacks_on_this_one(weak, strong, fell, fired):
    strong = _attack([0] * 10 + [1] * 40, strong, independent=False)
    record = _record(w=strong, s=_attack([0] * fell + [1] * (50 - fell), weak, independent=False))
    (flag,) = flags(record)
    assert flag.name == "surrogate" and flag.fired is fired
    lone = _record(s=_attack([0] * 50, weak), o=_attack([1] * 50, "own"))
    assert flags(lone) == []


@pytest.mark.parametrize("more, fired", [(6, False), (7, True)])
@pytest.mark.parametrize("points", [30, 40, 60])
def test_all_attacks_together_must_break_what_ten_plain_steps_do(more, fired, points):
    """Those that stand under PGD-10 of the checks are the last ten of forty; some of the first thirty stand here."""
    one, other = [1] * points, [1] * points
    one[: 20 - more], other[20:30] = [0] * (20 - more), [0] * 10
    record = _record(_checks(), pgd=_attack(one), apgd=_attack(other, "AA"))
    assert ("weak attacks" in {flag.name for flag in flags(record) if flag.fired}) == fired
    assert "weak attacks" not in {flag.name for flag in flags(_record(_checks()))}


@pytest.mark.parametrize("more, fired", [(6, False), (7, True)])
def test_the_joint_attack_is_compared_with_pgd_on_the_samples_that_both_saw(more, fired):
    pair = {name: _attack([-1] * 5 + [0] * (10 + more) + [1] * 40, gradient=name) for name in ("unrolled", "phantom")}
    joint = _attack([-1] * 5 + [0] * 10 + [1] * 20, "white-box", independent=False)  # of the first points alone
    joint.attack = "JointOptimisation"
    by_name = {flag.name: flag for flag in flags(_record(**pair, j=joint))}
    assert by_name["joint"].fired is fired and not by_name["gradients differ"].fired


def test_the_sign_test_takes_seven_samples():
    assert 2**-7 < LEVEL < 2**-6


@pytest.mark.parametrize("checks", [0, 4])
@pytest.mark.parametrize(
    "spoil, name, text",
    [
        (lambda logits: logits.softmax(1), "probabilities", "outputs are probabilities"),
        (
            lambda logits: logits.where(logits.argmax(1, keepdim=True) < 5, float("nan")),
            "not finite",
            "of 6 clean logits",
        ),
        (lambda logits: logits.sign(), "ties", "of 6 clean samples have their largest logit twice"),
    ],
)
def test_outputs_that_are_no_logits_are_told_without_checks_too(spoil, name, text, checks, sound, digits):
    few = digits.take(slice(6))
    result = rd.evaluate(Masked(sound, after=spoil), few, suite=[], threat=THREAT, checks=checks, opaque=True)
    assert [flag.name for flag in result.flags if flag.fired and flag.name == name] == [name]
    assert f"RED FLAG {name}: " in result.table() and text in result.table()
    assert result.robustbench()["unreliable"] is True


IDLE = [({"every": 4}, True), ({"updates": 0}, True), ({"eps": 0.0}, True), ({"step_size": 0.0}, True)]


@pytest.mark.parametrize("options, idle", [*IDLE, ({"every": 3}, False)])
def test_entropy_reduction_that_never_changes_an_input_is_told(options, idle, digits):
    chosen = {"eps": 0.1, "step_size": 0.03, "updates": 1, **options}
    defended = rd.EntropyReduction(**chosen)(own(10, side=8, steps=4))
    result = rd.evaluate(defended, digits.take(slice(4)), suite=[], threat=THREAT, checks=0)
    assert ("idle defence" in {flag.name for flag in result.flags if flag.fired}) is idle
    assert ("bit for bit: there the defence does nothing" in result.table()) is idle


class Rounded(Defended):
    """The image to so many steps of grey."""

    def __init__(self, model, grey):
        super().__init__(model, None)
        self.grey = grey

    def forward(self, x):
        return self.model((self.grey * x).round() / self.grey)


@pytest.mark.parametrize("grey, idle", [(16, True), (5, False)])
def test_any_defence_that_changes_no_logit_is_told(grey, idle, digits):
    few = digits.take(slice(4))  # they have 17 steps of grey
    result = rd.evaluate(Rounded(own(10, side=8, steps=4), grey), few, suite=[], threat=THREAT, checks=0)
    assert ("idle defence" in {flag.name for flag in result.flags if flag.fired}) is idle


@pytest.mark.parametrize("suite", ["quick", "standard"])
@pytest.mark.parametrize(
    "spoil", [lambda logits: logits.softmax(1), lambda logits: (1e4 * logits).softmax(1)], ids=["soft", "saturated"]
)
def test_probabilities_are_told_by_every_suite(spoil, suite, sound, digits):
    """Saturated ones, too, each of which is 0 or 1."""
    few = {"steps": 1} if suite == "quick" else {"steps": 1, "iterations": 1, "attacks": ["apgd-ce"]}
    model, points = Masked(sound, after=spoil), digits.take(slice(6))
    result = rd.evaluate(model, points, suite=suite, threat=THREAT, checks=0, opaque=True, **few)
    assert "RED FLAG probabilities: " in result.table()


FEW = {"steps": 10, "iterations": 10, "queries": 300, "attacks": ["apgd-ce"], "restarts": 1}


class Steps(nn.Module):
    """An image in 17 shades of grey."""

    def forward(self, x):
        return (16 * x).round() / 16


def _quantised(sound):
    """The same DEQ behind an injection that has no gradient, so that every attack of this package sees a DEQ."""
    model = own(10, side=8, steps=4)
    model.load_state_dict(sound.state_dict())
    model.inject = nn.Sequential(Steps(), model.inject)
    return model


def _cut(sound):
    """Its injection does not depend on the image at all, as far as autograd can see."""
    model = _quantised(sound)
    model.inject[0].forward = lambda x: x.detach()
    return model


def _adaptive(model, digits, **options):
    found = rd.evaluate(model, digits, suite="adaptive", threat=THREAT, checks=0, **FEW, **options)
    return {flag.name for flag in found.flags if flag.fired}, {flag.name for flag in found.flags}, found


def test_a_sound_model_raises_no_flag_under_the_adaptive_suite(sound, digits):
    other = own(10, side=8, steps=4, sharpness=1.0)  # as good as untrained
    fired, made, found = _adaptive(sound, digits, surrogates=[other])
    assert fired == set() and made == {"gradients differ", "black-box", "surrogate", "joint"}
    assert found.shares()["white-box"].count <= found.shares()["PGD"].count


@pytest.mark.parametrize("mask", [_quantised, _cut])
def test_a_masked_model_raises_its_flags_under_the_adaptive_suite(mask, sound, digits):
    fired, _, found = _adaptive(mask(sound), digits, surrogates=[sound])
    assert {"black-box", "surrogate"} <= fired
    assert "images made against other models break" in found.table()
    assert found.robustbench()["unreliable"] is True


def test_the_joint_attack_is_told_to_be_weak_where_no_fixed_point_is_near(digits):
    """Three steps of dynamics that turn the state around and around: PGD through the solver follows them."""
    wild = own(10, side=8, steps=3)
    with torch.no_grad():
        angle = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q
        wild.cell.mix.weight.copy_(2 * angle)
    y = wild(digits.images()).argmax(1)
    found = rd.evaluate(wild, digits.images(), y, suite="quick", threat=THREAT, checks=0)
    assert found.shares()["joint"].count > found.shares()["PGD"].count
    joint = next(flag for flag in found.flags if flag.name == "joint")
    assert joint.fired and "no fixed point is near" in joint.text


def test_square_that_finds_what_autoattack_s_gradients_left_is_told(sound, digits):
    """As the reference warns, which sees one attack at a time here."""
    options = {"attacks": ["apgd-ce", "square"], "iterations": 3, "queries": 100, "steps": 1, "checks": 0}
    lines = {}
    for name, model in (("quantised", Masked(sound, before=lambda x: (16 * x).round() / 16)), ("sound", sound)):
        table = rd.evaluate(model, digits, suite="standard", threat=THREAT, opaque=True, **options).table()
        lines[name] = [line for line in table.splitlines() if line.startswith("square warned: Square broke")]
    assert len(lines["quantised"]) == 1 and lines["sound"] == []
