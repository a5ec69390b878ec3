"""What every kind of bad input starts from: a tiny model folder, and no way to the hub."""

import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants as hub

import robustdeq as rd


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A name that is no folder is asked for nowhere. (--offline sets the same, and nobody takes it back.)"""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """mdeq-nano with three steps, saved as ``model``."""
    return rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=3), tmp_path_factory.mktemp("fuzz") / "model")
