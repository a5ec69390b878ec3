"""The papers' checkpoints: their keys, read and written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from ..checks import Count, Length
from ..files import first_line
from ..options import convert
from ..text import printable
from . import mdeq
from .deq import DEQClassifier
from .zoo import check_keys, create_model, stripped

COUNTER = "num_batches_tracked"  # BatchNorm's own count of steps, which older checkpoints do not have
BRANCH = "fullstage.branches."
SCALE = re.compile(r"(?:fullstage\.branches|fullstage\.post_fuse_layers|incre_modules)\.(\d+)\.")


def _transfer(match: re.Match[str]) -> str:
    """Layer k of the transfer from scale j to scale i: upwards a convolution and its norm, downwards such stages."""
    i, j, k = map(int, match.groups())
    stage = "" if j > i else f".{k // 3}"  # a stage is a convolution, its norm and, but for the last, a ReLU
    return f"fullstage.fuse_layers.{i}.{j}.net{stage}.{'gnorm' if k % 3 else 'conv'}"


MODULES = (
    (r"inject\.([0134])\b", r"downsample.\1"),
    (r"inject\.6", "stage0.0"),
    (r"inject\.7", "stage0.1"),
    (r"cell\.branches\.(\d+)", rf"{BRANCH}\1.blocks.0"),
    (r"cell\.post\.(\d+)", r"fullstage.post_fuse_layers.\1.conv"),
    (r"cell\.fusion\.(\d+)\.(\d+)\.(\d+)", _transfer),
    (r"readout\.blocks\.(\d+)\.shortcut", r"incre_modules.\1.0.downsample"),
    (r"readout\.blocks\.(\d+)", r"incre_modules.\1.0"),
    (r"readout\.down\.(\d+)", r"downsamp_modules.\1"),
    (r"readout\.final", "final_layer"),
    (r"readout\.classifier", "classifier"),
)
"""Modules of this package and of the papers' code, by name; the first that matches a key counts."""


def load_official(
    source: str | os.PathLike[str] | Mapping[str, Any], *, solver: Any = "broyden", steps: int = 8,
    gradient: Any = "unrolled", image_size: Sequence[int] = (32, 32),
) -> DEQClassifier:  # fmt: skip
    """A checkpoint of the papers as a DEQClassifier, in eval mode.

    source: a file of torch.save, which is read without unpickling any code; or its content: a state dict, or a dict
    that has one under ``state_dict``. A ``module.`` prefix may stand in front. All sizes are read off the shapes, but
    for image_size (H, W), which no weight depends on. solver, steps, gradient: see DEQClassifier.

    Raises one ValueError that lists every missing, unexpected and misshapen key.
    """
    if not isinstance(source, Mapping | str | os.PathLike):
        raise ValueError(f"load_official: source is a {type(source).__name__}; allowed: a path, or a state dict.")
    name = "the state dict" if isinstance(source, Mapping) else printable(os.fsdecode(source))
    state = _state_dict(source, name)
    if not any(key.startswith(BRANCH) and SCALE.match(key) for key in state):
        first = ", ".join(list(state)[:4])
        raise ValueError(f"{name} is not a checkpoint of the papers: it has no keys {BRANCH}*; its first are {first}.")

    sizes, complete = _sizes(state)
    height, width = convert("load_official", "image_size", image_size, Annotated[Sequence[Count], Length(2)])
    same = [kind for kind, preset in mdeq.PRESETS.items() if list(preset.get("channels", ())) == sizes["channels"]]
    make = partial(
        create_model, same[0] if same else "mdeq-large", image_shape=(sizes.pop("image_channels"), height, width),
        stem_stride=1, seed=0, solver=solver, steps=steps, gradient=gradient, **sizes,
    )  # fmt: skip
    with torch.device("meta"):  # nothing is allocated before the file is known to hold as much
        model: Any = make()
    official = _official_keys(model)
    expected = {official[key]: tensor for key, tensor in model.state_dict().items()}
    check_keys(expected, state, name, optional=COUNTER, shapes=complete)
    check_keys(expected, state, name, optional=COUNTER)  # where sizes are untold, and yet no key is missing
    model = make()
    model.load_state_dict({key: state[theirs] for key, theirs in official.items() if theirs in state}, strict=False)
    return model.eval()


def to_official(model: DEQClassifier) -> dict[str, Tensor]:
    """The state dict of an MDEQ classifier under the papers' keys; ``load_official`` reads it back.

    Raises a ValueError for another kind of model, and for what no key can tell: a stride in its injection, another
    activation than ReLU.
    """
    if not isinstance(model, DEQClassifier) or not isinstance(model.cell, mdeq.MDEQCell):
        raise ValueError(f"to_official: the model is a {type(model).__name__}; allowed: an MDEQ classifier.")
    if (stride := cast(Any, model.inject)[3].stride[0]) != 1:
        raise ValueError(f"to_official: the model has stem_stride={stride}; allowed: 1, as in the papers.")
    if not isinstance(act := model.cell.act, nn.ReLU):
        raise ValueError(f"to_official: the model has {type(act).__name__}; allowed: ReLU, as in the papers.")
    official = _official_keys(model)
    return {official[key]: tensor.detach() for key, tensor in model.state_dict().items()}


def _state_dict(source: str | os.PathLike[str] | Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without nesting and prefix."""
    content: Any = source
    try:
        if not isinstance(source, Mapping):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged or foreign file makes it raise
        raise ValueError(
            f"{name} cannot be read as weights ({first_line(error)}); allowed: a file of torch.save that "
            "holds tensors and plain values only (of any other, save the state_dict alone)."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(map(_holds_numbers, state.values())):
        wanted = "a dict of dense tensors, or one with such a 'state_dict'"
        raise ValueError(f"{name} holds no state dict; allowed: {wanted}.")
    return stripped({str(key): value for key, value in state.items()})


def _holds_numbers(value: Any) -> bool:
    """A tensor with a number in memory for each of its places: not sparse, not one number repeated; and not on meta,
    unless the model is to be there, too."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout is not torch.strided:
        return False
    if value.is_meta and torch.get_default_device().type != "meta":
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], bool]:
    """The sizes of a checkpoint, by the fields of the config (and image_channels), and whether all of them are told.

    Each is what most of the keys that depend on it say: one misshapen key is found out. One that no key tells, since
    all of them are missing, is a placeholder.
    """
    untold = []

    def size(prefix: str, *keys: str, dim: int = 0) -> int:
        witnesses = [state[prefix + key] for key in keys if prefix + key in state]
        votes = Counter(witness.shape[dim] for witness in witnesses if witness.dim() > dim)
        if votes:
            return votes.most_common(1)[0][0]
        untold.append(prefix)
        return mdeq.GROUPS

    scales = range(len({match[1] for key in state if (match := SCALE.match(key))}))
    branches = [f"{BRANCH}{i}.blocks.0." for i in scales]
    channels = [size(branch, "gn2.weight", "gn2.bias", "gn3.weight", "gn3.bias") for branch in branches]
    heads = [f"incre_modules.{i}.0." for i in scales]
    sizes = {
        "image_channels": size("downsample.", "0.weight", dim=1),
        "channels": channels,
        "expansion": max(1, size(branches[0], "gn1.weight", "gn1.bias", "conv1.weight_g") // max(1, channels[0])),
        "head_channels": [size(head, "conv1.weight", "bn1.running_mean", "bn1.running_var") for head in heads],
        "features": size("final_layer.", "0.weight", "0.bias", "1.weight", "1.bias"),
        "num_classes": size("classifier.", "weight", "bias"),
    }
    return sizes, not untold


def _official_keys(model: DEQClassifier) -> dict[str, str]:
    """This package's key of every tensor, and the papers' key of the same."""
    keys = {}
    for key in model.state_dict():
        ours, theirs = next(names for names in MODULES if re.match(names[0], key))
        keys[key] = re.sub(ours, theirs, key, count=1)
    return keys
