"""Models by name, and their folders: config.json + model.safetensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..files import write_bytes, write_json
from ..options import check_options, choose, describe
from .classifier import DEQClassifier
from .hub import HubModule
from .mdeq import PRESETS, MDEQConfig, build_mdeq

CONFIG, WEIGHTS = "config.json", "model.safetensors"

NAMES: dict[str, dict[str, Any]] = dict(PRESETS)


def create_model(name: str, num_classes: int = 10, *, seed: int | None = None, **options: Any) -> HubModule:
    """A model with fresh weights.

    name: mdeq-nano | mdeq-small | mdeq-large | mdeq-xl | resnet18 | wrn34-10. options: fields of the preset's config, for
    a DEQ also ``solver``, ``steps`` and ``gradient``. seed: of the weights; None takes torch's global generator as it is.
    """
    preset = choose("model", name, NAMES)
    config_class, make = _architecture(name)
    fields = [f.name for f in dataclasses.fields(config_class)]
    check_options(f"model {name}", options, [f for f in fields if f != "num_classes"])
    config = config_class(**{**preset, "num_classes": num_classes, **options})
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = make(config)
    model.config = {"model": name, **_plain(config)}
    if isinstance(model, DEQClassifier):
        model.config |= {"solver": describe(model.solver), "gradient": describe(model.gradient)}
    return model


def save_model(model: torch.nn.Module, folder: str | Path) -> Path:
    """Write config.json and model.safetensors into ``folder``, each to a temporary name first."""
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError(
            "save_model: this model was put together by hand, so no config can rebuild it; allowed: models made by "
            "create_model or load_official. For your own use safetensors.torch.save_model(model, file)."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG, config)
    return folder


def load_model(path_or_hub_id: str | Path, **overrides: Any) -> HubModule:
    """The model in a folder, or of a hub id, in eval mode. overrides: ``solver``, ``steps``, ``gradient`` of a DEQ."""
    folder = _folder(path_or_hub_id)
    config = _config(folder)
    name = config.pop("model")
    model = create_model(name, config.pop("num_classes"), **{**config, **overrides})
    file = folder / WEIGHTS
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({_first_line(error)}); allowed: the safetensors file that save_model wrote.") from error
    load_strictly(model, state, str(file))
    return model.eval()


def load_strictly(model: torch.nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict whose keys and shapes must match exactly; otherwise one ValueError lists what does not."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if state[key].shape != expected[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    found = [f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"{source} does not fit this model; {'; '.join(found)}.")
    model.load_state_dict(state)


def _architecture(name: str):
    return MDEQConfig, build_mdeq


def _plain(config: Any) -> dict[str, Any]:
    """A config as JSON would read it back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def _folder(path_or_hub_id: str | Path) -> Path:
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{folder} is a file; allowed: a folder with {CONFIG} and {WEIGHTS}, or a hub id (see `robustdeq convert`).")
    try:
        return Path(snapshot_download(str(path_or_hub_id), allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{path_or_hub_id} is neither a folder nor a model that the hub gives ({_first_line(error)}).") from error


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text())
        known = isinstance(config, dict) and {"model", "num_classes"} <= config.keys()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({_first_line(error)}); allowed: the JSON that save_model wrote.") from error
    if not known:
        raise ValueError(f"{file} is not a robustdeq config: it has no 'model' and 'num_classes'.")
    return config


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _shorten(keys: list[str], most: int = 12) -> str:
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")
