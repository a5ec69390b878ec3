"""The state of a run as one safetensors file: tensors in the body, everything else as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import check_count
from ..files import differences, plain, read_tensors, write_tensors
from ..models.zoo import check_keys

SCHEMA = 3
ANEW = "remove it to start this run anew"


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, header: dict[str, Any],
    averaged: nn.Module | None = None,
) -> None:  # fmt: skip
    """Write model, its average, optimizer state and ``header`` (JSON) under a temporary name, then rename.

    Of the optimizer's groups their numbers and words are kept as well, since some count in them. A ValueError for a
    state that is neither tensor nor number.
    """
    states = {"model": model.state_dict(), "average": {} if averaged is None else averaged.state_dict()}
    state = optimizer.state_dict()
    states |= {f"optimizer.{index}": slots for index, slots in state["state"].items()}
    tensors = {}
    for name, slots in states.items():
        for key, value in slots.items():
            if value is not None and not isinstance(value, torch.Tensor | bool | int | float):
                kept = f"{name}.{key} is a {type(value).__name__}"
                raise ValueError(f"{path} cannot hold it: {kept}; allowed: tensors and numbers.")
            tensors |= {} if value is None else {f"{name}.{key}": torch.as_tensor(value)}
    words = bool | int | float | str | None
    groups = [{name: value for name, value in of.items() if isinstance(value, words)} for of in state["param_groups"]]
    write_tensors(path, tensors, robustdeq=json.dumps({"schema": SCHEMA, "groups": groups, **header}))


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any],
    averaged: nn.Module | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Put a run's state back and return its header; a ValueError names what does not fit, and changes nothing."""
    tensors, metadata = read_tensors(path, ANEW)
    try:
        header = json.loads(metadata.get("robustdeq", "null"))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a checkpoint of schema {SCHEMA}; {ANEW}.")
    if differing := ", ".join(differences(header.get("identity"), plain(identity))):
        raise ValueError(f"{path} is of a run with another {differing}; give another folder, or the same options.")
    check_count(str(path), "step", header.get("step", -1), 0)
    weights: dict[str, dict[str, torch.Tensor]] = {"model": {}, "average": {}}
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "optimizer":
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = value
        else:
            weights[kind][name] = value
    modules = {"model": model} | ({} if averaged is None else {"average": averaged})
    for name, module in modules.items():  # all of them, before the first is changed
        check_keys(module.state_dict(), weights[name], str(path))
    for name, module in modules.items():
        module.load_state_dict(weights[name])
    groups = optimizer.state_dict()["param_groups"]
    for group, kept in zip(groups, header.get("groups", ())):
        group |= kept
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    return header
