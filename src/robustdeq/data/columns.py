"""Which column holds the images, which the labels, and what the classes are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES = ("img", "image")
LABEL_NAMES = ("label", "labels", "fine_label")
"""What decides between several columns of the right type; CIFAR-100 has a fine and a coarse label."""


@dataclass(frozen=True)
class Columns:
    """image: struct with ``bytes`` (True: ``nested``), or binary. label: integers. classes: None where unnamed."""

    image: str
    label: str
    nested: bool
    classes: tuple[str, ...] | None


def find_columns(schema: pa.Schema, where: str) -> Columns:
    """The columns of a parquet or arrow schema. Raises a ValueError that names ``where`` and what was found."""
    import pyarrow as pa

    features = _features(schema)
    images = [f.name for f in schema if _is_image(f.type)]
    labels = [f.name for f in schema if pa.types.is_integer(f.type)]
    named = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    image = _one("image", images, IMAGE_NAMES, schema, where)
    label = _one("label", named or labels, LABEL_NAMES, schema, where)
    names = features.get(label, {}).get("names")
    return Columns(
        image, label, pa.types.is_struct(schema.field(image).type), tuple(map(str, names)) if names else None
    )


def _is_image(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What the `datasets` library notes about the columns in a file that it wrote; empty where it did not."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        return json.loads(noted)["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _one(kind: str, found: list[str], preferred: tuple[str, ...], schema: pa.Schema, where: str) -> str:
    """The preferred one of the columns found, or the only one."""
    for name in preferred:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    given = ", ".join(f"{field.name}: {field.type}" for field in schema)
    wanted = {"image": "struct with bytes, or binary", "label": "integers"}[kind]
    problem = f"several {kind} columns ({', '.join(found)})" if found else f"no {kind} column ({wanted})"
    raise ValueError(f"{where}: {problem}; found {given}; allowed: one, or one named {' or '.join(preferred)}.")
