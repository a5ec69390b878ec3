"""Models by name and their folders, config.json + model.safetensors, here or on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub import constants as hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from ..checks import Natural, Seed
from ..files import first_line, looks_local, plain, read_json, read_tensors, write_json, write_tensors
from ..options import check_options, choose, convert, describe
from ..text import shown
from .modes import unwrapped

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TRAINED = "trained-on.json"
"""Beside a trained model: its source of images, and how that was cut, so that it is judged on others wherever it lies.
A folder of images is known by its path as it was given."""
MOST_KEYS = 12  # that an error lists
SETTABLE = ("solver", "steps", "gradient")
"""Of a config: attributes of a DEQ that may be given another value."""

M = TypeVar("M", bound="HubModule")
N = TypeVar("N", bound=nn.Module)


class HubModule(nn.Module, PyTorchModelHubMixin, library_name="robustdeq"):
    """``from_pretrained`` / ``save_pretrained`` / ``push_to_hub`` with config.json and model.safetensors.

    config: the plain dict that ``create_model`` made the model from; None for a model put together by hand. classes:
    what the logits are called, in order; None where nobody has said so.
    """

    config: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None

    def __new__(cls, *args: Any, **kwargs: Any):
        """Nothing but the object: the mixin would keep the arguments as a second config."""
        return object.__new__(cls)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self, save_directory)

    @classmethod
    def from_pretrained(
        cls: type[M], pretrained_model_name_or_path: str | Path, *, map_location: Any = "cpu",
        revision: str | None = None, cache_dir: str | Path | None = None, force_download: bool = False,
        local_files_only: bool = False, token: str | bool | None = None, **overrides: Any,
    ) -> M:  # fmt: skip
        """``load_model`` with the hub's own options. Raises a ValueError if the model is of another class than this."""
        options: Any = dict(revision=revision, cache_dir=cache_dir, force_download=force_download, token=token)
        folder = model_folder(pretrained_model_name_or_path, local_files_only=local_files_only, **options)
        model = load_model(folder, **overrides)
        if not isinstance(model, cls):
            raise ValueError(f"{folder} holds a {type(model).__name__}; allowed: a {cls.__name__} (or use load_model).")
        return model.to(map_location)


class Architecture(NamedTuple):
    """What a name stands for: a config class, what makes a model of a config, and the fields the name sets."""

    config: type[Any]
    make: Callable[[Any], HubModule]
    preset: Mapping[str, Any]

    def options(self) -> list[str]:
        """The fields that create_model takes besides num_classes."""
        return [field.name for field in dataclasses.fields(self.config) if field.name != "num_classes"]


ARCHITECTURES: dict[str, Architecture] = {}
"""What ``create_model`` makes, by name."""


def architecture(config: type[Any], presets: Mapping[str, Mapping[str, Any]]):
    """A decorator for what makes a model of a config: its presets can be chosen by name."""

    def register(make: Callable[[Any], M]) -> Callable[[Any], M]:
        ARCHITECTURES.update({name: Architecture(config, make, preset) for name, preset in presets.items()})
        return make

    return register


def create_model(name: str, /, num_classes: int = 10, *, seed: int | None = None, **options: Any) -> HubModule:
    """A model with fresh weights, in train mode.

    name: mdeq-nano | mdeq-small | mdeq-large | mdeq-xl | mondeq-nano | mondeq-small | resnet18 | wrn34-10. options:
    fields of the preset's config, for a DEQ also ``solver``, ``steps`` and ``gradient``, by name or as objects. seed:
    of the weights, which leaves torch's generators as they were; None takes torch's global generator as it is.
    """
    kind = choose("model", name, ARCHITECTURES)
    check_options(f"model {name}", options, kind.options())
    convert(f"model {name}", "seed", seed, Seed | None)
    return _make(name, kind.config(**{**kind.preset, "num_classes": num_classes, **options}), seed)


def save_model(model: nn.Module, folder: str | Path) -> Path:
    """Write config.json and model.safetensors into ``folder``, each to a temporary name first; wrappers are left out.

    A model that create_model or load_official made is rebuilt from the folder by ``load_model(folder)``. Of a model put
    together by hand only the weights can be kept: ``load_model(folder, into=model)`` reads them back, and warns where
    solver, steps or gradient of that one are others.
    """
    if not isinstance(model, nn.Module) or not isinstance(folder, str | Path) or not str(folder):
        raise ValueError(f"save_model: {shown(model)} into {shown(folder)}; allowed: a module, and a folder.")
    model, folder = unwrapped(model), Path(folder)
    config = stored_config(model)
    if config["model"] is None and any(isinstance(inner, HubModule) for inner in model.modules() if inner is not model):
        warnings.warn(f"of the {type(model).__name__} only the weights are kept, for load_model(..., into=); "
                      "the model inside can be saved so that it is rebuilt.", stacklevel=2)  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, model.state_dict(), format="pt")
    write_json(folder / CONFIG, config)
    if trained := getattr(model, "trained_on", None):
        write_json(folder / TRAINED, trained)
    else:
        (folder / TRAINED).unlink(missing_ok=True)  # of the weights that were there
    return folder


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """The config that the model was made from, with what may have been set anew since; None where it has none."""
    config = getattr(model, "config", None)
    return config and {**config, **{name: describe(getattr(model, name)) for name in SETTABLE if name in config}}


def stored_config(model: nn.Module) -> dict[str, Any]:
    """What config.json says of a model."""
    config = config_of(model)
    if config is None:  # put together by hand: what decides its map beside the weights
        deq = all(hasattr(model, name) for name in SETTABLE)
        own = {name: plain(describe(getattr(model, name))) for name in SETTABLE if deq}
        config = {"model": None, "class": type(model).__qualname__, **own}
    classes = getattr(model, "classes", None)
    return {**config, "classes": list(classes)} if classes else config


def load_model(path_or_hub_id: str | Path, into: N | None = None, **overrides: Any) -> HubModule | N:
    """The model in a folder, or of a hub id, in eval mode.

    It is in float32, whatever precision its weights were kept in. into: a model put together by hand that takes the
    weights, in its own precision; every key and shape must match. overrides: fields of the model's config, such as
    ``solver``, ``steps`` and ``gradient`` of a DEQ; a solver of one's own, whose class no file can bring in, must be
    given here. Raises a ValueError for anything that cannot be read or does not fit.
    """
    if not isinstance(into, nn.Module | None):
        raise ValueError(f"load_model: into={shown(into)}; allowed: a module.")
    if into is not None and overrides:
        raise ValueError(f"load_model: {', '.join(overrides)} given with into=; set these on the model itself.")
    folder = model_folder(path_or_hub_id)
    file, weights = folder / CONFIG, folder / WEIGHTS
    config: Any = {"model": None}
    if into is None or file.exists():
        config = read_json(file, "allowed: the JSON that save_model wrote")
    classes = config.pop("classes", []) if isinstance(config, dict) else None
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or "model" not in config:
        raise ValueError(f"{file} has no 'model' or no list of classes; allowed: the JSON that save_model wrote.")
    state, _ = read_tensors(weights, "allowed: the file that save_model wrote", foreign=True)
    model: Any = _rebuild(file, config, overrides, stripped(state)) if into is None else unwrapped(into)
    has = {name: plain(describe(getattr(model, name, None))) for name in config.keys() & set(SETTABLE)}
    if into is not None and (others := [f"{name}={shown(config[name])}" for name in has if has[name] != config[name]]):
        warnings.warn(f"{file.parent} was saved with {', '.join(sorted(others))}, which `into` has not: it computes "
                      "something else with these weights.", stacklevel=2)  # fmt: skip
    if state.keys() != model.state_dict().keys():  # a module of one's own may be called ``module`` itself
        state = stripped(state)
    if classes:
        model.classes = tuple(classes)
    if (trained := folder / TRAINED).exists():
        model.trained_on = check_trained(trained, read_json(trained, "remove it"))
    check_keys(model.state_dict(), state, str(weights))
    model.load_state_dict(state)
    return (model if into is None else into).eval()


def check_trained(file: Path, value: Any) -> dict[str, Any]:
    """What ``TRAINED`` says: ``data``, ``data_seed``, ``validation``, and the ``threat`` by name and eps, or null."""
    kinds: dict[str, Any] = {"data": str, "data_seed": Seed, "validation": Natural | None}  # type: ignore[operator]
    if not isinstance(value, dict) or value.keys() != {*kinds, "threat"}:
        raise ValueError(f"{file} holds {shown(value)}; allowed: {', '.join(kinds)} and threat, or remove it.")
    for name, kind in kinds.items():
        convert(str(file), name, value[name], kind)
    if value["threat"] is not None and not isinstance(value["threat"], dict):
        raise ValueError(f"{file}: threat={shown(value['threat'])}; allowed: its name and eps, or null.")
    return value


def stripped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what a wrapper writes before every key: DataParallel, torch.compile, one in the other."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def check_keys(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, *, optional: str = "", shapes: bool = True
) -> None:
    """One ValueError that lists every missing, unexpected and misshapen key.

    optional: keys that end in this may be missing. shapes: False where the expected shapes are not known.
    """
    # Any floating-point type may stand for another, as half precision on disk; a number of bits is no weight.
    kind = lambda tensor: tensor.is_floating_point() or tensor.dtype  # noqa: E731
    sizes = {key: (tuple(state[key].shape), tuple(expected[key].shape)) for key in expected if key in state and shapes}
    problems = {
        "missing": [key for key in expected if key not in state and not (optional and key.endswith(optional))],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [f"{key} {size} instead of {wanted}" for key, (size, wanted) in sizes.items() if size != wanted],
        "of another type": [f"{key} {state[key].dtype}" for key in sizes if kind(state[key]) != kind(expected[key])],
    }
    complaints = []
    for problem, keys in problems.items():
        if keys:
            more = f", and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
            complaints.append(f"{len(keys)} {problem}: {', '.join(sorted(keys)[:MOST_KEYS])}{more}")
    if complaints:
        raise ValueError(f"{source} does not fit this model; {'; '.join(complaints)}.")


def model_folder(path_or_hub_id: str | Path, **hub_options: Any) -> Path:
    """The local folder of a model: the path itself, or where the hub's copy was put."""
    if not isinstance(path_or_hub_id, str | Path) or not str(path_or_hub_id).strip():
        raise ValueError(f"load_model: {shown(path_or_hub_id)}; allowed: a folder, or a hub id (owner/name).")
    name, folder = str(path_or_hub_id), Path(path_or_hub_id)
    if folder.is_dir() and not (folder / WEIGHTS).exists() and (folder / "model" / WEIGHTS).exists():
        raise ValueError(f"{folder} is the folder of a training; allowed: its model, {folder / 'model'}.")
    if folder.is_dir():
        return folder
    if folder.name == "model" and (folder.parent / CONFIG).exists():
        raise ValueError(
            f"{folder}: no such folder; the training in {folder.parent} has not ended, and leaves it there."
        )
    if folder.exists():
        raise ValueError(
            f"{folder} is a file; allowed: a folder with {CONFIG} and {WEIGHTS}, or a hub id. "
            "A checkpoint of the papers is read by load_official, or turned into a folder by `robustdeq convert`."
        )
    if isinstance(path_or_hub_id, Path) or looks_local(name):
        raise ValueError(f"{name}: no such folder; the hub was not asked, since this is no hub id (owner/name).")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, TRAINED], **hub_options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        offline = "the hub is not asked offline, and its cache has no copy"
        why = offline if hub.HF_HUB_OFFLINE else first_line(error)
        raise ValueError(f"{name}: no such folder, and no model that the hub gives ({why}).") from error


def _make(
    name: str, config: Any, seed: int | None, weights: tuple[str, Mapping[str, Tensor]] | None = None
) -> HubModule:  # fmt: skip
    """A model that knows its config. A seed moves only the CPU's generator, and only for the while. weights: the name
    and the tensors of the file that it shall take."""
    make = ARCHITECTURES[name].make
    try:
        with torch.device("meta"):  # what a config asks for is not allocated before it is known to fit
            state = make(config).state_dict()
    except (TypeError, RuntimeError, OverflowError) as error:  # as torch refuses a size of more than 63 bits
        raise ValueError(f"model {name}: sizes that no memory holds ({first_line(error)[:80]}).") from error
    if weights is not None:
        check_keys(state, weights[1], weights[0])
    size = sum(tensor.nbytes for tensor in state.values())
    if size > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise ValueError(f"model {name}: its weights take {size / 2**30:.0f} GiB; allowed here: {memory / 2**30:.0f}.")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        model = make(config)
    model.config = {"model": name, **describe(config)}
    return model


def _rebuild(file: Path, fields: dict[str, Any], overrides: dict[str, Any], state: Mapping[str, Tensor]) -> HubModule:
    """The model that a config.json describes. What is wrong in the file is told apart from what is in the overrides."""
    name = fields.pop("model")
    if name is None:
        raise ValueError(
            f"{file.parent} holds the weights of a {fields.get('class')} put together by hand; "
            "allowed: load_model(folder, into=model) with such a model."
        )
    try:
        kind = choose("model", name, ARCHITECTURES)
        check_options(f"model {name}", fields, ["num_classes", *kind.options()])
        kept = {field: value for field, value in fields.items() if field not in overrides}
        config = kind.config(**{**kind.preset, **kept})
    except ValueError as error:
        raise ValueError(f"{file} describes no model that this version of robustdeq knows: {error}") from error
    check_options(f"model {name}", overrides, kind.options())
    config = dataclasses.replace(config, **overrides)
    return _make(name, config, seed=0, weights=(str(file.with_name(WEIGHTS)), state))
