"""What is handed to RobustBench beyond AutoAttack's number; and which attack took what the others left."""

import pytest
import torch

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.evaluation import Entry

THREAT = rd.Linf(0.1)


ENTRIES = [
    Entry("weak", "A", PGD(THREAT, 0.02, 2)),
    Entry("strong", "A", PGD(THREAT, 0.03, 10)),
    Entry("other", "B", PGD(THREAT, 0.03, 10, loss="dlr")),
]


def evaluated(model, points, **options):
    return rd.evaluate(model, *points, **{"suite": ENTRIES, "threat": THREAT, "checks": 0, **options})


def test_the_images_break_whatever_was_broken_and_are_the_images_themselves_where_the_model_errs(
    model, points, tmp_path
):
    x, y = points
    found = evaluated(model, points, out=tmp_path / "out", images=True, batch_size=7)
    path = found.robustbench_images(tmp_path / "some" / "adversarial.pt")
    images = torch.load(path, weights_only=True)
    assert images.shape == x.shape and images.dtype == torch.float32
    assert THREAT.contains(x, images).all()
    right = model(images).argmax(1) == y
    assert int(right.sum()) == found.shares()["All"].count
    assert torch.equal(images[~found.clean], x[~found.clean])
    assert (images[found.clean] != x[found.clean]).flatten(1).any(1).all()
    first = found.clean & ~found.robust["weak"]
    assert torch.equal(images[first], found.images["weak"][:][first])
    again = rd.Evaluation.read(tmp_path / "out").robustbench_images(tmp_path / "again.pt", total=24)
    assert again.read_bytes() == path.read_bytes()


def test_what_was_not_kept_or_not_attacked_is_refused_in_one_sentence(model, points, tmp_path):
    with pytest.raises(ValueError, match=r"no images were kept; allowed: an evaluation with images=True\."):
        evaluated(model, points).robustbench_images(tmp_path / "x.pt")
    few = [Entry("few", "A", PGD(THREAT), points=5)]
    short = evaluated(model, points, suite=few, out=tmp_path / "few", images=True)
    with pytest.raises(ValueError, match=r"kept images on all 24 points: none; allowed: .* every point"):
        short.robustbench_images(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="of 24 points of 10000; allowed: one of the whole test set"):
        short.robustbench_images(tmp_path / "x.pt", total=10_000)
    assert not (tmp_path / "x.pt").exists() and short.robustbench()["external"] is None


def test_external_is_what_stands_every_attack(model, points):
    found = evaluated(model, points)
    assert found.robustbench()["external"] == f"{found.shares()['All'].percent:.2f}"
    assert evaluated(model, points, suite=[]).robustbench()["external"] is None


def test_a_model_that_optimises_its_input_says_that_robustbench_excludes_it(model, points):
    defended, idle = (rd.EntropyReduction(eps=0.1, step_size=0.03, updates=n)(model) for n in (2, 0))
    found = evaluated(defended, points, suite="quick", steps=1)
    text = "optimises its input at inference, and RobustBench excludes such defences."
    assert f"The model {text}" in found.table()
    assert found.robustbench()["footnote"] == f"The model {text}"
    assert found.robustbench(footnote="Ours.")["footnote"] == f"Ours. The model {text}"
    for other in (evaluated(idle, points, suite="quick", steps=1), evaluated(model, points)):
        assert "RobustBench" not in other.table() and other.robustbench()["footnote"] is None


def _breaks(*numbers):
    """An attack that breaks the samples of these numbers, of a model that errs where an image is brighter."""
    wanted = torch.tensor(numbers)
    return lambda model, x, y, indices: torch.where(torch.isin(indices, wanted)[:, None, None, None], x + 0.1, x)


class Bright(torch.nn.Module):
    def forward(self, x):
        margin = 0.51 - x.mean((1, 2, 3))
        return torch.stack([margin, -margin], dim=1)


def test_which_attack_took_what_the_others_left():
    x, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.long)
    entries = [
        Entry("a", "A", _breaks(0, 1)),
        Entry("b", "A", _breaks(1, 2), independent=True),
        Entry("c", "A", _breaks(0, 2, 3)),  # 0 and 2 have fallen in its column
        Entry("d", "D", _breaks(3, 4, 5, 6, 7), points=5),
    ]
    found = rd.evaluate(Bright(), x, y, suite=entries, threat=THREAT, checks=0)
    assert found.taken() == {
        "a": {"seen": 8, "broke": 2, "first": 2, "alone": 1},
        "b": {"seen": 8, "broke": 2, "first": 1, "alone": 1},
        "c": {"seen": 5, "broke": 1, "first": 1, "alone": 0},
        "d": {"seen": 5, "broke": 2, "first": 1, "alone": 1},
    }
    assert "first to break (that it alone broke): a 2 (1); b 1 (1); c 1 (0); d 1 (1)." in found.table()
    assert sum(counts["first"] for counts in found.taken().values()) == 5
    assert found.to_dict()["totals"]["d"]["alone"] == 1
    lone = rd.evaluate(Bright(), x, y, suite=entries[:1], threat=THREAT, checks=0)
    assert "first to break" not in lone.table()


def test_backward_passes_are_counted(model, points):
    """Three looks with a gradient but for the last, of N = 3 evaluations each, and one verification without."""
    found = evaluated(model, points, suite=[Entry("pgd", "A", PGD(THREAT, 0.0, 2, start="clean"))])
    totals, right = found.to_dict()["totals"]["pgd"], int(found.clean.sum())
    assert (totals["evaluations"], totals["backward"]) == (4 * 3 * right, 2 * 3 * right)


@pytest.mark.parametrize(
    ("threat", "words"),
    [(rd.Linf(8 / 255), "8/255"), (rd.L2(0.5), "0.5"), (rd.L2(1.0), "1"), (rd.L2(2.0), "2"), (rd.Linf(1.0), "1")],
    ids=str,
)
def test_eps_is_a_fraction_of_255_where_it_is_one(threat, words, model, points):
    """A radius of 1 was 255/255."""
    record = evaluated(model, points, suite=[], threat=threat).record
    assert record.identity.eps_words == words
