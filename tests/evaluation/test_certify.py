"""Certificates: closed forms of a linear classifier, the confidence that is stated, the same radii in any batch."""

import json
import random
import signal
import time

import pytest
import torch
from certified import found, points, shared, smoothed, timeless
from launcher import FORK, launch_function
from scipy.stats import binomtest
from small_models import Linear, images, nano, own

import robustdeq as rd
from robustdeq.distributed import Distributed
from robustdeq.evaluation import Certificate
from robustdeq.evaluation.radii import COUNT, INWARD, Sampled, least, lower, radius


@pytest.fixture(scope="module")
def whole():
    return found()


@pytest.mark.parametrize(("n", "alpha"), [(200, 0.05), (50, 0.01)])
def test_a_radius_exceeds_the_true_one_of_a_linear_classifier_with_the_stated_probability_at_most(n, alpha):
    """An image a thousand times, each with noise of its own: g is the linear classifier itself, at w x / ||w||."""
    w, sigma = torch.linspace(-1, 1.3, 16), 0.4
    x, model = images(1, seed=3), Linear.binary(w, 0.0)
    true = float(abs(x.flatten() @ w) / w.norm())
    method = Sampled(rd.Smoothing(sigma)(model), n0=10, n=n, alpha=alpha)
    label = model(x).argmax(1).expand(1000)
    radii = torch.tensor([one.radius for one in method.rows(x.expand(1000, -1, -1, -1), label, torch.arange(1000))])
    above = int((radii > true).sum())
    assert binomtest(above, 1000, alpha, alternative="greater").pvalue > 1e-3, f"{above} of 1000 above {true}"
    # and the interval is used: a method that is far too careful would never come near
    assert binomtest(above, 1000, alpha / 4, alternative="less").pvalue > 1e-3 and radii.median() > 0.4 * true


def test_the_lower_end_is_that_of_clopper_and_pearson_and_the_least_count_the_first_above_a_half():
    for n, alpha in ((10, 0.001), (11, 0.2), (300, 0.001), (1000, 0.05)):
        ends = [lower(votes, n, alpha) for votes in range(n + 1)]
        for votes in {0, 1, n // 3, n - 1, n}:
            exact = binomtest(votes, n).proportion_ci(1 - 2 * alpha, "exact").low
            assert ends[votes] == pytest.approx(exact, abs=1e-12)
        assert least(n, alpha) == next((votes for votes, end in enumerate(ends) if end > 0.5), n + 1)
        assert radius(least(n, alpha) - 1, n, alpha, 1.0) == 0.0 < radius(n, n, alpha, 1.0)


def test_ending_early_changes_no_radius(whole):
    """Every image counted to the end, from the same noise."""
    x, y = points()
    method = Sampled(smoothed(), n0=20, n=300, together=64)
    batches = whole.record.batches.values()
    draws = torch.tensor([draws for batch in batches for draws in batch.draws])
    votes = [int(sum(method._votes(image, 300, index, COUNT))[label]) for index, (image, label) in enumerate(zip(x, y))]
    full = torch.tensor([radius(count, 300, 0.001, 0.3) for count in votes], dtype=torch.float64)
    right = whole.predictions == y
    assert torch.equal(whole.radius, torch.where(right, full, 0.0))
    assert (draws[~right] == 0).all() and (draws[whole.radius > 0] == 300).all()
    assert (draws[whole.abstained] < 300).any() and whole.abstained.any() and (~right).any()
    cost = sum(batch.evaluations for batch in batches)
    assert cost == 3 * (24 * 20 + int(draws.sum()))


def test_no_radius_depends_on_the_batch_or_its_order(whole, tmp_path):
    rows = ("radius", "predictions", "labels")
    for size in (1, 24):
        other = found(tmp_path / str(size), batch_size=size)
        assert all(torch.equal(getattr(other, name), getattr(whole, name)) for name in rows)
    x, y = points()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = Sampled(smoothed(), n0=20, n=300, together=64).rows(x[order], y[order], order)
    assert [one.radius for one in shuffled] == whole.radius[order].tolist()
    assert not torch.equal(found(seed=1).radius, whole.radius)


def test_two_processes_leave_the_record_of_one(whole, tmp_path):
    launch_function(shared, tmp_path)
    assert timeless(Certificate.read(tmp_path)) == timeless(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["certificate.json"]


def test_a_process_that_was_killed_twice_goes_on_to_the_same_record(whole, tmp_path):
    draw, file = random.Random(0), tmp_path / "certificate.json"
    for _ in range(2):
        process = FORK.Process(target=shared, args=(tmp_path,))
        process.start()
        deadline = time.monotonic() + 60
        while not file.exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(json.loads(file.read_text())["batches"]) < 8
    with pytest.raises(ValueError, match="is unfinished"):
        Certificate.read(tmp_path)
    assert timeless(found(tmp_path)) == timeless(whole) == timeless(Certificate.read(tmp_path))


def test_a_finished_batch_is_not_repeated_and_another_certification_is_refused(tmp_path):
    found(tmp_path)
    seen = smoothed()
    rd.certify(seen, *points(), n0=20, n=300, together=64, batch_size=3, out=tmp_path)
    assert seen.model.tally.evaluations == 3 * (100 + 1 + 3)  # the first, smoothed and bare, and three bare tell it
    for other in ({"n": 301}, {"alpha": 0.01}, {"seed": 1}, {"together": 65}):
        with pytest.raises(ValueError, match=f"belongs to another .*{next(iter(other))}"):
            found(tmp_path, **other)
    with pytest.raises(ValueError, match=r"another .*method\.sigma"):
        rd.certify(smoothed(0.4), *points(), n0=20, n=300, together=64, batch_size=3, out=tmp_path)


class Bounded(Linear):
    """A linear classifier, whose slopes are known."""

    def slopes(self):
        return torch.cdist(self.weight.detach().double(), self.weight.detach().double())


def test_with_a_bound_the_radius_is_the_distance_to_the_nearest_boundary():
    model, x = Bounded(Linear.random(4).weight.detach()), images(9)
    y = model(x).argmax(1)
    y[3] = (y[3] + 1) % 4
    certificate = rd.certify(model, x, y)
    for row, label in enumerate(y.tolist()):
        w, rest = model.weight.detach().double(), [k for k in range(4) if k != label]
        gaps = [((w[label] - w[k]) @ x[row].flatten().double()) / (w[label] - w[k]).norm() for k in rest]
        assert float(certificate.radius[row]) == pytest.approx(max(0.0, float(min(gaps))), rel=1e-6)
        assert certificate.radius[row] <= max(0.0, float(min(gaps))) * (INWARD + 1e-12)
    assert certificate.radius[3] == 0 and not certificate.abstained.any()


def test_the_table_tells_what_was_counted(whole, tmp_path):
    shares = whole.shares((0.0, 0.1))
    assert [share.count for share in shares.values()] == [int((whole.radius > r).sum()) for r in (0.0, 0.1)]
    text = whole.table((0.0, 0.1))
    assert f"| 0.1 | {shares[0.1].percent:.1f} |" in text and "not clipped after the noise" in text
    assert f"abstained {int(whole.abstained.sum())}, wrong {int((whole.predictions != whole.labels).sum())}" in text
    json.dumps(whole.to_dict(), allow_nan=False)


X, Y = images(2), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: rd.certify(smoothed(), X, Y, n=5), "n=5 with alpha=0.001, .* allowed: n >= 10"),
        (lambda: rd.certify(smoothed(), X, Y, alpha=1.0), "alpha=1.0; allowed"),
        (lambda: rd.certify(smoothed(), X, Y, n0=0), "n0=0; allowed"),
        (lambda: rd.certify(smoothed(), X, Y, norm="Linf"), "'Linf'.*allowed: L2"),
        (lambda: rd.certify(own(), X, Y), "a DEQClassifier, which knows no bound of its slope; allowed: Smoothing"),
        (lambda: rd.certify(rd.EntropyReduction(every=2)(nano()), X, Y), "which knows no bound"),
        (lambda: rd.certify(smoothed(), X + 1, Y), "images lie in"),
        (lambda: rd.certify(smoothed(), X, Y + 7), "labels lie in"),
        (lambda: rd.certify(smoothed(), X), "^certify: .*no labels"),
        (lambda: rd.certify(smoothed(), X[:0], Y[:0]), "^certify: no images"),
        (lambda: rd.certify(smoothed(), X, Y, distributed=Distributed(0, 2)), "^certify: 2 processes without out"),
        (lambda: rd.certify(smoothed(), X, Y, out=3), "out=3"),
        (lambda: rd.certify(smoothed(), X, Y, batch_size=0), "batch_size=0"),
        (lambda: rd.Certificate.read("no/such"), "holds no certificate.json"),
        (lambda: found().certified(-0.1), "radius=-0.1"),
    ],
)
def test_bad_input_is_one_line(call, told):
    with pytest.raises(ValueError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
