"""An evaluation that was stopped, or killed, goes on and ends with the record of one that was not."""

import json
import random
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from launcher import FORK
from sharded import THREAT, found, shared, timeless
from small_models import images_for, own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD, Summed, ThroughGradient, View
from robustdeq.defences import EarlyState
from robustdeq.evaluation import Entry, Evaluation


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return found(tmp_path_factory.mktemp("whole"))


def _same(one, other):
    assert timeless(one.record.to_json()) == timeless(other.record.to_json())
    assert one.flags == other.flags
    assert all(torch.equal(one.images[name][:], other.images[name][:]) for name in other.images)


@pytest.mark.parametrize("calls", [5, 12, 17, 27, 32])
def test_an_evaluation_that_was_stopped_ends_with_the_same_record(calls, whole, tmp_path):
    class Stop(Exception):
        pass

    seen = []

    def stop(done, total, text):
        seen.append(text)
        if len(seen) == calls:
            raise Stop

    with pytest.raises(Stop):
        found(tmp_path, progress=stop)
    with pytest.raises(ValueError, match="is unfinished"):
        Evaluation.read(tmp_path)
    _same(found(tmp_path), whole)
    assert Evaluation.read(tmp_path).shares() == whole.shares()


def test_a_process_that_was_killed_twice_leaves_nothing_that_hinders(whole, tmp_path):
    draw, file = random.Random(0), tmp_path / "cut" / "evaluation.json"
    for _ in range(2):
        process = FORK.Process(target=shared, args=(tmp_path / "cut",))
        process.start()
        deadline = time.monotonic() + 60
        while not file.exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.4))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        json.loads(file.read_text())
    _same(found(tmp_path / "cut"), whole)


@dataclass(frozen=True)
class Counting:
    """An attack that gives the images back and notes which ones it was shown."""

    label: str
    calls: ClassVar[dict[str, list[list[int]]]] = {}

    def __call__(self, model, x, y, indices):
        self.seen.append(indices.tolist())
        return x

    @property
    def seen(self):
        return self.calls.setdefault(self.label, [])


def test_a_finished_batch_is_not_repeated(tmp_path):
    model = own()
    x = images_for(model, 20)
    y = model(x).argmax(1)
    attack = Counting("batches")
    calls = attack.seen
    given = {"suite": [Entry("count", "count", attack)], "batch_size": 8, "out": tmp_path, "checks": 0}
    for _ in range(2):
        rd.evaluate(model, x, y, **given)
    assert len(calls) == 3
    rd.evaluate(model, x, y, images=True, **given)  # its images were not kept
    assert len(calls) == 6
    rd.evaluate(model, x, y, images=True, **given)
    assert len(calls) == 6
    rd.evaluate(model, x, y, resume=False, **given)
    assert len(calls) == 9


def test_an_attack_runs_again_where_more_samples_stand_than_before(tmp_path):
    """An earlier attack of its column was made weaker, so what it no longer breaks has not been attacked yet."""
    model = own()
    x = images_for(model, 6)
    y = model(x).argmax(1)
    attack = Counting("standing")
    calls = attack.seen

    def evaluate(size):
        first = Entry("pgd", "A", PGD(rd.Linf(0.9), size, 5))
        second = Entry("count", "A", attack)
        return rd.evaluate(model, x, y, suite=[first, second], threat=rd.Linf(0.9), out=tmp_path, checks=0)

    evaluate(0.3)
    found = evaluate(0.0)
    standing = found.robust["pgd"].nonzero().flatten().tolist()
    assert calls[-1] == standing and sum(map(len, calls[:-1])) < len(standing)
    assert found.shares()["A"].count == len(standing)


def test_a_record_of_another_model_or_a_broken_one_is_refused(tmp_path):
    model = own()
    x = images_for(model, 4)
    y = model(x).argmax(1)
    given = {"suite": [Entry("none", "none", Counting("none"))], "out": tmp_path, "checks": 0}
    with pytest.raises(ValueError, match="holds no evaluation"):
        Evaluation.read(tmp_path)
    rd.evaluate(model, x, y, threat=THREAT, **given)
    other = own(sharpness=2.0)
    with pytest.raises(ValueError, match="another weights"):
        rd.evaluate(other, x, y, threat=THREAT, **given)
    with pytest.raises(ValueError, match=r"another eps"):
        rd.evaluate(model, x, y, threat=rd.Linf(0.2), **given)
    file = tmp_path / "evaluation.json"
    record = json.loads(file.read_text())
    damaged = [
        ({"schema": 4}, r"cannot be read \(schema 4; allowed: 7\); remove it"),
        ({**record, "columns": None}, "Record: columns=None; allowed: options by name"),
        ({**record, "clean": {"0": {**record["clean"]["0"], "labels": ["a"]}}}, "CleanBatch: labels='a'; allowed"),
        ({name: value for name, value in record.items() if name != "clean"}, "Record: clean missing in"),
        ({**record, "x": 1}, "Record: unknown option 'x'"),
    ]
    for text, message in [*((json.dumps(value), message) for value, message in damaged), ("{", "cannot be read")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            rd.evaluate(model, x, y, threat=THREAT, **given)
        assert "\n" not in str(error.value)


def _small():
    model = own(sharpness=8.0)
    x = images_for(model, 12)
    return model, x, model(x).argmax(1)


def test_other_images_under_the_same_name_are_verified_anew(tmp_path):
    model, x, y = _small()
    broken = PGD(THREAT, 0.05, 20, keep="highest")(model, x, y)
    for images, stand in ((x, 12), (broken, int((model(broken).argmax(1) == y).sum()))):
        found = rd.evaluate(
            model, x, y, suite=[], threat=THREAT, out=tmp_path, checks=0, batch_size=5, transfers={"T/given": images}
        )
        assert found.shares()["T"].count == stand
    assert stand < 12


def test_a_function_whose_options_cannot_be_told_is_never_taken_for_done(tmp_path):
    model, x, y = _small()
    for steps in (0, 20):
        attack = PGD(THREAT, 0.05, steps, start="clean")
        entries = [Entry("closure", "A", lambda model, x, y, indices, attack=attack: attack(model, x, y))]
        found = rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path, checks=0)
    assert found.shares()["A"].count < 12


class _Kept(View):
    """A view of one's own; ``told``: its settings."""

    def __init__(self, deployed, keep, told):
        super().__init__(deployed)
        self.keep = keep
        if told:
            self.settings = {"keep": keep}

    def forward(self, x):
        return self.deployed(self.keep * x + (1 - self.keep) * x.detach())


class _Through(ThroughGradient):
    def __init__(self, deployed, keep, told):
        super().__init__(deployed, "unrolled")
        self.keep = keep

    forward = _Kept.forward


class _Telling(_Through):
    @property
    def settings(self):
        return {"keep": self.keep}

    @settings.setter
    def settings(self, value):
        pass


@pytest.mark.parametrize("kind, told, calls", [
    (_Kept, False, [1, 2]), (_Kept, True, [1, 1]), (_Through, False, [1, 2]), (_Telling, True, [1, 1]),
])  # fmt: skip
def test_a_view_of_one_s_own_is_known_by_settings_of_its_own_only(kind, told, calls, tmp_path):
    """What it inherits says nothing of what it adds: another one was read back as this."""
    model, x, y = _small()
    attack, made = Counting(f"{kind.__name__} {told}"), []
    for _ in range(2):
        entries = [Entry("mine", "A", attack, lambda model: kind(model, 1, told))]
        rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path, checks=0)
        made.append(len(attack.seen))
    assert made == calls
    entries = [Entry("mine", "A", attack, lambda model: kind(model, 0, told))]
    rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path, checks=0)
    assert len(attack.seen) == calls[-1] + 1


@pytest.mark.parametrize("view", [lambda m: ThroughGradient(m, "unrolled"), lambda m: EarlyState(m, 2),
                                  lambda m: Summed([ThroughGradient(m, "phantom")], deployed=m)])  # fmt: skip
def test_a_view_of_another_model_is_not_taken_for_one_of_this(view, tmp_path):
    model, x, y = _small()
    attack = Counting(f"others {view.__code__.co_firstlineno} {view.__code__.co_names}")
    others = (own(), own(sharpness=1.0))
    for other in others:
        rd.evaluate(model, x, y, suite=[Entry("far", "A", attack, lambda _, other=other: view(other))], threat=THREAT,
                    out=tmp_path, checks=0)  # fmt: skip
    assert len(attack.seen) == 2
    for _ in range(2):
        rd.evaluate(model, x, y, suite=[Entry("far", "A", attack, view)], threat=THREAT, out=tmp_path, checks=0)
    assert len(attack.seen) == 3


def test_two_threats_of_one_radius_are_two_attacks(tmp_path):
    model, x, y = _small()
    stand = []
    for ball in (rd.L2(0.1), THREAT):
        entries = [Entry("pgd", "A", PGD(ball, 0.05, 20, start="clean"))]
        found = rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path, checks=0)
        stand.append(found.shares()["A"].count)
    assert stand[1] < stand[0]


def test_a_model_that_computes_something_else_with_the_same_weights_is_refused(tmp_path):
    class Quantised(nn.Module):
        def __init__(self, levels):
            super().__init__()
            self.model, self.levels = _small()[0], levels

        def forward(self, x):
            return self.model((x * self.levels).round() / self.levels)

    _, x, y = _small()
    for levels, complaint in ((16, None), (2, "another logits")):
        with pytest.raises(ValueError, match=complaint) if complaint else nullcontext():
            rd.evaluate(Quantised(levels), x, y, suite=[], threat=THREAT, out=tmp_path, checks=0, opaque=True)


def test_what_another_evaluation_into_the_folder_broke_is_told_of(tmp_path):
    """All is of the attacks that were asked for; a stronger one that is on record is not passed over in silence."""
    model, x, y = _small()
    strong, weak = (Entry(f"pgd-{n}", "A", PGD(THREAT, 0.05, n, start="clean")) for n in (20, 0))
    smaller = Entry("smaller", "A", PGD(rd.Linf(THREAT.eps / 2), 0.05, 20, start="clean"))

    def notes(*entries):
        found = rd.evaluate(model, x, y, suite=list(entries), threat=THREAT, out=tmp_path, checks=0)
        again = Evaluation.read(tmp_path)
        assert again.table() == found.table()
        return found.shares()["All"].count, [line for line in found.table().splitlines() if "Not counted" in line]

    assert notes(smaller)[1] == []
    fallen = 12 - notes(strong)[0]
    stand, (line,) = notes(weak)
    assert stand == 12 and fallen > 0
    assert "pgd-20" in line and "smaller" not in line and f"broke {fallen} of the samples that stand here" in line
    assert notes(strong, weak)[1] == []


def test_kept_images_are_those_of_the_attack_that_the_record_tells_of(tmp_path):
    model, x, y = _small()
    for steps, images in ((0, True), (20, False), (20, True)):
        entries = [Entry("a b", "A", PGD(THREAT, 0.05, steps, start="clean")), Entry("a_b", "B", Counting("kept"))]
        found = rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path, checks=0, images=images)
    right = model(found.images["a b"][:]).argmax(1) == y
    assert torch.equal(right, found.robust["a b"]) and not right.all()
    assert torch.equal(found.images["a_b"][:], x)


def test_a_batch_made_elsewhere_keeps_its_own_environment(tmp_path, monkeypatch):
    model, x, y = _small()
    given = {"threat": THREAT, "out": tmp_path, "checks": 0, "batch_size": 6}
    rd.evaluate(model, x, y, suite=[Entry("one", "A", PGD(THREAT, 0.05, 1))], **given)
    monkeypatch.setattr("robustdeq.evaluation.recordfile.environment", lambda **_: {"commit": "another"})
    entries = [Entry(name, "A", PGD(THREAT, 0.05, 1)) for name in ("one", "two")]
    record = rd.evaluate(model, x, y, suite=entries, **given).record
    made = {
        name: [record.environments[batch.environment]["commit"] for batch in attack.batches.values()]
        for name, attack in record.attacks.items()
    }
    assert made["two"] == ["another"] * 2 and "another" not in made["one"]
