"""MART is the paper's loss, also where a probability has rounded to 0 or 1, and its attack climbs cross-entropy."""

import pytest
import torch
from torch import nn

from robustdeq.attacks import PGD, Linf
from robustdeq.training import MART, PGDAT

Y = torch.tensor([0, 2, 1, 3])


class Table(nn.Module):
    """The logits that were written down, of images that are row numbers."""

    def __init__(self, *rows):
        super().__init__()
        self.rows = nn.Parameter(torch.stack(rows))

    def forward(self, x):
        return self.rows[int(x[0, 0, 0, 0])]


def images(row):
    return torch.full((4, 1, 1, 1), float(row))


def test_mart_is_the_papers_loss():
    rng = torch.Generator().manual_seed(0)
    clean, attacked = torch.randn(2, 4, 5, generator=rng, dtype=torch.float64)
    found = MART(weight=3.0).losses(Table(clean, attacked), images(0), images(1), Y)
    p, q = clean.softmax(1), attacked.softmax(1)
    total = 0.0
    for i, y in enumerate(Y.tolist()):
        other = max(float(q[i, k]) for k in range(5) if k != y)
        boosted = -q[i, y].log() - torch.tensor(1 - other).log()
        total += boosted + 3.0 * (p[i] * (p[i] / q[i]).log()).sum() * (1 - p[i, y])
    torch.testing.assert_close(found.total, total / 4)
    assert torch.equal(found.correct_adv, attacked.argmax(1) == Y)


@pytest.mark.parametrize("margin", [80.0, -80.0], ids=["sure and right", "sure and wrong"])
def test_mart_of_a_sure_prediction_is_finite_in_float32(margin):
    """-log p_y and -log(1 - p_other) are both 0 at a margin of 80, and both 80 at one of -80."""
    logits = torch.zeros(4, 2)
    logits[torch.arange(4), Y % 2] = margin
    table = Table(logits)
    total = MART().losses(table, images(0), images(0), Y % 2).total
    torch.testing.assert_close(total, torch.tensor(max(0.0, -2 * margin)))
    total.backward()
    assert table.rows.grad.isfinite().all()


def test_the_attack_of_mart_climbs_cross_entropy():
    wanted = PGD(Linf(0.1), 0.02, 5, seed=7, keep="last")
    assert MART().attack(Linf(0.1), 5, 0.02, 7) == PGDAT().attack(Linf(0.1), 5, 0.02, 7) == wanted
