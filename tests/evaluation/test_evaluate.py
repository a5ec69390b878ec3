"""Evaluation believes no attack, counts the worst case, and goes on where it was stopped."""

import json

import pytest
import torch
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.evaluation import Entry, Evaluation, Share

EPS = 0.15
THREAT = rd.Linf(EPS)


@pytest.fixture(scope="module")
def points():
    test = rd.data.digits().test
    return test.images(slice(20)), test.labels[:20]


@pytest.fixture(scope="module")
def model(points):
    """A nano DEQ that was shown these twenty digits for a moment: enough to be right on most of them."""
    model = rd.create_model("mdeq-nano", seed=0, steps=4).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points[0]), points[1]).backward()
        optimizer.step()
    return model.eval()


def _shift(amount):
    """An "attack" that shifts every pixel."""
    return lambda model, x, y, indices: x + amount


def test_an_image_outside_the_ball_or_the_box_is_rejected(model, points):
    x, y = points
    entries = [Entry("cheat", "cheat", _shift(0.5)), Entry("nan", "nan", _shift(float("nan")))]
    found = rd.evaluate(model, x, y, suite=entries, threat=THREAT)
    assert found.shares()["cheat"] == found.shares()["clean"] == found.shares()["nan"]
    assert found.record["attacks"]["cheat"]["rejected"] > 0
    assert all(THREAT.contains(x, images).all() for images in found.images.values())


def test_only_the_deployed_forward_decides(model, points):
    x, y = points

    class Liar(nn.Module):
        """Claims that everything is misclassified."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return -self.model(x)

    found = rd.evaluate(model, x, y, suite=[Entry("liar", "liar", PGD(THREAT, 0.0, 1), Liar)], threat=THREAT)
    clean = found.shares()["clean"].count
    assert clean > 0 and found.shares()["liar"].count >= clean - 3  # only the random start can break a sample


def test_all_is_the_worst_case_on_the_points_that_every_attack_saw(model, points):
    x, y = points
    entries = [
        Entry("a", "A", PGD(THREAT, EPS / 4, 3, seed=0)),
        Entry("b", "A", PGD(THREAT, EPS / 4, 3, seed=1, loss="dlr")),
        Entry("c", "C", PGD(THREAT, EPS / 4, 3), points=7),
    ]
    found = rd.evaluate(model, x, y, suite=entries, threat=THREAT, batch_size=6)
    a, b, c = (found.robust[name] for name in "abc")
    shares = found.shares()
    assert shares["A"] == Share(int((a & b).sum()), 20)
    assert shares["C"] == Share(int(c.sum()), 7)
    assert shares["All"] == Share(int((a[:7] & b[:7] & c).sum()), 7)
    assert not (a & ~found.clean).any()
    for name, points_seen in (("a", 20), ("c", 7)):
        images = found.images[name]
        right = model(images).argmax(1) == y[:points_seen]
        assert torch.equal(right & found.clean[:points_seen], found.robust[name])


def test_pgd_results_do_not_depend_on_the_batch_size(model, points):
    x, y = points
    entries = [Entry("pgd", "PGD", PGD(THREAT, EPS / 4, 3))]
    one, other = (rd.evaluate(model, x, y, suite=entries, threat=THREAT, batch_size=size) for size in (20, 3))
    assert torch.equal(one.robust["pgd"], other.robust["pgd"])
    torch.testing.assert_close(one.images["pgd"], other.images["pgd"], atol=2 * EPS, rtol=0)


def test_an_evaluation_that_was_stopped_ends_with_the_same_record(model, points, tmp_path):
    x, y = points
    entries = [Entry(f"pgd {seed}", "PGD", PGD(THREAT, EPS / 4, 2, seed=seed)) for seed in range(3)]

    def evaluate(folder, progress=None):
        return rd.evaluate(model, x, y, suite=entries, threat=THREAT, batch_size=6, out=folder, progress=progress)

    class Stop(Exception):
        pass

    calls = []

    def stop(done, total, text):
        calls.append(text)
        if len(calls) == 6:
            raise Stop

    whole = evaluate(tmp_path / "whole")
    with pytest.raises(Stop):
        evaluate(tmp_path / "cut", stop)
    kept = json.loads((tmp_path / "cut" / "evaluation.json").read_text())["attacks"]
    finished = sum(len(facts["robust"]) for facts in kept.values())
    assert 0 < finished < 60
    resumed = evaluate(tmp_path / "cut")
    assert _timeless(resumed.record) == _timeless(whole.record)
    assert all(torch.equal(resumed.images[name], whole.images[name]) for name in whole.images)
    assert Evaluation.read(tmp_path / "cut").shares() == whole.shares()


def _timeless(record):
    attacks = {name: {k: v for k, v in facts.items() if k != "seconds"} for name, facts in record["attacks"].items()}
    return {**record, "attacks": attacks}


def test_a_finished_batch_is_not_repeated(model, points, tmp_path):
    x, y = points
    calls = []

    def counting(model, x, y, indices):
        calls.append(indices.tolist())
        return x

    entries = [Entry("count", "count", counting)]
    for _ in range(2):
        rd.evaluate(model, x, y, suite=entries, threat=THREAT, batch_size=8, out=tmp_path)
    assert len(calls) == 3
    rd.evaluate(model, x, y, suite=entries, threat=THREAT, batch_size=8, out=tmp_path, resume=False)
    assert len(calls) == 6


def test_a_record_of_another_model_or_a_broken_one_is_refused(model, points, tmp_path):
    x, y = points
    entries = [Entry("none", "none", _shift(0.0))]
    rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path)
    with pytest.raises(ValueError, match="another weights"):
        other = rd.create_model("mdeq-nano", seed=3, steps=4)
        rd.evaluate(other, x, y, suite=entries, threat=THREAT, out=tmp_path)
    with pytest.raises(ValueError, match=r"another threat\.eps"):
        rd.evaluate(model, x, y, suite=entries, threat=rd.Linf(0.1), out=tmp_path)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        rd.evaluate(model, x, y, suite=entries, threat=THREAT, out=tmp_path)


def test_the_static_column_is_the_transfer_of_the_bare_attack(model, points):
    x, y = points
    defended = rd.EntropyReduction(eps=EPS, step_size=EPS / 4, updates=2)(model)
    found = rd.evaluate(defended, x[:8], y[:8], suite="quick", threat=THREAT)
    assert list(found.shares()) == ["clean", "PGD static", "PGD frozen", "All"]
    bare = PGD(THREAT, EPS / 4, 20, keep="last")(model, x[:8], y[:8], indices=torch.arange(8))
    with torch.no_grad():
        stands = (defended(bare).argmax(1) == y[:8]) & found.clean
    assert torch.equal(found.robust["pgd-20 static"], stands)
    given = rd.evaluate(defended, x[:8], y[:8], suite=[], threat=THREAT, transfers={"T/given": bare})
    assert torch.equal(given.robust["given"], stands)


def test_evaluations_of_f_are_counted(model, points):
    x, y = points
    entries = [Entry("pgd", "PGD", PGD(THREAT, 0.0, 2, start="clean"))]
    found = rd.evaluate(model, x, y, suite=entries, threat=THREAT)
    right = found.shares()["clean"].count
    assert found.record["attacks"]["pgd"]["evaluations"] == 4 * (3 * right + 20)  # N = 4: three looks, one verification


def test_explicit_and_plain_modules_are_evaluated_too(points):
    x, y = points
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = rd.evaluate(linear, x, y, suite="quick", threat=THREAT)
    assert list(found.shares()) == ["clean", "PGD", "All"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.full((20, 1, 8, 8), 3.0)}, r"allowed: \[0, 1\]"),
        ({"y": torch.full((20,), 10)}, "labels lie in 10..10; allowed: 0..9"),
        ({"y": torch.zeros(20)}, "labels are torch.float32"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "shape"),
        ({"suite": "quik"}, "did you mean 'quick'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"suite": [Entry("a", "A", _shift(0.0))] * 2}, "every name once"),
    ],
)
def test_wrong_input_says_what_is_allowed(model, points, change, message):
    given = {"x": points[0], "y": points[1], "suite": "quick", **change}
    with pytest.raises(ValueError, match=message):
        rd.evaluate(model, given.pop("x"), given.pop("y"), threat=THREAT, **given)


@pytest.mark.parametrize(
    "count, total, low, high", [(0, 10, 0, 30.85), (10, 10, 69.15, 100), (5, 10, 18.71, 81.29), (60, 100, 49.72, 69.67)]
)
def test_intervals_are_clopper_pearson(count, total, low, high):
    """Against tabulated values."""
    assert Share(count, total).interval == pytest.approx((low, high), abs=0.005)
