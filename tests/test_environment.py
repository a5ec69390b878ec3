"""What a record says of its origin is true of this code, and asking for it starts nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robustdeq
from robustdeq.environment import environment

PACKAGE = Path(robustdeq.__file__).parent


def _git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)


def _seen_from(folder):
    """The commit that the copy of the package in ``folder`` tells."""
    code = "import robustdeq.environment as e; print(e.environment()['commit'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def installed(tmp_path):
    """The package, copied into a folder inside a repository that does not track it and names a program for git."""
    shutil.copytree(PACKAGE, tmp_path / "site" / "robustdeq", ignore=shutil.ignore_patterns("__pycache__"))
    _git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("another project")
    _git(tmp_path, "add", "other.txt")
    _git(tmp_path, "commit", "-qm", "another project")
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    hook.chmod(0o755)
    _git(tmp_path, "config", "core.fsmonitor", str(hook))
    return tmp_path


def test_a_repository_around_the_package_is_not_its_own(installed):
    assert _seen_from(installed / "site") == "None"
    _git(installed, "-c", "core.fsmonitor=false", "add", "site")
    _git(installed, "-c", "core.fsmonitor=false", "commit", "-qm", "now it is tracked")
    (installed / "started").unlink(missing_ok=True)
    commit = _git(installed, "-c", "core.fsmonitor=false", "rev-parse", "HEAD").stdout.strip()
    assert _seen_from(installed / "site") == commit[:12]
    assert not (installed / "started").exists(), "git has started the repository's program"


def test_versions_and_hardware_are_told():
    told = environment()
    assert told["packages"]["torch"] and told["hardware"]["cpu"] and told["threads"] >= 1
