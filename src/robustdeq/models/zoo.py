"""Models by name, and their folders: config.json + model.safetensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..files import write_bytes, write_json
from ..options import check_options, choose, describe
from . import explicit, mdeq
from .classifier import DEQClassifier
from .explicit import ExplicitConfig, PreActResNet
from .hub import HubModule
from .mdeq import MDEQConfig, build_mdeq

CONFIG, WEIGHTS = "config.json", "model.safetensors"

N = TypeVar("N", bound=nn.Module)


class Architecture(NamedTuple):
    """What a name stands for: a config class, what makes a model of a config, and the fields the name sets."""

    config: type[Any]
    make: Callable[[Any], HubModule]
    preset: dict[str, Any]

    def options(self) -> list[str]:
        """The fields that create_model takes besides num_classes."""
        return [field.name for field in dataclasses.fields(self.config) if field.name != "num_classes"]


NAMES: dict[str, Architecture] = {
    **{name: Architecture(MDEQConfig, build_mdeq, preset) for name, preset in mdeq.PRESETS.items()},
    **{name: Architecture(ExplicitConfig, PreActResNet, preset) for name, preset in explicit.PRESETS.items()},
}


def create_model(name: str, num_classes: int = 10, *, seed: int | None = None, **options: Any) -> HubModule:
    """A model with fresh weights, in train mode.

    name: mdeq-nano | mdeq-small | mdeq-large | mdeq-xl | resnet18 | wrn34-10. options: fields of the preset's config,
    for a DEQ also ``solver``, ``steps`` and ``gradient``. seed: of the weights, which leaves torch's generators as they
    were; None takes torch's global generator as it is.
    """
    architecture = choose("model", name, NAMES)
    check_options(f"model {name}", options, architecture.options())
    config = architecture.config(**{**architecture.preset, "num_classes": num_classes, **options})
    return _make(name, config, seed)


def save_model(model: nn.Module, folder: str | Path) -> Path:
    """Write config.json and model.safetensors into ``folder``, each to a temporary name first.

    A model that create_model or load_official made is rebuilt from the folder by ``load_model(folder)``. Of a model put
    together by hand only the weights can be kept: ``load_model(folder, into=model)`` reads them back.
    """
    config = getattr(model, "config", None)
    if config is None:
        config = {"model": None, "class": type(model).__qualname__}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, save(copies(model.state_dict()), metadata={"format": "pt"}))
    write_json(folder / CONFIG, config)
    return folder


def load_model(path_or_hub_id: str | Path, into: N | None = None, **overrides: Any) -> HubModule | N:
    """The model in a folder, or of a hub id, in eval mode.

    into: a model put together by hand that takes the weights; every key and shape must match. overrides: fields of the
    model's config, such as ``solver``, ``steps`` and ``gradient`` of a DEQ. Raises a ValueError for anything that
    cannot be read or does not fit.
    """
    folder = model_folder(path_or_hub_id)
    if into is None:
        model = _rebuild(folder / CONFIG, overrides)
    elif overrides:
        raise ValueError(f"load_model: {', '.join(overrides)} given with into=; set these on the model itself.")
    else:
        model = into
    file = folder / WEIGHTS
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        wanted = "the safetensors file that save_model wrote"
        raise ValueError(f"{file} cannot be read ({first_line(error)}); allowed: {wanted}.") from error
    load_strictly(model, state, str(file))
    return model.eval()


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose keys and shapes must match exactly; otherwise one ValueError lists what does not."""
    check_keys(model.state_dict(), state, source)
    model.load_state_dict(state)


def check_keys(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, *, optional: str = "", shapes: bool = True
) -> None:
    """One ValueError that lists every missing, unexpected and misshapen key.

    optional: keys that end in this may be missing. shapes: False where the expected shapes are not known.
    """
    problems = {
        "missing": [key for key in expected if key not in given and not (optional and key.endswith(optional))],
        "unexpected": [key for key in given if key not in expected],
        "misshapen": [
            f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if shapes and key in given and given[key].shape != expected[key].shape
        ],
    }
    found = [f"{len(keys)} {kind}: {_shorten(sorted(keys))}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"{source} does not fit this model; {'; '.join(found)}.")


def model_folder(path_or_hub_id: str | Path, **hub_options: Any) -> Path:
    """The local folder of a model: the path itself, or where the hub's copy was put."""
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(
            f"{folder} is a file; allowed: a folder with {CONFIG} and {WEIGHTS}, or a hub id. "
            "A checkpoint of the papers is read by load_official, or turned into a folder by `robustdeq convert`."
        )
    try:
        return Path(snapshot_download(str(path_or_hub_id), allow_patterns=[CONFIG, WEIGHTS], **hub_options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = first_line(error)
        raise ValueError(f"{path_or_hub_id} is neither a folder nor a model that the hub gives ({why}).") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _make(name: str, config: Any, seed: int | None) -> HubModule:
    """A model that knows its config. A seed moves only the CPU's generator, and only for the while."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        model = NAMES[name].make(config)
    model.config = {"model": name, **_plain(config)}
    if isinstance(model, DEQClassifier):
        model.config |= {"solver": describe(model.solver), "gradient": describe(model.gradient)}
    return model


def _rebuild(file: Path, overrides: dict[str, Any]) -> HubModule:
    """The model that a config.json describes. What is wrong in the file is told apart from what is in the overrides."""
    fields = _read_config(file)
    name = fields.pop("model")
    if name is None:
        raise ValueError(
            f"{file.parent} holds the weights of a {fields.get('class')} put together by hand; "
            "allowed: load_model(folder, into=model) with such a model."
        )
    try:
        architecture = choose("model", name, NAMES)
        check_options(f"model {name}", fields, ["num_classes", *architecture.options()])
        config = architecture.config(**{**architecture.preset, **fields})
    except ValueError as error:
        raise ValueError(f"{file} describes no model that this version of robustdeq knows: {error}") from error
    check_options(f"model {name}", overrides, architecture.options())
    return _make(name, dataclasses.replace(config, **overrides), seed=0)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = first_line(error)
        raise ValueError(f"{file} cannot be read ({why}); allowed: the JSON that save_model wrote.") from error
    if not isinstance(config, dict) or "model" not in config:
        raise ValueError(f"{file} has no 'model'; allowed: the JSON that save_model wrote.")
    return config


def copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, since the file format refuses tensors that share memory (tied weights)."""
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}


def _plain(config: Any) -> dict[str, Any]:
    """A config as JSON would read it back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def _shorten(keys: list[str], most: int = 12) -> str:
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")
