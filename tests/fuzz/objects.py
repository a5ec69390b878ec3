"""Junk of every type for the arguments of Python calls, by a name for each, and what an argument may be after all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_models import images
from torch import Tensor, nn

Fine = Callable[[Any], bool]


class Gives(nn.Module):
    """A module that gives whatever it was told to."""

    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.result = nn.Parameter(torch.zeros(1)), result

    def forward(self, x: Tensor) -> Any:
        return self.result(x)


def deep(depth: int = 5000) -> list[Any]:
    return reduce(lambda inner, _: [inner], range(depth), [])


SCALARS: dict[str, Any] = {
    "None": None, "True": True, "False": False, "0": 0, "5": 5, "-1": -1, "2**31": 2**31, "2**63": 2**63,
    "2**70": 2**70, "10**400": 10**400, "-2**70": -(2**70), "0.5": 0.5, "2.0": 2.0, "-0.5": -0.5, "1e308": 1e308,
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1j": 1j,
    "np.int64(3)": np.int64(3), "np.float64(0.5)": np.float64(0.5), "np.float64('nan')": np.float64("nan"),
    "np.float32(0.5)": np.float32(0.5), "np.bool_(True)": np.bool_(True),
}  # fmt: skip
TEXTS: dict[str, Any] = {
    "'x'": "x", "''": "", "' '": " ", "'5'": "5", "'[/x]'": "[/x]", "'a\\nb\\nc\\nd'": "a\nb\nc\nd",
    "'\\udcff'": "\udcff",
    "'\\0'": "a\0b", "'x' * 5000": "x" * 5000, "b'x'": b"x", "bytearray": bytearray(b"x"), "Path('x')": Path("x"),
    "Path('a\\0b')": Path("a\0b"), "'\\x1b[2J'": "\x1b[2J",
}  # fmt: skip
CONTAINERS: dict[str, Any] = {
    "[]": [], "{}": {}, "()": (), "set()": set(), "[None]": [None], "[5]": [5], "['x']": ["x"], "(1, 2, 3)": (1, 2, 3),
    "{'name': 'x'}": {"name": "x"}, "{'name': 5}": {"name": 5}, "{5: 5}": {5: 5}, "{'x': object()}": {"x": object()},
    "{None: 1}": {None: 1}, "[0] * 10**5": [0] * 10**5, "[[...5000 deep]]": deep(), "range(3)": range(3),
    "{1, 2}": {1, 2}, "[nan]": [math.nan], "[object()]": [object()], "iter([])": iter([]),
    "{'class': 'x'}": {"class": "x"},
}  # fmt: skip
OBJECTS: dict[str, Any] = {
    "object()": object(), "object": object, "int": int, "len": len, "lambda: None": lambda: None, "torch": torch,
    "...": ..., "NotImplemented": NotImplemented, "lambda x: x": lambda x: x, "nn.Identity()": nn.Identity(),
    "nn.Flatten()": nn.Flatten(), "nn.Module()": nn.Module(), "nn.Linear": nn.Linear, "ValueError()": ValueError("x"),
    "torch.float32": torch.float32, "torch.device('cpu')": torch.device("cpu"), "slice(1)": slice(1),
}  # fmt: skip
X, Y = images(2), torch.tensor([0, 1])
TENSORS: dict[str, Any] = {
    "images (2, 1, 4, 4)": X, "images (2, 1, 8, 8)": images(2, shape=(1, 8, 8)),
    "images (2, 3, 4, 4)": images(2, shape=(3, 4, 4)),
    "images (0, 1, 4, 4)": X[:0], "images (3, 1, 4, 4)": images(3), "images (1, 4, 4)": X[0],
    "images (2, 16)": X.flatten(1),
    "images float64": X.double(), "images float16": X.half(), "images bfloat16": X.bfloat16(),
    "images uint8": (X * 255).byte(),
    "images int64": (X * 255).long(), "images bool": X > 0.5, "images complex": X.to(torch.complex64),
    "images * 255": X * 255,
    "images - 1": X - 1, "images NaN": X * math.nan, "images inf": X / 0, "images sparse": X.to_sparse(),
    "images meta": X.to("meta"), "images of a graph": X.clone().requires_grad_() * 1,
    "images expanded": X[:1].expand(2, -1, -1, -1),
    "images channels last": X.to(memory_format=torch.channels_last), "images (2, 1, 0, 0)": X[:, :, :0, :0],
    "images of no dimension": X[0, 0, 0, 0], "numpy images": X.numpy(), "numpy objects": np.array([object()]),
    "labels": Y, "labels (1,)": Y[:1], "labels (2, 1)": Y[:, None], "labels int32": Y.int(), "labels float": Y.float(),
    "labels bool": Y.bool(), "labels -1": Y - 1, "labels 99": Y + 99, "labels 2**62": Y + 2**62, "labels none": Y[:0],
    "labels -2**63": Y - 2**63, "numpy labels": Y.numpy(), "list of labels": [0, 1], "labels uint8": Y.byte(),
    "labels meta": Y.to("meta"),
    "one-hot labels": torch.eye(3)[:2], "a parameter": nn.Parameter(X.clone()), "list of images": list(X),
}  # fmt: skip
MODULES: dict[str, Any] = {
    "gives None": Gives(lambda x: None), "gives a tuple": Gives(lambda x: (x.flatten(1), x)),
    "gives a number": Gives(lambda x: 0.5),
    "gives 1 class": Gives(lambda x: x.flatten(1)[:, :1]), "gives NaN": Gives(lambda x: x.flatten(1) * math.nan),
    "gives integers": Gives(lambda x: x.flatten(1).long()), "gives fewer rows": Gives(lambda x: x.flatten(1)[:1]),
    "gives no rows": Gives(lambda x: x.flatten(1)[:0]), "gives constants": Gives(lambda x: torch.zeros(len(x), 3)),
    "gives 2 classes": Gives(lambda x: x.flatten(1)[:, :2]), "gives images": Gives(lambda x: x),
    "gives float64": Gives(lambda x: x.flatten(1).double()),
    "gives (rows, 0)": Gives(lambda x: x.flatten(1)[:, :0]), "gives a dict": Gives(lambda x: {"logits": x.flatten(1)}),
    "gives complex": Gives(lambda x: x.flatten(1).to(torch.complex64)), "gives inf": Gives(lambda x: x.flatten(1) / 0),
}  # fmt: skip
JUNK: dict[str, Any] = {**SCALARS, **TEXTS, **CONTAINERS, **OBJECTS, **TENSORS}
RIGHT = ("NaN", "constants", "float64", "inf", "2 classes")
LOGITS_OF = [OBJECTS["nn.Flatten()"], *(MODULES[f"gives {what}"] for what in RIGHT)]
"""Modules that give logits of every image, which an attack may take."""
LARGE = ("2**31", "2**63", "2**70", "10**400")


def whole(low: int = 0, high: float = math.inf) -> Fine:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(low: float = 0.0, high: float = 1.8e308) -> Fine:
    """In [low, high]; what no float can hold is not."""
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def word(table: Iterable[str]) -> Fine:
    names = list(table)
    return lambda value: isinstance(value, str) and value in names


def none_or(fine: Fine) -> Fine:
    return lambda value: value is None or fine(value)


def anything(value: Any) -> bool:
    return True


def nothing(value: Any) -> bool:
    return False


def either(*kinds: Fine) -> Fine:
    return lambda value: any(fine(value) for fine in kinds)


def instance(*classes: type) -> Fine:
    return lambda value: isinstance(value, classes)


def one_of(*objects: Any) -> Fine:
    """These very objects: a tensor has no equality that could be asked for."""
    return lambda value: any(value is one for one in objects)


def batch(*shape: int, rows: int | None = 2) -> Fine:
    """Floating-point images of a shape; a NaN is left to the solver."""

    def fine(value: Any) -> bool:
        dense = isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided
        if not dense or value.device.type != "cpu" or tuple(value.shape[1:]) != shape:
            return False
        return rows in (None, len(value)) and not bool(((value < 0) | (value > 1)).any())

    return fine


def labels(classes: int | None = 3, rows: int = 2) -> Fine:
    def fine(value: Any) -> bool:
        right = isinstance(value, Tensor) and value.dtype == torch.int64 and value.shape == (rows,)
        if not right or value.device.type != "cpu":
            return False
        return bool((value >= 0).all()) and (classes is None or bool((value < classes).all()))

    return fine
