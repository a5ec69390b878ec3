"""What an attack maximises, against the closed form of each loss and against the reference implementation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

from robustdeq.attacks import LOSSES, predictions
from robustdeq.attacks.losses import Goal

B = 32


def logits_of(classes, seed=0, scale=3.0):
    return scale * torch.randn(B, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(classes, seed=0):
    return torch.randint(classes, (B,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [3, 10])
def test_dlr_is_the_reference_s(classes):
    logits, y = logits_of(classes), labels_of(classes)
    wanted = APGDAttack(None, eps=0.1).dlr_loss(logits, y)
    torch.testing.assert_close(LOSSES["dlr"](logits, Goal(y)), wanted)


@pytest.mark.parametrize("classes", [4, 10])
def test_targeted_dlr_is_the_reference_s(classes):
    logits, y = logits_of(classes), labels_of(classes)
    reference = APGDAttack_targeted(None, eps=0.1)
    reference.y_target = (y + 1) % classes
    found = LOSSES["dlr-targeted"](logits, Goal(y, target=reference.y_target))
    torch.testing.assert_close(found, reference.dlr_loss_targeted(logits, y))


def test_cross_entropies_and_kl_are_their_definitions():
    logits, clean, y, target = logits_of(5), logits_of(5, seed=1), labels_of(5), labels_of(5, seed=1)
    p, q = logits.softmax(1), clean.softmax(1)
    rows = torch.arange(B)
    goal = Goal(y, target, clean.log_softmax(1))
    torch.testing.assert_close(LOSSES["ce"](logits, goal), -p[rows, y].log())
    torch.testing.assert_close(LOSSES["ce-targeted"](logits, goal), p[rows, target].log())
    torch.testing.assert_close(LOSSES["cw-targeted"](logits, goal), logits[rows, target] - logits[rows, y])
    torch.testing.assert_close(LOSSES["kl"](logits, goal), (q * (q.log() - p.log())).sum(1))


@pytest.mark.parametrize("classes", [2, 5])
def test_margins_are_their_definitions(classes):
    """The largest of another class less that of the label: of the logits, of the probabilities."""
    logits, y = logits_of(classes), labels_of(classes)
    for name, values in (("cw", logits), ("pm", logits.softmax(1))):
        others = [max(v for k, v in enumerate(row) if k != label) for row, label in zip(values.tolist(), y.tolist())]
        found = LOSSES[name](logits, Goal(y))
        torch.testing.assert_close(found, torch.tensor(others, dtype=torch.float64) - values[torch.arange(B), y])
        assert torch.equal(found > 0, logits.argmax(1) != y)


def test_the_margin_of_probabilities_is_bounded_and_has_the_gradient_of_its_closed_form():
    """d (p_j - p_y) / dz = p_j (e_j - p) - p_y (e_y - p), of the nearest class j."""
    logits, y = logits_of(5).requires_grad_(), labels_of(5)
    found = LOSSES["pm"](logits, Goal(y))
    assert (found.abs() <= 1).all()
    p, rows, unit = logits.detach().softmax(1), torch.arange(B), torch.eye(5, dtype=torch.float64)
    j = p.scatter(1, y[:, None], -1).argmax(1)
    wanted = p[rows, j, None] * (unit[j] - p) - p[rows, y, None] * (unit[y] - p)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), logits)[0], wanted)


@given(classes=st.integers(2, 8), seed=st.integers(0, 999), shift=st.floats(-9, 9), scale=st.floats(0.1, 9))
@settings(max_examples=50, deadline=None)
def test_dlr_is_positive_where_the_prediction_is_wrong_and_blind_to_shift_and_scale(classes, seed, shift, scale):
    logits, y = logits_of(classes, seed), labels_of(classes, seed)
    found = LOSSES["dlr"](logits, Goal(y))
    assert torch.equal(found > 0, logits.argmax(1) != y)
    other = LOSSES["dlr"](logits * (scale if classes > 2 else 1) + shift, Goal(y))
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["ce", "dlr", "kl", "pm", "cw"])
def test_losses_of_equal_logits_have_a_finite_gradient(name):
    logits = torch.zeros(2, 3, requires_grad=True)
    goal = Goal(torch.tensor([0, 1]), clean=torch.zeros(2, 3).log_softmax(1))
    assert torch.autograd.grad(LOSSES[name](logits, goal).sum(), logits)[0].isfinite().all()


def test_a_goal_keeps_the_rows_it_is_asked_for():
    goal = Goal(torch.arange(4), torch.arange(4) + 1, torch.arange(8.0).view(4, 2))
    kept = goal.rows(torch.tensor([True, False, False, True]))
    assert (kept.y.tolist(), kept.target.tolist(), kept.clean.tolist()) == ([0, 3], [1, 4], [[0, 1], [6, 7]])
    assert goal.rows(torch.tensor([2])).y.tolist() == [2]
    assert Goal(torch.arange(4)).rows(torch.tensor([2])).target is None


def test_a_logit_that_is_not_finite_is_nobody_s_prediction():
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[0.0, 1.0], [nan, 1.0], [inf, 0.0], [0.0, -inf], [2.0, 1.0]])
    assert predictions(logits).tolist() == [1, -1, -1, -1, 0]
