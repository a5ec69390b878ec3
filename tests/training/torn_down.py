"""The command line, failing if DistributedDataParallel is still alive when the process group is taken down.

A group that something still holds is destroyed when the interpreter exits; its threads then end it by a signal.
"""

import gc
import sys

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from robustdeq.cli import main

destroy = dist.destroy_process_group


def destroy_if_nobody_holds_it():
    assert not [held for held in gc.get_objects() if isinstance(held, DistributedDataParallel)]
    destroy()


if __name__ == "__main__":
    dist.destroy_process_group = destroy_if_nobody_holds_it
    sys.exit(main(sys.argv[1:]))
