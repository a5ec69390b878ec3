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
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, header: dict[str, Any],
    averaged: nn.Module | None = None,
) -> None:  # fmt: skip
    """Write model, its average, optimizer state and ``header`` (JSON) under a temporary name, then rename."""
    states = {"model": model.state_dict(), "average": {} if averaged is None else averaged.state_dict()}
    tensors = {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(v) for slot, v in slots.items() if v is not None}
    write_bytes(path, save(copies(tensors), metadata={"robustdeq": json.dumps({"schema": SCHEMA, **header})}))


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any],
    averaged: nn.Module | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Put a run's state back and return its header; a ValueError names what does not fit, and changes nothing."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("robustdeq", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to start this run anew.") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a checkpoint of schema {SCHEMA}; remove it to start this run anew.")
    if differing := ", ".join(differences(header["identity"], plain(identity))):
        raise ValueError(f"{path} is of a run with another {differing}; give another folder, or the same options.")
    for name, module in (("model", model), ("average", averaged)):
        if module is not None:
            own = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
            load_strictly(module, own, str(path))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".", 2)
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return header
