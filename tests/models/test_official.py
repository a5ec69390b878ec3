"""The papers' checkpoints: their keys as the papers have them, read strictly."""

import mdeq_reference as reference
import pytest
import torch

from robustdeq.models import create_model, load_model, load_official, save_model, to_official

SIZES = dict(channels=(8, 16, 24), head_channels=(2, 3, 5), features=12, stem_stride=1, expansion=3)
X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    made = create_model("mdeq-large", 7, seed=0, image_shape=(3, 16, 16), solver="picard", steps=3, **SIZES)
    return reference.randomise(made).eval()


@pytest.fixture
def state(model):
    return {key: tensor.clone() for key, tensor in to_official(model).items()}


def load(source, **options):
    return load_official(source, **{"solver": "picard", "steps": 3, "image_size": (16, 16), **options})


def refusal(source):
    with pytest.raises(ValueError) as caught:
        load(source)
    message = str(caught.value)
    assert message.count("\n") <= 1
    return message


def test_keys_are_the_papers():
    """The papers' keys written out for two scales."""
    made = create_model("mdeq-large", image_shape=(3, 8, 8), channels=(8, 16), head_channels=(2, 3), features=4)
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    plain = norm[2:]
    wanted = {f"downsample.{i}.weight" for i in (0, 3)} | {f"downsample.{i}.{k}" for i in (1, 4) for k in norm}
    wanted |= {"stage0.0.weight"} | {f"stage0.1.{k}" for k in norm}
    for i in (0, 1):
        block = f"fullstage.branches.{i}.blocks.0"
        wanted |= {f"{block}.{c}.weight_{k}" for c in ("conv1", "conv2") for k in "gv"}
        wanted |= {f"{block}.gn{n}.{k}" for n in (1, 2, 3) for k in ("weight", "bias")}
        wanted |= {f"fullstage.post_fuse_layers.{i}.conv.weight_{k}" for k in "gv"}
        wanted |= {f"incre_modules.{i}.0.conv{n}.weight" for n in (1, 2, 3)}
        wanted |= {f"incre_modules.{i}.0.bn{n}.{k}" for n in (1, 2, 3) for k in plain}
        wanted |= {f"incre_modules.{i}.0.downsample.0.weight"} | {f"incre_modules.{i}.0.downsample.1.{k}" for k in norm}
    wanted |= {f"fullstage.fuse_layers.0.1.net.{k}" for k in ("conv.weight", "gnorm.weight", "gnorm.bias")}
    wanted |= {f"fullstage.fuse_layers.1.0.net.0.{k}" for k in ("conv.weight", "gnorm.weight", "gnorm.bias")}
    for module in ("downsamp_modules.0", "final_layer"):
        wanted |= {f"{module}.0.weight", f"{module}.0.bias"} | {f"{module}.1.{k}" for k in norm}
    wanted |= {"classifier.weight", "classifier.bias"}
    assert set(to_official(made)) == wanted


def test_stages_of_a_long_way_down_are_numbered(state):
    assert state["fullstage.fuse_layers.2.0.net.0.conv.weight"].shape == (8, 8, 3, 3)
    assert state["fullstage.fuse_layers.2.0.net.1.conv.weight"].shape == (24, 8, 3, 3)
    assert state["fullstage.fuse_layers.2.0.net.1.gnorm.weight"].shape == (24,)
    assert state["fullstage.fuse_layers.0.2.net.conv.weight"].shape == (8, 24, 1, 1)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("as_file", [False, True])
def test_round_trip_has_equal_bits(model, state, nested, prefix, as_file, tmp_path):
    content = {prefix + key: tensor for key, tensor in state.items()}
    if nested:
        content = {"epoch": 219, "best": 0.7, "state_dict": content, "optimizer": {"lr": 1e-3}}
    if as_file:
        torch.save(content, tmp_path / "checkpoint.pth")
        content = tmp_path / "checkpoint.pth"
    before = torch.random.get_rng_state()
    back = load(content)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not back.training
    assert torch.equal(back(X), model(X))
    assert all(torch.equal(a, b) for a, b in zip(to_official(back).values(), state.values()))


def test_sizes_are_read_off_the_shapes(state):
    config = load(state).config
    assert {key: config[key] for key in SIZES} == {**SIZES, "channels": [8, 16, 24], "head_channels": [2, 3, 5]}
    assert (config["model"], config["num_classes"], config["image_shape"]) == ("mdeq-large", 7, [3, 16, 16])


@pytest.mark.parametrize("name", ["mdeq-large", "mdeq-xl"])
def test_the_papers_sizes_find_their_preset(name):
    with torch.device("meta"):
        state = to_official(create_model(name))
        back = load_official(state)
    assert back.config["model"] == name
    assert back.config == create_model_config(name)


def create_model_config(name):
    with torch.device("meta"):
        return create_model(name, solver="broyden").config


def test_options_are_the_model_s_and_it_can_be_saved(state, tmp_path):
    back = load(state, solver={"name": "anderson", "memory": 2}, steps=4, gradient="phantom")
    assert (back.solver.memory, back.steps, back.gradient.name) == (2, 4, "phantom")
    again = load_model(save_model(back, tmp_path))
    assert again.config == back.config
    assert torch.equal(again(X), back(X))


def test_loading_does_not_tie_the_model_to_the_source(state):
    back = load(state)
    state["classifier.bias"].add_(1)
    assert not torch.equal(back.readout.classifier.bias, state["classifier.bias"])


def test_the_count_of_batches_may_be_absent(model, state):
    older = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert len(older) < len(state)
    assert torch.equal(load(older)(X), model(X))


def test_every_kind_of_wrong_key_is_listed_in_one_message(state):
    del state["stage0.0.weight"], state["fullstage.branches.1.blocks.0.gn2.bias"]
    state["fullstage_copy.x"] = torch.zeros(1)
    state["final_layer.1.bias"] = torch.zeros(13)
    state["classifier.weight"] = torch.zeros(7, 11)
    message = refusal(state)
    assert "2 missing: fullstage.branches.1.blocks.0.gn2.bias, stage0.0.weight" in message
    assert "1 unexpected: fullstage_copy.x" in message
    assert "2 misshapen: classifier.weight (7, 11) instead of (7, 12), final_layer.1.bias (13,)" in message


def test_any_single_missing_key_is_named(state):
    for key in list(state)[::6]:
        if not key.endswith("num_batches_tracked"):
            message = refusal({k: v for k, v in state.items() if k != key})
            assert message == f"the state dict does not fit this model; 1 missing: {key}."


@pytest.mark.parametrize(
    "key",
    [
        "downsample.0.weight", "fullstage.branches.0.blocks.0.gn2.weight", "fullstage.branches.0.blocks.0.gn1.bias",
        "fullstage.branches.2.blocks.0.conv1.weight_v", "fullstage.fuse_layers.2.0.net.1.conv.weight",
        "incre_modules.1.0.conv1.weight", "downsamp_modules.0.0.bias", "final_layer.0.bias",
    ],
)  # fmt: skip
def test_a_single_misshapen_key_is_the_only_one_named(state, key):
    shape = tuple(state[key].shape)
    state[key] = torch.zeros(shape[0] + 1, *shape[1:])
    message = refusal(state)
    assert f"does not fit this model; 1 misshapen: {key} {tuple(state[key].shape)} instead of {shape}." in message


def test_a_missing_classifier_is_named_without_guessing_its_shape(state):
    for key in ("classifier.weight", "classifier.bias"):
        del state[key]
    assert refusal(state) == "the state dict does not fit this model; 2 missing: classifier.bias, classifier.weight."


def test_a_missing_scale_is_named(state):
    message = refusal({k: v for k, v in state.items() if ".branches.1." not in k})
    assert "10 missing: fullstage.branches.1.blocks.0.conv1.weight_g, fullstage.branches.1." in message
    assert "unexpected" not in message and "misshapen" not in message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        ({"state_dict": {"a": 1}}, "holds no state dict"),
        ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "its first are conv1.weight, fc.bias"),
    ],
)
def test_foreign_content_is_refused(content, why, tmp_path):
    file = tmp_path / "foreign.pth"
    torch.save(content, file)
    message = refusal(file)
    assert why in message and "foreign.pth" in message
    if isinstance(content, dict):
        assert why in refusal(content)


def test_a_file_is_never_unpickled(tmp_path):
    file = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), file)
    assert "cannot be read as weights" in refusal(file)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "folder"])
def test_a_damaged_file_is_refused(state, damage, tmp_path):
    file = tmp_path / "model.pth"
    torch.save(state, file)
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"<html>404</html>"}[damage])
    message = refusal(file)
    assert "model.pth cannot be read as weights" in message


def test_other_models_have_no_such_keys():
    resnet = create_model("resnet18", image_shape=(3, 8, 8), stem=2, channels=(2,), units=1)
    with pytest.raises(ValueError, match="is a PreActResNet; allowed: an MDEQ classifier"):
        to_official(resnet)
    with pytest.raises(ValueError, match="stem_stride=2; allowed: 1"):
        to_official(create_model("mdeq-nano"))
    with pytest.raises(ValueError, match="has SiLU; allowed: ReLU"):
        to_official(create_model("mdeq-nano", stem_stride=1, activation="silu"))
    with pytest.raises(ValueError, match="image_size=16; allowed: a list"):
        load_official(to_official(create_model("mdeq-large", **SIZES)), image_size=16)
