"""ROC, AUC and its interval against definitions and other implementations; an attack that knows the detector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from small_models import images_for, own

import robustdeq as rd
from robustdeq.analysis import Evading, association, detector, entropy_along
from robustdeq.attacks import PGD

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=12).map(lambda values: torch.tensor(values).double() / 8)


@settings(max_examples=60, deadline=None)
@given(clean=SCORES, attacked=SCORES)
def test_the_auc_is_the_probability_of_the_right_order(clean, attacked):
    found = detector(clean, attacked)
    order = (attacked[:, None] > clean).double() + 0.5 * (attacked[:, None] == clean).double()
    assert found.auc == pytest.approx(float(order.mean()))
    assert found.auc == pytest.approx(float(torch.trapezoid(found.hits, found.false_alarms)))
    assert found.interval[0] <= found.auc <= found.interval[1]
    labels = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
    assert found.auc == pytest.approx(roc_auc_score(labels, torch.cat([clean, attacked]).numpy()))
    false_alarms, hits, _ = roc_curve(labels, torch.cat([clean, attacked]).numpy(), drop_intermediate=False)
    assert found.false_alarms.tolist() == pytest.approx(list(false_alarms))
    assert found.hits.tolist() == pytest.approx(list(hits))
    for t, hit, false_alarm in found.frame()[["threshold", "hits", "false_alarms"]].itertuples(index=False):
        assert hit == (attacked >= t).double().mean() and false_alarm == (clean >= t).double().mean()


def test_the_interval_is_delongs():
    """Var = S10 / m + S01 / n of the placement values (DeLong et al. 1988, eq. 5), all pairs written out."""
    generator = torch.Generator().manual_seed(0)
    clean, attacked = torch.randn(30, generator=generator), 1 + torch.randn(30, generator=generator)
    order = (attacked[:, None] > clean).double()
    variance = order.mean(1).var() / 30 + order.mean(0).var() / 30
    low, high = detector(clean, attacked).interval
    assert high - low == pytest.approx(2 * 1.959964 * float(variance) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_interval_holds_the_truth_as_often_as_it_says(correlation):
    """Normal scores of images and of what was made of them; the true AUC is Phi(1 / sqrt 2)."""
    generator, truth, runs, inside = torch.Generator().manual_seed(1), 0.7602499, 200, {"pairs": 0, "alone": 0}
    for _ in range(runs):
        clean, own_part = torch.randn(2, 60, generator=generator)
        attacked = 1 + correlation * clean + (1 - correlation**2) ** 0.5 * own_part
        for name, pairs in (("pairs", torch.arange(60)), ("alone", None)):
            low, high = detector(clean, attacked, pairs=pairs).interval
            inside[name] += low <= truth <= high
    assert 0.90 <= inside["pairs"] / runs <= 0.985
    assert correlation == 0 or inside["alone"] > inside["pairs"]  # without pairs it is wider than it need be


def test_a_perfect_order_is_not_certain():
    found = detector(torch.arange(20.0), torch.arange(20.0, 30.0))
    assert found.auc == 1 and found.interval == (pytest.approx(0.025 ** (1 / 10)), 1.0) and found.hits_at(0.0) == 1
    assert detector(torch.arange(5.0, 10.0), torch.arange(5.0)).interval == (0.0, pytest.approx(1 - 0.025**0.2))
    nobody = detector(torch.arange(5.0), torch.empty(0))
    assert np.isnan(nobody.auc) and nobody.interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("clean", "attacked", "pairs"),
    [
        (torch.zeros(2, 2), torch.zeros(2), None), ([0.1], torch.zeros(2), None),
        (torch.zeros(2), torch.tensor([float("nan")]), None), (torch.zeros(2), torch.zeros(2), torch.tensor([0, 2])),
        (torch.zeros(2), torch.zeros(2), torch.tensor([0])),
    ],
)  # fmt: skip
def test_what_are_no_scores_is_refused(clean, attacked, pairs):
    with pytest.raises(ValueError, match=r"detector: .*; allowed: "):
        detector(clean, attacked, pairs=pairs)


def test_where_nothing_was_attacked_there_is_nothing_to_find():
    roc = detector(torch.rand(5), torch.zeros(0))
    assert roc.auc != roc.auc and (hits := roc.hits_at(0.05)) != hits


def test_a_number_that_decides_goes_with_being_right_and_one_that_does_not_does_not():
    right = torch.arange(200) % 3 > 0
    found = association(torch.where(right, 0.1, 0.9) + torch.arange(200) * 1e-5, right)
    assert found.rho < -0.8 and found.wrong.auc == 1
    noise = association(torch.rand(200, generator=torch.Generator().manual_seed(0)), right)
    assert abs(noise.rho) < 0.2 and noise.wrong.interval[0] < 0.5 < noise.wrong.interval[1]
    assert np.isnan(association(torch.rand(5), torch.ones(5, dtype=torch.bool)).rho)


@pytest.fixture(scope="module")
def attacked():
    model, threat = own(4, sharpness=8.0, steps=3), rd.Linf(0.3)
    x = images_for(model, 24)
    y = model(x).argmax(1)
    images = {"pgd": PGD(threat, 0.075, 10, keep="highest")(model, x, y)}
    images["evading"] = Evading(threat, 0.075, 10)(model, x, y)
    return model, threat, x, y, images


def test_an_attack_that_knows_the_detector_is_calmer_and_still_misclassified(attacked):
    model, threat, x, y, images = attacked
    fallen = {name: model(of).argmax(1) != y for name, of in images.items()}
    assert fallen["pgd"].sum() >= 6 and (fallen["evading"] | ~fallen["pgd"]).all()  # none is lost
    assert threat.contains(x, images["evading"]).all()
    both = fallen["pgd"]
    before, after = (entropy_along(model, images[name])[-1][both] for name in ("pgd", "evading"))
    assert (after <= before + 1e-6).all() and after.mean() < 0.95 * before.mean()
    scores = entropy_along(model, x)[-1]
    assert detector(scores, after).auc < detector(scores, before).auc


def test_the_evading_attack_gives_a_sample_the_same_image_in_any_batch(attacked):
    model, threat, x, y, _ = attacked
    rows = torch.tensor([3, 17])
    alone = Evading(threat, 0.075, 10)(model, x[rows], y[rows], indices=rows)
    whole = Evading(threat, 0.075, 10)(model, x, y, indices=torch.arange(24))
    torch.testing.assert_close(alone, whole[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"steps": 0}, {"weight": -1}, {"targets": 0}, {"weihgt": 1}, {"order": "next"}])
def test_options_that_cannot_be_meant(options):
    with pytest.raises(ValueError, match="allowed: "):
        Evading(rd.Linf(0.1), **options)
    with pytest.raises(ValueError, match="allowed: Linf"):
        Evading(0.1)
