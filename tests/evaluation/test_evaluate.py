"""Evaluation believes no attack, counts the worst case, and attacks nothing twice."""

from dataclasses import replace

import pytest
import torch
from small_models import Linear, Watched, images_for, own
from torch import nn

import robustdeq as rd
from robustdeq.analysis import variant
from robustdeq.attacks import PGD, AutoAttack, Frozen, ThroughGradient
from robustdeq.evaluation import Entry, Share

EPS = 0.1
THREAT = rd.Linf(EPS)


@pytest.fixture(scope="module")
def points(digits):
    return digits.images(slice(20)), digits.labels[:20]


@pytest.fixture(scope="module")
def model(sound):
    return sound


def _evaluate(model, points, entries, **options):
    return rd.evaluate(model, *points, suite=entries, **{"threat": THREAT, "checks": 0, **options})


def _shift(amount):
    """An "attack" that shifts every pixel."""
    return lambda model, x, y, indices: x + amount


def test_an_image_outside_the_ball_or_the_box_is_rejected(model, points, tmp_path):
    entries = [Entry("cheat", "cheat", _shift(0.5)), Entry("nan", "nan", _shift(float("nan")))]
    found = _evaluate(model, points, entries, out=tmp_path, images=True)
    shares = found.shares()
    assert shares["cheat"] == shares["clean"] == shares["nan"]
    assert found.to_dict()["totals"]["cheat"]["rejected"] == shares["clean"].count
    assert "lay outside the threat model; their samples stand" in found.table()
    (flag,) = (flag for flag in found.flags if flag.fired)
    assert flag.name == "rejected" and "images of cheat, " in flag.text and "RED FLAG rejected" in found.table()
    assert found.robustbench()["unreliable"]
    assert all(torch.equal(images[:], points[0]) for images in found.images.values())


def test_only_the_deployed_forward_decides(model, points):
    class Liar(nn.Module):
        """Claims that everything is misclassified."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return -self.model(x)

    found = _evaluate(model, points, [Entry("liar", "liar", PGD(THREAT, 0.0, 1), Liar)])
    clean = found.shares()["clean"].count
    assert clean > 0 and found.shares()["liar"].count >= clean - 3  # only the random start can break a sample


def test_all_is_the_worst_case_on_the_points_that_every_attack_saw(model, points, tmp_path):
    y = points[1]
    entries = [
        Entry("a", "A", PGD(THREAT, EPS / 4, 3, seed=0)),
        Entry("b", "A", PGD(THREAT, EPS / 4, 3, seed=1, loss="dlr"), independent=True),
        Entry("c", "C", PGD(THREAT, EPS / 4, 3), points=7),
    ]
    found = _evaluate(model, points, entries, batch_size=6, out=tmp_path, images=True)
    a, b, c = (found.robust[name] for name in "abc")
    shares = found.shares()
    assert shares["A"] == Share(int((a & b).sum()), 20)
    assert shares["C"] == Share(int(c.sum()), 7)
    assert shares["All"] == Share(int((a[:7] & b[:7] & c).sum()), 7)
    assert not (a & ~found.clean).any()
    for name, seen in (("a", 20), ("b", 20), ("c", 7)):
        right = model(found.images[name][:]).argmax(1) == y[:seen]
        assert torch.equal(right & found.clean[:seen], found.robust[name])


def _noting(seen):
    """An attack that breaks every sample whose number is even, and notes which it was given."""

    def attack(model, x, y, indices):
        seen.append(indices.tolist())
        return torch.where((indices % 2 == 0)[:, None, None, None], x + EPS, x)

    return attack


def test_a_sample_that_fell_is_not_attacked_again_in_its_column(points):
    """The model errs where an image is brighter than it was."""
    x, y = torch.full_like(points[0], 0.5), torch.zeros_like(points[1])

    class Bright(nn.Module):
        def forward(self, x):
            margin = 0.51 - x.mean((1, 2, 3))
            return torch.stack([margin, -margin], dim=1)

    seen = {name: [] for name in "abcd"}
    entries = [
        Entry("a", "A", _noting(seen["a"])),
        Entry("b", "A", _noting(seen["b"])),
        Entry("c", "A", _noting(seen["c"]), independent=True),
        Entry("d", "D", _noting(seen["d"])),
    ]
    found = _evaluate(Bright(), (x, y), entries)
    everyone, odd = [list(range(20))], [list(range(1, 20, 2))]
    assert seen == {"a": everyone, "b": odd, "c": everyone, "d": everyone}
    outcomes = found.record.attacks["b"].batches[0].outcomes
    assert outcomes == [-1, 1] * 10
    assert found.shares()["A"] == found.shares()["All"] == Share(10, 20)


def test_pgd_results_do_not_depend_on_the_batch_size(model, points, tmp_path):
    entries = [Entry("pgd", "PGD", PGD(THREAT, EPS / 4, 3))]
    one, other = (
        _evaluate(model, points, entries, batch_size=size, out=tmp_path / str(size), images=True) for size in (20, 3)
    )
    assert torch.equal(one.robust["pgd"], other.robust["pgd"])
    torch.testing.assert_close(one.images["pgd"][:], other.images["pgd"][:], atol=1e-5, rtol=0)


def test_an_image_set_and_its_tensors_are_the_same(model, digits, points, tmp_path):
    entries = [Entry("pgd", "PGD", PGD(THREAT, EPS / 4, 3))]
    kept = {"batch_size": 6, "images": True}
    one = _evaluate(model, points, entries, out=tmp_path / "one", **kept)
    other = rd.evaluate(
        model, digits.take(slice(20)), suite=entries, threat=THREAT, checks=0, out=tmp_path / "other", **kept
    )
    assert one.shares() == other.shares() and torch.equal(one.predictions, other.predictions)
    rows = torch.tensor([19, 0, 7])
    assert torch.equal(one.images["pgd"][:][rows], other.images["pgd"][rows])
    assert torch.equal(torch.cat(list(one.images["pgd"])), other.images["pgd"][:])


def test_a_set_without_labels_in_memory_is_read_a_batch_at_a_time(model, digits, points):
    class Streamed:
        """As a ``StreamedSet``: rows are read when they are asked for."""

        def __init__(self):
            self.asked = []

        def __len__(self):
            return 20

        def digest(self):
            return "rows"

        def take(self, rows):
            self.asked.append(len(range(20)[rows]))
            return digits.take(rows)

    entries = [Entry("pgd", "PGD", PGD(THREAT, EPS / 4, 3))]
    streamed = Streamed()
    found = rd.evaluate(model, streamed, suite=entries, threat=THREAT, checks=0, batch_size=8)
    assert found.shares() == _evaluate(model, points, entries).shares()
    assert sorted(streamed.asked) == [4, 4, 8, 8, 8, 8, 8]  # the first batch once more, to tell the model


def test_the_static_column_is_the_transfer_of_the_bare_attack(model, points, tmp_path):
    x, y = (part[:8] for part in points)
    defended = rd.EntropyReduction(eps=EPS, step_size=EPS / 4, updates=2)(model)
    found = _evaluate(defended, (x, y), "quick")
    assert list(found.shares()) == ["clean", "static", "frozen", "All"]
    far = PGD(THREAT, EPS / 4, 20, keep="highest")
    images = far(model, x, y, indices=torch.arange(8))
    with torch.no_grad():
        stands = (defended(images).argmax(1) == y) & found.clean
    assert torch.equal(found.robust["pgd-20 static"], stands)
    given = _evaluate(defended, (x, y), [], transfers={"T/given": images})
    assert torch.equal(given.robust["given"], stands)
    kept = _evaluate(model, (x, y), [Entry("far", "PGD", far)], batch_size=3, out=tmp_path, images=True)
    read = _evaluate(defended, (x, y), [], transfers={"T/kept": kept.images["far"]})
    assert torch.equal(read.robust["kept"], stands | (found.clean & ~kept.clean))


def test_evaluations_of_f_updates_and_the_cost_of_a_defence_are_counted(model, points):
    entries = [Entry("pgd", "PGD", PGD(THREAT, 0.0, 2, start="clean"))]
    found = _evaluate(model, points, entries)
    right = found.shares()["clean"].count
    totals = found.to_dict()["totals"]["pgd"]
    assert totals["evaluations"] == 4 * 4 * right and totals["updates"] == 0  # N = 4: three looks, one verification
    assert found.record.clean[0].evaluations == 4 * 20
    defended = rd.EntropyReduction(eps=EPS, step_size=EPS / 4, updates=3)(model)
    cost = _evaluate(defended, points, []).record.cost
    assert (cost.evaluations, cost.updates, cost.points) == (1, 3, 20) and cost.seconds > 0


def test_explicit_and_plain_modules_are_evaluated_too(points):
    x, y = points
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = _evaluate(linear, (x, y), "quick", samples="twenty digits")
    assert list(found.shares()) == ["clean", "PGD", "All"]
    assert "Samples: twenty digits." in found.table()


def _claimed(found):
    """The same record, as if its AutoAttack had been run with the budgets of the standard version."""
    for attack in found.record.attacks.values():
        attack.options |= {"iterations": 100, "queries": 5000}
    return found.robustbench(name="Digits", authors="A. N. Other", dataset="digits", additional_data=False)


def test_robustbench_takes_autoattack_standard_on_every_sample_and_nothing_less(points):
    linear = Linear(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    auto = AutoAttack(THREAT, iterations=3, queries=5)
    whole = [Entry("autoattack", "AA", auto)]
    each = [Entry(name, "AA", replace(auto, attacks=(name,))) for name in auto.names]
    for entries in (whole, each):
        found = _evaluate(linear, points, entries)
        assert found.robustbench()["autoattack_acc"] is None  # small budgets
        fields, shares = _claimed(found), found.shares()
        assert fields["autoattack_acc"] == f"{shares['AA'].percent:.2f}"
        assert fields["clean_acc"] == f"{shares['clean'].percent:.2f}" and fields["eps"] == "0.1"
        assert fields["unreliable"] is None and fields["number_forward_passes"] == 1
    pgd = Entry("pgd", "AA", PGD(THREAT))
    few = [replace(entry, points=5) for entry in each]
    apart = [*each[:2], *(replace(entry, column="other") for entry in each[2:])]
    for less in (each[:3], few, [pgd, *each], apart):  # whom PGD broke AutoAttack has not seen
        assert _claimed(_evaluate(linear, points, less))["autoattack_acc"] is None
    smaller = _evaluate(linear, points, [Entry("autoattack", "AA", replace(auto, threat=rd.Linf(1e-4)))])
    assert _claimed(smaller)["autoattack_acc"] is None and "another threat model" in smaller.table()


def test_the_exact_gradient_is_recorded():
    x = images_for(own(5), 4)
    views = [
        ("unrolled", lambda model: ThroughGradient(model, "unrolled"), True),
        ("unrolled", lambda model: model, True),
        ("phantom", lambda model: model, False),
        ("unrolled", lambda model: ThroughGradient(model, "phantom"), False),
        ("unrolled", lambda model: Watched(model), False),
    ]
    for gradient, view, exact in views:
        model = own(5, gradient=gradient)
        found = rd.evaluate(
            model, x, model(x).argmax(1), suite=[Entry("a", "A", PGD(THREAT, 0.1, 1), view)], threat=THREAT, checks=0
        )
        assert found.record.attacks["a"].exact is exact
    defended = rd.EntropyReduction(eps=EPS, updates=1)(own(5))
    found = rd.evaluate(defended, x, model(x).argmax(1), suite="quick", steps=1, threat=THREAT, checks=0)
    assert not any(attack.exact for attack in found.record.attacks.values())


def test_the_all_of_the_bare_model_may_stand_beside(model, points):
    bare = _evaluate(model, points, "quick", steps=2)
    defended = _evaluate(rd.EntropyReduction(eps=0.1, step_size=0.02, updates=1)(model), points, "quick", steps=2)
    share = bare.shares()["All"]
    assert f"| All, without the defence | {share.percent:.1f} |" in defended.table(bare)
    fewer, darker = tuple(part[:9] for part in points), (points[0] / 2, points[1])
    for other, threat, differing in (
        (fewer, THREAT, "points, images;"),
        (darker, THREAT, "images;"),
        (points, rd.Linf(0.05), "eps;"),
        (points, rd.L2(0.1), "norm;"),
    ):
        with pytest.raises(ValueError, match=f"with other {differing}"):
            defended.table(_evaluate(model, other, "quick", steps=1, threat=threat))
    with pytest.raises(ValueError, match="with other weights;"):
        defended.table(_evaluate(own(10, side=8), points, "quick", steps=1))
    with pytest.raises(ValueError, match="with other steps;"):
        defended.table(_evaluate(variant(model, steps=2), points, "quick", steps=1))
    for one in (bare, defended):
        with pytest.raises(ValueError, match="on the same side of a defence"):
            one.table(one)
    with pytest.raises(ValueError, match="without an attack"):
        defended.table(_evaluate(model, points, []))


def test_there_is_no_all_without_an_attack(model, points):
    found = _evaluate(model, points, [])
    assert list(found.shares()) == ["clean"] and "| All" not in found.table()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.full((20, 1, 8, 8), 3.0)}, r"allowed: \[0, 1\]"),
        ({"y": torch.full((20,), 10)}, "labels lie in 10..10; allowed: 0..9"),
        ({"y": torch.zeros(20)}, "labels are torch.float32"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "shape"),
        ({"suite": "quik"}, "did you mean 'quick'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"checks": -1}, "checks=-1"),
        ({"y": None}, "Tensor and no labels; allowed: a tensor x and a tensor y"),
        ({"images": True}, "images=True without out"),
        ({"suite": "standard", "stpes": 3}, "did you mean 'steps'"),
        ({"cheks": 3}, "did you mean 'checks'"),
        ({"eps": 0.1}, r"unknown option 'eps'; allowed: threat=Linf\(eps\) or L2\(eps\)"),
        ({"suite": [Entry("a", "A", _shift(0.0), Frozen)]}, "allowed: Defended"),
        ({"suite": [Entry("a", "A", _shift(0.0))] * 2}, "every name once"),
        ({"steps": 0}, "suite quick: steps=0; allowed: a whole number >= 1"),
        ({"suite": "standard", "queries": 0}, "suite standard: queries=0"),
        ({"points": 0}, "suite quick: points=0"),
    ],
)
def test_wrong_input_says_what_is_allowed(model, points, change, message):
    given = {"x": points[0], "y": points[1], "suite": "quick", "threat": THREAT, **change}
    with pytest.raises(ValueError, match=message):
        rd.evaluate(model, given.pop("x"), given.pop("y"), **given)


@pytest.mark.parametrize(
    "count, total, low, high", [(0, 10, 0, 30.85), (10, 10, 69.15, 100), (5, 10, 18.71, 81.29), (60, 100, 49.72, 69.67)]
)
def test_intervals_are_clopper_pearson(count, total, low, high):
    """Against tabulated values."""
    assert Share(count, total).interval == pytest.approx((low, high), abs=0.005)


def test_entries_bring_their_own_threat_when_none_is_named(model, points):
    near, far = (PGD(rd.Linf(eps), step_size=eps / 4, steps=2) for eps in (0.02, 0.03))
    result = rd.evaluate(model, *points, suite=[Entry("near", "PGD", near)], checks=0)
    assert result.record.identity.eps == 0.02
    with pytest.raises(ValueError, match="without threat=; allowed: one of them"):
        rd.evaluate(model, *points, suite=[Entry("near", "PGD", near), Entry("far", "PGD", far)], checks=0)


def test_a_seed_that_no_attack_of_a_list_has_is_refused():
    """It was on record, and every attack drew as before."""
    net, x, y = Linear.random(3), torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    seeded = Entry("pgd", "PGD", PGD(rd.Linf(0.1), steps=1, seed=5))
    entries = [seeded, Entry("none", "PGD", lambda model, x, y, indices: x)]
    with pytest.raises(ValueError, match=r"seed=2 with entries whose attacks have seed 5; allowed: attacks with that"):
        rd.evaluate(net, x, y, suite=entries, seed=2, checks=0)
    for seed in (0, 5):
        rd.evaluate(net, x, y, suite=entries, seed=seed, checks=0)
    assert rd.evaluate(net, x, y, suite=entries[1:], seed=2, checks=0).record.identity.seed == 2


def test_a_frame_has_a_row_for_each_sample_and_what_every_attack_did_to_it(model, points):
    entries = [Entry("pgd", "PGD", PGD(THREAT, 0.05, 5)), Entry("few", "AA", PGD(THREAT, 0.05, 5), points=3)]
    found = _evaluate(model, points, entries)
    frame = found.frame()
    assert list(frame) == ["sample", "label", "prediction", "pgd", "few"] and len(frame) == len(points[1])
    assert ((frame["label"] == frame["prediction"]).to_numpy() == found.clean.numpy()).all()
    assert (frame["pgd"] == 1).sum() == found.shares()["PGD"].count
    assert (frame["pgd"] == -1).sum() == (~found.clean).sum()
    assert frame["few"].notna().sum() == 3 and (frame["few"] == 1).sum() == found.shares()["AA"].count
