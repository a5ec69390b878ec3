"""What several verbs have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import constants as hub

Device = Literal["cpu", "cuda"]


@dataclass(kw_only=True)
class Command:
    """Options of every verb that computes."""

    device: Device = "cpu"
    offline: bool = False
    """Ask no hub for anything: folders, and what is in the caches already. (So does HF_HUB_OFFLINE=1.)"""

    def __post_init__(self) -> None:
        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # for `datasets`, which is imported later, and for other processes
            hub.HF_HUB_OFFLINE = True
