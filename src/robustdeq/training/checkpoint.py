"""The state of a run as one safetensors file: tensors in the body, everything else as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..files import differences, plain, write_bytes
from ..models.zoo import copies, load_strictly

SCHEMA = 1


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    header: dict[str, Any],
    averaged: nn.Module | None = None,
) -> None:
    """Write model, its average, optimizer state and ``header`` (JSON) under a temporary name, then rename."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    if averaged is not None:
        tensors |= {f"average.{key}": value for key, value in averaged.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(v) for slot, v in slots.items() if v is not None}
    write_bytes(path, save(copies(tensors), metadata={"robustdeq": json.dumps({"schema": SCHEMA, **header})}))


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    averaged: nn.Module | None = None,
) -> dict[str, Any]:
    """Put a run's state back and return its header; a ValueError names what does not fit, and changes nothing."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("robustdeq", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to start this run anew.") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} is not a checkpoint of this version (schema {SCHEMA}); remove it to start this run anew."
        )
    differing = differences(header["identity"], plain(identity))
    if differing:
        raise ValueError(
            f"{path} is of a run with another {', '.join(differing)}; give another output folder, or the same options."
        )
    load_strictly(model, _below(tensors, "model."), str(path))
    if averaged is not None:
        load_strictly(averaged, _below(tensors, "average."), str(path))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".", 2)
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return header


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
