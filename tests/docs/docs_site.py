"""The hooks and the notebooks' runner of docs/, which are no package."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def module(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


hooks, notebooks = module("hooks"), module("notebooks")
