"""A run's file: it comes back exactly, and a wrong one is refused without touching anything."""

import pytest
import torch

import robustdeq as rd
from robustdeq.training.checkpoint import load_checkpoint, save_checkpoint

CONFIG = {"training": {"seed": 0}, "model": "mdeq-nano"}


def _stepped():
    model = rd.create_model("mdeq-nano", seed=0, steps=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_model_optimizer_and_facts_come_back_bit_for_bit(tmp_path):
    model, optimizer = _stepped()
    save_checkpoint(tmp_path / "last", model, optimizer, {"step": 3, "identity": CONFIG})
    other = rd.create_model("mdeq-nano", seed=1, steps=2)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3)
    facts = load_checkpoint(tmp_path / "last", other, other_optimizer, CONFIG)
    assert facts["step"] == 3
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    mine, theirs = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[i][slot], theirs[i][slot]) for i in mine for slot in mine[i])
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_a_truncated_file_is_refused_and_changes_nothing(tmp_path, size):
    model, optimizer = _stepped()
    path = tmp_path / "last"
    save_checkpoint(path, model, optimizer, {"step": 3, "identity": CONFIG})
    path.write_bytes(path.read_bytes()[:size])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path, model, optimizer, CONFIG)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_config_and_another_model_are_refused(tmp_path):
    model, optimizer = _stepped()
    path = tmp_path / "last"
    save_checkpoint(path, model, optimizer, {"step": 3, "identity": CONFIG})
    with pytest.raises(ValueError, match=r"another training\.seed"):
        load_checkpoint(path, model, optimizer, {**CONFIG, "training": {"seed": 1}})
    small = rd.create_model("mdeq-nano", seed=0, steps=2, channels=(8, 16))
    with pytest.raises(ValueError, match="does not fit"):
        load_checkpoint(path, small, torch.optim.AdamW(small.parameters()), CONFIG)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model, optimizer = _stepped()
    path = tmp_path / "last"
    save_checkpoint(path, model, optimizer, {"step": 3, "identity": CONFIG})
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustdeq.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model, optimizer, {"step": 4, "identity": CONFIG})
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["last"]
