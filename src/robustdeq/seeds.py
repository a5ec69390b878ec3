"""Random numbers that depend on what they are for, not on what was drawn before.

Every draw takes its seed from the run's seed and the place of use (epoch, step, sample). So nothing has to be saved for
a run to be resumed, and a sample's numbers do not depend on its batch.
"""

from __future__ import annotations

import torch


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers (the constants of splitmix64)."""
    state = 0
    for number in numbers:
        # A step of 2^64 over the golden ratio parts neighbouring numbers; the rest lets every bit change every other.
        state = (state + number + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with ``mix(*numbers)``."""
    return torch.Generator().manual_seed(mix(*numbers))
