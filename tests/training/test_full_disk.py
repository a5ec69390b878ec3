"""A disk that fills up while a real process trains: one line that names the file, and nothing is lost."""

import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from several import CONFIGS
from small_models import own

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.training import CHECKPOINT, Trainer

SCRIPT = """
mount -t tmpfs -o size=8m tmpfs "$1" || exit 77
disk=$1 python=$2 kept=$3
shift 3
"$python" -m robustdeq "$@" --out "$disk/run" 2>"$kept/errors" &
while [ ! -e "$disk/run/last.safetensors" ]; do sleep 0.01; done
dd if=/dev/zero of="$disk/filler" bs=64k 2>/dev/null
wait $!
echo $? >"$kept/code"
cp -a "$disk/run" "$kept/run"
"""
PHASES = 'phases=[{"epochs": 2, "attack_steps": 1, "solver_steps": 2}]'
WORDS = ["train", "smoke", "--set", PHASES, "checkpoint_seconds=0", "batch_size=128", "validation_points=20"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a file system of its own")
def test_a_run_on_a_full_disk_stops_in_one_line_and_goes_on_when_there_is_room(tmp_path):
    """It goes on in another process, and on another disk; the whole run never met a full one."""
    disk, kept, whole = (tmp_path / name for name in ("disk", "kept", "whole"))
    disk.mkdir(), kept.mkdir()
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", disk, sys.executable, kept, *WORDS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    if done.returncode in (1, 77) and not (kept / "code").exists():
        pytest.skip(f"no file system of its own: {done.stderr}")
    errors = [line for line in (kept / "errors").read_text().splitlines() if line.startswith("robustdeq:")]
    assert (kept / "code").read_text().strip() == "1"
    assert len(errors) == 1 and "No space left on device" in errors[0] and str(disk) in errors[0]
    assert not [path.name for path in (kept / "run").iterdir() if path.name.startswith(".")]
    assert (kept / "run" / CHECKPOINT).stat().st_size and not (kept / "run" / "model").exists()
    for out in (kept / "run", whole):
        assert main([*WORDS, "--out", str(out)]) == 0
    weights = "model/model.safetensors"
    assert (kept / "run" / weights).read_bytes() == (whole / weights).read_bytes()


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
