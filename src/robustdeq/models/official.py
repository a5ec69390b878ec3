"""The papers' checkpoints: their keys, read and written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import torch
from torch import Tensor

from ..checks import Count, Length
from ..files import first_line
from ..options import convert
from . import mdeq
from .deq import DEQClassifier
from .zoo import check_keys, create_model

COUNTER = "num_batches_tracked"  # BatchNorm's own count of steps, which older checkpoints do not have
BRANCH = "fullstage.branches."
SCALE = re.compile(r"(?:fullstage\.branches|fullstage\.post_fuse_layers|incre_modules)\.(\d+)\.")


def load_official(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    solver: Any = "broyden",
    steps: int = 8,
    gradient: Any = "unrolled",
    image_size: Sequence[int] = (32, 32),
) -> DEQClassifier:
    """A checkpoint of the papers as a DEQClassifier, in eval mode.

    source: a file of torch.save, which is read without unpickling any code; or its content: a state dict, or a dict
    that has one under ``state_dict``. A ``module.`` prefix may stand in front. All sizes are read off the shapes, but
    for image_size (H, W), which no weight depends on. solver, steps, gradient: see DEQClassifier.

    Raises one ValueError that lists every missing, unexpected and misshapen key.
    """
    name = "the state dict" if isinstance(source, Mapping) else os.fspath(source)
    state = _state_dict(source if isinstance(source, Mapping) else _read(source), name)
    if not any(key.startswith(BRANCH) for key in state):
        first = ", ".join(list(state)[:4])
        raise ValueError(f"{name} is not a checkpoint of the papers: it has no keys {BRANCH}*; its first are {first}.")

    sizes = _Sizes(state)
    height, width = convert("load_official", "image_size", image_size, Annotated[Sequence[Count], Length(2)])
    model = create_model(
        _nearest_preset(sizes.channels), sizes.num_classes, seed=0, image_shape=(sizes.image_channels, height, width),
        channels=sizes.channels, head_channels=sizes.head_channels, features=sizes.features, stem_stride=1,
        expansion=sizes.expansion, solver=solver, steps=steps, gradient=gradient,
    )  # fmt: skip
    model = cast(DEQClassifier, model)
    fresh, official = model.state_dict(), _official_keys(model)
    check_keys({official[key]: fresh[key] for key in fresh}, state, name, optional=COUNTER, shapes=sizes.known)
    model.load_state_dict({key: state.get(official[key], fresh[key]) for key in fresh})
    return model.eval()


def to_official(model: DEQClassifier) -> dict[str, Tensor]:
    """The state dict of an MDEQ classifier under the papers' keys; ``load_official`` reads it back.

    Raises a ValueError for another kind of model, and for one with a stride in its injection, which no key can tell.
    """
    if not isinstance(model, DEQClassifier) or not isinstance(model.cell, mdeq.MDEQCell):
        raise ValueError(f"to_official: the model is a {type(model).__name__}; allowed: an MDEQ classifier.")
    stride = cast(mdeq.Injection, model.inject).stride
    if stride != 1:
        raise ValueError(f"to_official: the model has stem_stride={stride}; allowed: 1, as in the papers.")
    official = _official_keys(model)
    return {official[key]: tensor.detach() for key, tensor in model.state_dict().items()}


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged or foreign file makes it raise
        raise ValueError(
            f"{os.fspath(path)} cannot be read as weights ({first_line(error)}); allowed: a file of torch.save that "
            "holds tensors and plain values only (of any other, save the state_dict alone)."
        ) from error


def _state_dict(content: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without nesting and prefix."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{name} holds no state dict; allowed: a dict of tensors, or one with such a 'state_dict'.")
    names = {str(key): value for key, value in state.items()}
    for prefix in ("module.", "_orig_mod.", "module."):  # of DataParallel, of torch.compile, of one inside the other
        if all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


class _Sizes:
    """The sizes of a checkpoint. Each is what most of the keys that depend on it say: one misshapen key is found out.

    known: False if every key that tells some size is missing; that size is then a placeholder.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state, self.known = state, True
        scales = len({found[1] for key in state if (found := SCALE.match(key))})
        branches = [f"{BRANCH}{i}.blocks.0." for i in range(scales)]
        heads = [f"incre_modules.{i}.0." for i in range(scales)]
        self.image_channels = self._size("downsample.", "0.weight", dim=1)
        self.channels = [self._size(b, "gn2.weight", "gn2.bias", "gn3.weight", "gn3.bias") for b in branches]
        self.expansion = max(1, self._size(branches[0], "gn1.weight", "gn1.bias", "conv1.weight_g") // self.channels[0])
        self.head_channels = [self._size(h, "conv1.weight", "bn1.running_mean", "bn1.running_var") for h in heads]
        self.features = self._size("final_layer.", "0.weight", "0.bias", "1.weight", "1.bias")
        self.num_classes = self._size("classifier.", "weight", "bias")

    def _size(self, prefix: str, *keys: str, dim: int = 0) -> int:
        witnesses = [self._state[prefix + key] for key in keys if prefix + key in self._state]
        votes = Counter(witness.shape[dim] for witness in witnesses if witness.dim() > dim)
        if not votes:
            self.known = False
            return mdeq.GROUPS
        return votes.most_common(1)[0][0]


def _nearest_preset(channels: Sequence[int]) -> str:
    same = [name for name, preset in mdeq.PRESETS.items() if list(preset.get("channels", ())) == list(channels)]
    return same[0] if same else "mdeq-large"


def _official_keys(model: DEQClassifier) -> dict[str, str]:
    """This package's key of every tensor, and the papers' key of the same."""
    prefixes = _prefixes(len(model.layout.shapes))
    return {key: _translate(key, prefixes) for key in model.state_dict()}


def _translate(key: str, prefixes: Mapping[str, str]) -> str:
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in prefixes:
            return ".".join([prefixes[prefix], *parts[end:]])
    raise KeyError(key)


def _prefixes(scales: int) -> dict[str, str]:
    """Modules of this package and of the papers' code, by name."""
    table = {
        **{f"inject.{i}": f"downsample.{i}" for i in (0, 1, 3, 4)},
        "inject.6": "stage0.0",
        "inject.7": "stage0.1",
        "readout.final": "final_layer",
        "readout.classifier": "classifier",
    }
    for i in range(scales):
        table |= {
            f"cell.branches.{i}": f"{BRANCH}{i}.blocks.0",
            f"cell.post.{i}": f"fullstage.post_fuse_layers.{i}.conv",
            f"readout.blocks.{i}": f"incre_modules.{i}.0",
            f"readout.blocks.{i}.shortcut": f"incre_modules.{i}.0.downsample",
            f"readout.down.{i}": f"downsamp_modules.{i}",
        }
        for j in range(scales):
            own, theirs = f"cell.fusion.{i}.{j}", f"fullstage.fuse_layers.{i}.{j}.net"
            if j > i:
                table |= {f"{own}.0": f"{theirs}.conv", f"{own}.1": f"{theirs}.gnorm"}
            for stage in range(i - j):  # a stage is a convolution, its norm and, but for the last, a ReLU
                table[f"{own}.{3 * stage}"] = f"{theirs}.{stage}.conv"
                table[f"{own}.{3 * stage + 1}"] = f"{theirs}.{stage}.gnorm"
    return table
