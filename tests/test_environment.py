"""What a record says of its origin is true of this code, and asking for it starts nothing."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustdeq import environment as own


def _git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.fsmonitor=false"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The code, installed in a folder of a repository that does not track it and that names a program for git."""
    (tmp_path / "site").mkdir()
    monkeypatch.setattr(own, "__file__", shutil.copy(Path(own.__file__), tmp_path / "site"))
    _git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("another project")
    _git(tmp_path, "add", "other.txt")
    _git(tmp_path, "commit", "-qm", "another project")
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    hook.chmod(0o755)
    _git(tmp_path, "config", "core.fsmonitor", str(hook))
    own._commit.cache_clear()
    yield tmp_path / "site"
    own._commit.cache_clear()


def test_a_repository_around_the_package_is_not_its_own(site):
    assert own.environment()["commit"] is None
    _git(site, "add", ".")
    _git(site, "commit", "-qm", "now it is tracked")
    own._commit.cache_clear()
    assert own.environment()["commit"] == _git(site, "rev-parse", "HEAD")[:12]
    Path(own.__file__).write_text("changed")
    own._commit.cache_clear()
    assert own.environment()["commit"] == _git(site, "rev-parse", "HEAD")[:12] + "+"
    assert not (site.parent / "started").exists(), "git has started the repository's program"


def test_versions_and_hardware_are_told():
    told = own.environment()
    assert told["packages"]["torch"] and told["hardware"]["cpu"] and told["threads"] >= 1


def test_what_torch_was_told_of_precision_is_told():
    """Inside autocast, or with TF32, an evaluation has other numbers, and its record was that of float32."""
    assert own.environment()["autocast"] == {} and set(own.environment()["float32"]) == {"products", "convolutions"}
    with torch.autocast("cpu", torch.bfloat16):
        assert own.environment()["autocast"] == {"cpu": "torch.bfloat16"}
    before = own.environment()["float32"]
    torch.backends.cudnn.allow_tf32 = False  # torch's default is True
    try:
        assert before["convolutions"] == "tf32" != own.environment()["float32"]["convolutions"]
    finally:
        torch.backends.cudnn.allow_tf32 = True


FAULTS = """
import resource, sys, torch
from robustdeq.environment import keep_freed_memory
keep_freed_memory()
work = lambda: [torch.ones(7 * 2**20) + step for step in range(3)]  # 28 MiB each
work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of glibc")
def test_freed_memory_is_not_paged_in_again_unless_the_environment_says_so():
    """Four rounds of three live blocks of 28 MiB: 86,016 pages of 4 KiB where they are given back in between."""

    def faults(**settings):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN"))}
        done = subprocess.run([sys.executable, "-c", FAULTS], env=kept | settings, capture_output=True, text=True)
        return int(done.stdout)

    assert 10 * faults() < faults(MALLOC_MMAP_THRESHOLD_=str(2**20))
