"""What an attack gives back is inside its ball, on large images and whatever the precision; else it would not count."""

import pytest
import torch
from small_models import images
from torch import nn

import robustdeq as rd
from robustdeq.attacks import APGD, L2, PGD, AutoAttack, Linf


class Pooled(nn.Module):
    """logits = W mean(x), of images of any size."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return 50 * self.linear(x.mean((2, 3)))


def far(side, count=4):
    return 0.4 + 0.2 * images(count, shape=(3, side, side))


@pytest.mark.parametrize("side", [224, 512])
def test_a_projection_under_l2_ends_inside_the_ball(side):
    x = far(side)
    moved = L2(1.0).project(x, x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert L2(1.0).contains(x, moved).all() and (L2(1.0).distance(x, moved) > 0.999).all()


@pytest.mark.parametrize("attack", [PGD(L2(1.0), 0.25, 5), APGD(L2(1.0), 5),
                                    AutoAttack(L2(1.0), attacks=["apgd-ce"], iterations=5)])  # fmt: skip
def test_no_image_of_an_attack_under_l2_is_thrown_away(attack):
    torch.manual_seed(0)
    model, x = Pooled().eval(), far(384, 2)
    y = model(x).argmax(1).detach()
    entry = rd.evaluation.Entry("one", "A", attack)
    batch = rd.evaluate(model, x, y, suite=[entry], checks=0).record.attacks["one"].batches[0]
    assert batch.rejected == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_in_half_precision_are_refused(dtype):
    model, x, y = Pooled().eval().to(dtype), far(8).to(dtype), torch.arange(4)
    calls = [
        lambda: PGD(Linf(0.1), 0.05, 2)(model, x, y),
        lambda: rd.evaluate(model, x, y, suite="quick", threat=Linf(0.1), steps=2, checks=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"images are {dtype}; allowed: torch.float32 or torch.float64"):
            call()
