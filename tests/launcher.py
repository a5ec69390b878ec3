"""Starts two processes of a script or module, as a user would with torchrun."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launch(*command: object) -> str:
    """What they print together; fails with the end of their errors if one of them fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([*LAUNCHER, *map(str, command)], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
