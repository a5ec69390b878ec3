"""The multiscale cell: it is that of the papers, and it splits at the injection."""

import mdeq_reference as reference
import pytest
import torch

from robustdeq.models import create_model, to_official
from robustdeq.models.mdeq import MDEQConfig

TINY = dict(
    image_shape=(3, 16, 16), channels=(8, 16, 24, 32), head_channels=(2, 3, 4, 5), features=12, stem_stride=1,
    expansion=3, solver="picard", steps=5,
)  # fmt: skip


@pytest.fixture
def tiny():
    """Four scales of unequal width in float64, every weight random, and the same weights under the papers' keys."""
    model = reference.randomise(create_model("mdeq-large", 7, seed=0, **TINY).double().eval())
    return model, to_official(model)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_injection_is_the_specification(tiny):
    model, weights = tiny
    x = images(3, 3, 16, 16)
    close(model.inject(x), reference.injection(weights, x))


def test_cell_is_the_specification(tiny):
    model, weights = tiny
    z, u = draw(3, model.layout.size), draw(3, 8, 16, 16, seed=1)
    close(model.cell(z, u), model.pack(reference.cell(weights, model.unpack(z), u)))


def test_cell_with_dropout_is_the_specification(tiny):
    model, weights = tiny
    z, u = draw(3, model.layout.size), draw(3, 8, 16, 16, seed=1)
    model.cell.train()
    constants = model.cell.constants(z)
    masks = constants[3::4]
    close(model.cell(z, u, constants), model.pack(reference.cell(weights, model.unpack(z), u, masks)))


def test_readout_is_the_specification(tiny):
    model, weights = tiny
    z = draw(3, model.layout.size)
    close(model.readout(z), reference.readout(weights, model.unpack(z)))


def test_with_silu_it_is_the_same_model_with_silu_for_relu_everywhere(tiny):
    relu, _ = tiny
    silu = create_model("mdeq-large", 7, seed=0, activation="silu", **TINY).double().eval()
    silu.load_state_dict(relu.state_dict())
    x = images(2, 3, 16, 16)
    assert (silu(x) - relu(x)).abs().max() > 1e-3
    assert not [module for module in silu.modules() if isinstance(module, torch.nn.ReLU)]
    for module in list(silu.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.SiLU):
                setattr(module, name, torch.nn.ReLU())
    assert torch.equal(silu(x), relu(x))


def test_logits_are_the_readout_of_n_applications(tiny):
    model, weights = tiny
    x = images(2, 3, 16, 16)
    z = model.unpack(model.zeros(x))
    for _ in range(model.steps):
        z = reference.cell(weights, z, reference.injection(weights, x))
    close(model(x), reference.readout(weights, z))


@pytest.mark.parametrize(
    ("preset", "count"),
    [("mdeq-nano", 87_066), ("mdeq-small", 402_170), ("mdeq-large", 11_097_438), ("mdeq-xl", 48_792_098)],
)
def test_parameter_count(preset, count):
    """mdeq-large as in the papers; the others recorded as built."""
    with torch.device("meta"):
        model = create_model(preset)
    assert sum(p.numel() for p in model.parameters()) == count


def test_state_of_mdeq_large_has_61440_numbers():
    shapes = MDEQConfig().state_shapes
    assert shapes == [(32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]
    assert sum(c * h * w for c, h, w in shapes) == 61_440


def test_weight_normalisation_happens_once_a_forward(monkeypatch):
    calls = []
    original = torch._weight_norm
    monkeypatch.setattr(torch, "_weight_norm", lambda *args: calls.append(1) or original(*args))
    model = create_model("mdeq-nano", seed=0).eval()
    x = images(2, 1, 8, 8, dtype=torch.float32)
    for steps in (1, 8):
        calls.clear()
        model(x, steps=steps)
        assert len(calls) == 3 * len(model.layout.shapes)


def test_dropout_mask_is_one_for_all_steps_of_a_forward(monkeypatch):
    model = create_model("mdeq-nano", seed=0, dropout=0.5).train()
    seen = []
    original = model.cell.prepare
    monkeypatch.setattr(model.cell, "prepare", lambda z, constants: seen.append(constants) or original(z, constants))
    x = images(8, 1, 8, 8, dtype=torch.float32)
    model(x, steps=4)
    model(x, steps=4)
    first, second = seen[:4], seen[4:]
    assert all(constants is first[0] for constants in first)
    assert all(constants is second[0] for constants in second)
    assert not torch.equal(first[0][3], second[0][3])


def test_dropout_drops_whole_channels_of_single_samples_at_its_rate():
    model = create_model("mdeq-nano", seed=0, dropout=0.22).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mask = model.cell.constants(torch.zeros(4000, model.layout.size))[3]
    assert mask.shape == (4000, 16, 1, 1)
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.78])
    assert (mask == 0).float().mean().item() == pytest.approx(0.22, abs=0.01)
    assert not torch.equal(mask[0], mask[1])


def test_no_mask_without_training_or_without_dropout():
    z = torch.zeros(2, create_model("mdeq-nano").layout.size)
    assert create_model("mdeq-nano", dropout=0.5).eval().cell.constants(z)[3::4] == (None, None)
    assert create_model("mdeq-nano", dropout=0.0).train().cell.constants(z)[3::4] == (None, None)


def test_pack_and_unpack_are_inverse():
    model = create_model("mdeq-nano", seed=0)
    z = draw(3, model.layout.size)
    parts = model.unpack(z)
    assert [tuple(part.shape) for part in parts] == [(3, 16, 4, 4), (3, 32, 2, 2)]
    assert torch.equal(model.pack(parts), z)
    assert parts[0].data_ptr() == z.data_ptr()  # views, finest first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", (12, 32)), ("channels", (8,)), ("channels", 8), ("channels", "88"), ("channels", ()),
        ("channels", (8, 16.0)), ("head_channels", (0, 4)), ("head_channels", (4, 4, 4)),
        ("image_shape", (1, 9, 8)), ("image_shape", (8, 8)), ("image_shape", (0, 8, 8)),
        ("dropout", 1.0), ("dropout", -0.1), ("dropout", "0.2"), ("num_classes", 0), ("num_classes", "ten"),
        ("features", 0), ("stem_stride", 0), ("expansion", 2.5), ("steps", 0), ("gradient", "exact"),
        ("solver", "newton"), ("solver", {"name": "picard", "dampng": 0.5}),
        ("solver", {"name": "picard", "damping": 0}),
    ],
)  # fmt: skip
def test_bad_field_is_refused_by_name(field, value):
    wrong = "Picard: .*damping" if isinstance(value, dict) else field
    with pytest.raises(ValueError, match=rf"{wrong}.*allowed"):
        create_model("mdeq-nano", **{field: value})
