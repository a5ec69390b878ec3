"""Models by name and in folders: what comes back is what was saved, and whatever cannot be read says why."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import own
from torch import nn

from robustdeq.analysis import variant
from robustdeq.gradients import GRADIENTS
from robustdeq.models import (
    ARCHITECTURES,
    DEQClassifier,
    HubModule,
    PreActResNet,
    create_model,
    load_model,
    save_model,
)
from robustdeq.models.zoo import check_keys

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    """A model whose batch statistics are not the initial ones, and its folder."""
    solver = {"name": "anderson", "memory": 3}
    model = create_model("mdeq-nano", 10, seed=0, solver=solver, gradient="implicit", steps=5)
    model(X)
    model.eval()
    return model, save_model(model, tmp_path / "model")


def edit(folder, **changes):
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def refusal(call, *args, **options):
    """The message of a ValueError of at most two lines."""
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert message.count("\n") <= 1 and len(message) < 1000
    return message


def own_model():
    cell = nn.Bilinear(4, 4, 4)
    return DEQClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), cell, nn.Linear(4, 3), [(4,)])


def test_names():
    mondeqs = ["mondeq-nano", "mondeq-small"]
    mdeqs = ["mdeq-nano", "mdeq-small", "mdeq-large", "mdeq-xl"]
    assert list(ARCHITECTURES) == [*mdeqs, *mondeqs, "resnet18", "wrn34-10"]
    with torch.device("meta"):
        for name in ARCHITECTURES:
            model = create_model(name, 7)
            assert model.config["model"] == name and model.config["num_classes"] == 7
            json.dumps(model.config, allow_nan=False)


def test_seed_makes_the_weights_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    one, two = (create_model("mdeq-nano", seed=3).state_dict() for _ in range(2))
    other = create_model("mdeq-nano", seed=4).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["readout.classifier.weight"], other["readout.classifier.weight"])


def test_round_trip_has_equal_bits(saved):
    model, folder = saved
    before = torch.random.get_rng_state()
    back = load_model(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert back.config == model.config and not back.training
    assert (back.solver, back.gradient, back.steps) == (model.solver, model.gradient, model.steps)
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values()))
    assert torch.equal(back(X), model(X))


def test_pretrained_round_trip_has_equal_bits(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path / "hub")
    assert json.loads((tmp_path / "hub" / "config.json").read_text()) == model.config
    for cls in (DEQClassifier, HubModule):
        back = cls.from_pretrained(str(tmp_path / "hub"))
        assert back.config == model.config
        assert torch.equal(back(X), model(X))
    faster = DEQClassifier.from_pretrained(tmp_path / "hub", steps=2)
    assert torch.equal(faster(X), model(X, steps=2))


def test_pretrained_of_another_class_is_refused(saved):
    message = refusal(PreActResNet.from_pretrained, saved[1])
    assert "holds a DEQClassifier; allowed: a PreActResNet" in message


def test_overrides_change_the_config(saved):
    back = load_model(saved[1], solver="broyden", steps=3, gradient="phantom")
    assert (back.solver.name, back.steps, back.gradient.name) == ("broyden", 3, "phantom")
    assert back.config["steps"] == 3 and back.config["solver"]["name"] == "broyden"


def test_a_saved_model_can_be_overwritten(saved):
    model, folder = saved
    with torch.no_grad():
        model.readout.classifier.bias.add_(1)
    save_model(model, folder)
    assert torch.equal(load_model(folder)(X), model(X))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: create_model("mdeq-larg"), "'mdeq-larg' (did you mean 'mdeq-large'?); allowed: mdeq-nano"),
        (lambda: create_model("resnet-18"), "did you mean 'resnet18'?"),
        (lambda: create_model(None), "unknown model None"),
        (lambda: create_model("mdeq-nano", sover="picard"), "unknown option 'sover' (did you mean 'solver'?)"),
        (lambda: create_model("mdeq-nano", solver="brodyen"), "unknown solver 'brodyen' (did you mean 'broyden'?)"),
        (lambda: create_model("mdeq-nano", 0), "num_classes=0; allowed: a whole number >= 1"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(call, why):
    assert why in refusal(call)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"sovler": "picard"}, "model mdeq-nano: unknown option 'sovler' (did you mean 'solver'?)"),
        ({"num_classes": 3}, "unknown option 'num_classes'"),
        ({"seed": 3}, "unknown option 'seed'"),
        ({"name": "x"}, "unknown option 'name'"),
        ({"model": "mdeq-small"}, "unknown option 'model'"),
        ({"steps": 0}, "steps=0"),
        ({"features": 8}, "misshapen: readout.classifier.weight (10, 64) instead of (10, 8)"),
    ],
)
def test_an_override_that_the_model_does_not_have_is_refused(saved, overrides, why):
    message = refusal(load_model, saved[1], **overrides)
    assert why in message
    assert "config.json" not in message  # the file is not at fault


def test_an_override_of_a_deq_on_a_deep_baseline_is_refused(tmp_path):
    model = create_model("resnet18", image_shape=(1, 8, 8), stem=2, channels=(2,), units=1)
    message = refusal(load_model, save_model(model, tmp_path), steps=4)
    assert "model resnet18: unknown option 'steps'" in message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"momentum": 0.9}, "unknown option 'momentum'"),
        ({"model": "mdeq-huge"}, "unknown model 'mdeq-huge'"),
        ({"model": ["mdeq-nano"]}, "unknown model ['mdeq-nano']"),
        ({"model": ...}, "has no 'model'"),
        ({"channels": "16"}, "channels='16'"),
        ({"num_classes": None}, "num_classes=None"),
        ({"solver": {"name": "picard", "speed": 2}}, "unknown option 'speed'"),
        ({"solver": 3}, "unknown solver 3"),
    ],
)
def test_config_of_another_version_is_refused(saved, changes, why):
    edit(saved[1], **changes)
    message = refusal(load_model, saved[1])
    assert why in message and "config.json" in message


def test_config_of_an_earlier_version_takes_the_preset_s_values(saved):
    edit(saved[1], dropout=..., expansion=...)
    assert torch.equal(load_model(saved[1])(X), saved[0](X))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"model_type": "bert"}'])
def test_a_foreign_or_damaged_config_is_refused(saved, content):
    (saved[1] / "config.json").write_bytes(content)
    assert "config.json" in refusal(load_model, saved[1])


@pytest.mark.parametrize("damage", ["truncated", "half header", "empty", "text", "missing", "folder"])
def test_damaged_weights_are_refused(saved, damage):
    file = saved[1] / "model.safetensors"
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        pieces = {"truncated": data[:-100], "half header": data[:40], "empty": b"", "text": b"<html>not found</html>"}
        file.write_bytes(pieces[damage])
    assert "model.safetensors cannot be read" in refusal(load_model, saved[1])


def test_a_missing_config_or_folder_is_refused(saved, tmp_path):
    (saved[1] / "config.json").unlink()
    assert "config.json cannot be read" in refusal(load_model, saved[1])
    assert f"is the folder of a training; allowed: its model, {saved[1]}" in refusal(load_model, tmp_path)
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    assert "load_official" in refusal(load_model, file)
    assert "no such folder; the hub was not asked" in refusal(load_model, tmp_path / "not" / "there")


def test_weights_that_do_not_fit_are_listed_by_key(saved):
    file = saved[1] / "model.safetensors"
    state = load_file(file)
    del state["inject.0.weight"]
    state["extra"] = torch.zeros(1)
    state["readout.classifier.bias"] = torch.zeros(11)
    save_file(state, file)
    message = refusal(load_model, saved[1])
    assert "1 missing: inject.0.weight" in message
    assert "1 unexpected: extra" in message
    assert "1 misshapen: readout.classifier.bias (11,) instead of (10,)" in message


def test_a_long_list_of_keys_is_shortened():
    model = create_model("mdeq-nano")
    message = refusal(check_keys, model.state_dict(), {}, "this")
    assert message.startswith("this does not fit this model; ")
    assert message.endswith(f", and {len(model.state_dict()) - 12} more.")


def test_a_model_put_together_by_hand_is_saved_and_read_back(tmp_path):
    model = own_model()
    folder = save_model(model, tmp_path / "own")
    other = own_model()
    assert not torch.equal(other(X), model(X))
    back = load_model(folder, into=other)
    assert back is other and not back.training
    assert torch.equal(back(X), model(X))
    model.save_pretrained(tmp_path / "own hub")
    assert torch.equal(load_model(tmp_path / "own hub", into=own_model())(X), model(X))


def test_a_model_put_together_by_hand_cannot_be_rebuilt_from_its_folder(tmp_path):
    message = refusal(load_model, save_model(own_model(), tmp_path))
    assert "weights of a DEQClassifier put together by hand" in message and "into=model" in message


def test_into_takes_no_overrides_and_must_fit(saved, tmp_path):
    folder = save_model(own_model(), tmp_path / "own")
    assert "steps given with into=" in refusal(load_model, folder, into=own_model(), steps=3)
    assert "does not fit this model" in refusal(load_model, saved[1], into=own_model())


def test_tied_weights_are_saved(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model = tied()
    back = load_model(save_model(model, tmp_path), into=tied())
    assert torch.equal(back[1].weight, model[0].weight)


@pytest.mark.parametrize("changed", [lambda model: None, lambda model: variant(model, solver="broyden", steps=4)])
def test_what_was_set_on_a_model_since_it_was_made_is_saved(saved, tmp_path, changed):
    """Solver, steps and gradient are attributes, and ``variant`` gives a model others."""
    model, _ = saved
    model = changed(model) or model
    model.steps, model.gradient = 3, GRADIENTS.resolve({"name": "phantom", "unroll": 2})
    back = load_model(save_model(model, tmp_path / "changed"))
    assert (back.solver, back.steps, back.gradient) == (model.solver, 3, model.gradient)
    assert torch.equal(back(X), model(X))


class Around(nn.Module):
    """A module of one's own with the name that DataParallel gives to what it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("wrap", [nn.Sequential, torch.compile, nn.DataParallel, Around])
def test_into_takes_back_what_was_saved_of_the_same_module(tmp_path, wrap):
    model, other = wrap(own_model()), wrap(own_model())
    back = load_model(save_model(model, tmp_path), into=other)
    assert back is other and not back.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("other", [{"steps": 3}, {"solver": "picard"}, {"gradient": "phantom"}])
def test_weights_of_one_s_own_dynamics_are_not_read_into_others_without_a_word(tmp_path, other):
    """Another solver with these weights is another model, and fifteen points of accuracy were lost unseen."""
    options = {"solver": {"name": "anderson", "memory": 3}, "steps": 5}
    folder = save_model(own(**options), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder, into=own(**options))
    with pytest.warns(UserWarning, match=f"was saved with {next(iter(other))}=.*, which `into` has not"):
        load_model(folder, into=own(**{**options, **other}))
