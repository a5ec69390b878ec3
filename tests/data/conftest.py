"""Every test has a `datasets` cache of its own, and the real CIFAR-10 where it lies beside the project."""

from pathlib import Path

import datasets
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    return datasets.config.HF_DATASETS_CACHE


@pytest.fixture
def cifar10():
    folder = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder
