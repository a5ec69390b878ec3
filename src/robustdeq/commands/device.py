"""Where a command computes."""

from typing import Literal

import torch

Device = Literal["cpu", "cuda"]


def checked_device(name: Device) -> torch.device:
    """The device; a ValueError for one that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but this torch sees no CUDA device; allowed here: cpu.")
    return torch.device(name)
