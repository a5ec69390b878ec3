"""One thread a test: the models here are so small that a second one only waits, and on a shared machine it spins."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("robustdeq.testing")
torch.set_num_threads(1)  # for the fixtures of modules as well
os.environ["OMP_NUM_THREADS"] = "1"  # and for the processes that a test starts


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def heard():
    """SIGINT is, also where the tests run in the background of a shell, which has its children ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def cifar10():
    """The folder of the real CIFAR-10 as parquet files: beside the repository, or where ROBUSTDEQ_CIFAR10 says."""
    folder = Path(os.environ.get("ROBUSTDEQ_CIFAR10", Path(__file__).parents[2] / "shared" / "data" / "cifar10"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window: the one that CHROMIUM names, or that is installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    installed = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    program = os.environ.get("CHROMIUM") or next(installed, None)
    if program is None:
        pytest.skip("no chromium: apt-get install chromium, or set CHROMIUM")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()
