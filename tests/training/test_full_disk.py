"""A disk that fills up while a real process trains: one line that names the file, and nothing is lost."""

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from safetensors import safe_open
from several import CONFIGS
from small_models import own

import robustdeq as rd
from robustdeq.training import Trainer

SCRIPT = """
mount -t tmpfs -o size=8m tmpfs "$1" || exit 77
train() { "$2" -m robustdeq train smoke --set checkpoint_seconds=0 --out "$1/run" 2>"$3/$4"; }
train "$1" "$2" "$3" first &
while [ ! -e "$1/run/last.safetensors" ]; do sleep 0.01; done
dd if=/dev/zero of="$1/filler" bs=64k 2>/dev/null
wait $!
echo $? >"$3/code"
ls -A "$1/run" >"$3/left"
cp "$1/run/last.safetensors" "$3/kept.safetensors"
rm "$1/filler"
train "$1" "$2" "$3" second && cp "$1/run/model/model.safetensors" "$3/"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a file system of its own")
def test_a_run_on_a_full_disk_stops_in_one_line_and_goes_on_when_there_is_room(tmp_path):
    disk, kept, whole = (tmp_path / name for name in ("disk", "kept", "whole"))
    disk.mkdir(), kept.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", disk, sys.executable, kept]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
    if done.returncode in (1, 77) and not (kept / "code").exists():
        pytest.skip(f"no file system of its own: {done.stderr}")
    errors = [line for line in (kept / "first").read_text().splitlines() if line.startswith("robustdeq:")]
    assert (kept / "code").read_text().strip() == "2"
    assert len(errors) == 1 and "No space left on device" in errors[0] and str(disk) in errors[0]
    assert not [name for name in (kept / "left").read_text().splitlines() if name.startswith(".")]
    with safe_open(str(kept / "kept.safetensors"), framework="pt") as file:
        assert file.metadata() is not None and len(list(file.keys())) > 0
    command = [sys.executable, "-m", "robustdeq", "train", "smoke", "--set", "checkpoint_seconds=0", "--out"]
    subprocess.run([*command, str(whole)], env=environment, check=True)
    assert (kept / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_a_quota_on_files_leaves_the_earlier_checkpoint(tmp_path):
    """The limit on the size of a file falls under that of a checkpoint after three updates."""
    images = rd.data.digits().train.take(slice(160))
    config = replace(CONFIGS["pgd-at"], checkpoint_seconds=0.0)
    trainer = Trainer(own(10, side=8), images, config, tmp_path / "run", images)
    kept = {}

    def fill(done, total, text):
        if done == 3:
            kept["bytes"] = trainer.checkpoint.read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match=r"File too large.*last\.safetensors"):
            trainer.run(fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert trainer.checkpoint.read_bytes() == kept["bytes"]
    assert not list((tmp_path / "run").glob(".*"))
