"""The deep baselines: their size, their place among the models, and that they are what their papers say."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustdeq.models import PreActResNet, create_model, load_model, save_model

SMALL = dict(image_shape=(3, 8, 8), stem=4, channels=(4, 8), units=2)


def small(**options):
    return create_model("resnet18", 5, seed=0, **{**SMALL, **options})


def images(count=3):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "classes", "count"), [("resnet18", 10, 11_172_170), ("wrn34-10", 10, 46_160_474)])
def test_parameter_count(name, classes, count):
    with torch.device("meta"):
        model = create_model(name, classes)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("name", "depth", "shape"), [("resnet18", 18, (512, 4, 4)), ("wrn34-10", 34, (640, 8, 8))])
def test_depth_and_final_resolution(name, depth, shape):
    """Depth counts 3x3 convolutions, the classifier and, in the wide network, its three 1x1 shortcuts (paper's n)."""
    with torch.device("meta"):
        model = create_model(name)
        features = model.units(model.stem(torch.zeros(2, 3, 32, 32)))
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert features.shape == (2, *shape)
    threes = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules())
    ones = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in model.modules())
    assert ones == 3
    assert depth == (threes + 1 if name == "resnet18" else threes + ones)


def test_forward_is_the_papers():
    """Written out: the first unit and each that changes the shape activate before the paths part."""
    model = small().double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) + 0.5)
    weights = model.state_dict()

    def activated(h, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(h, *(weights[f"{name}.{key}"] for key in keys)).relu()

    def convolved(h, name, stride=1):
        weight = weights[f"{name}.weight"]
        return F.conv2d(h, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = images().double()
    h = convolved(x, "stem")
    for unit, (stride, early) in enumerate([(1, True), (1, False), (2, True), (1, False)]):
        a = activated(h, f"units.{unit}.bn1")
        kept = a if early else h
        kept = convolved(kept, f"units.{unit}.shortcut", stride) if unit == 2 else kept
        middle = activated(convolved(a, f"units.{unit}.conv1", stride), f"units.{unit}.bn2")
        h = kept + convolved(middle, f"units.{unit}.conv2")
    pooled = activated(h, "norm").mean(dim=(2, 3))
    torch.testing.assert_close(model(x), pooled @ weights["classifier.weight"].T + weights["classifier.bias"])


def test_trains_and_has_a_gradient_in_eval_mode():
    model = small()
    x, y = images(6), torch.arange(6) % 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    at = x.requires_grad_()
    assert torch.autograd.grad(model(at)[:, 0].sum(), at)[0].abs().sum() > 0


def test_save_load_and_pretrained_round_trip(tmp_path):
    model = small()
    model(images())  # batch statistics that are not the initial ones
    model.eval()
    save_model(model, tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    for back in (load_model(tmp_path / "a"), PreActResNet.from_pretrained(tmp_path / "b")):
        assert isinstance(back, PreActResNet) and not back.training and back.config == model.config
        assert torch.equal(back(images()), model(images()))


@pytest.mark.parametrize(
    ("field", "value"),
    [("channels", ()), ("channels", (8, 0)), ("channels", 8), ("units", 0), ("stem", -1), ("image_shape", (32, 32))],
)
def test_bad_field_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"(resnet|ResNetConfig): {field}.*allowed"):
        small(**{field: value})


def test_a_deq_option_is_refused():
    with pytest.raises(ValueError, match="unknown option 'solver'; allowed: image_shape"):
        small(solver="broyden")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (torch.full((1, 3, 8, 8), 2.0), r"allowed: \[0, 1\]"),
        (torch.zeros(1, 3, 9, 8), r"allowed: \(batch, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.float64), "allowed: torch.float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "allowed: a floating-point tensor"),
    ],
)
def test_bad_images_are_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        small()(bad)
