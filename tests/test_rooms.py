"""No room imports from a room below it in CONTRIBUTING, and no modules import each other in a circle."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "robustdeq"
ORDER = [
    "checks options text files seeds environment counting progress charts distributed", "dynamics", "gradients",
    "models",
    "defences", "attacks", "data", "training evaluation", "analysis", "report view", "recipe recipes",
    "reproduction bench", "commands", "cli", "__main__",
]  # fmt: skip
"""Top down; rooms of one line know nothing of each other, but for the ground floor and the recipes."""
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms.split()}
AMONG = {"checks", "options", "text", "files", "seeds", "environment", "progress", "distributed", "recipe", "recipes"}
TESTING = {"dynamics", "gradients", "models", "defences", "options"}
"""``testing`` is on no floor: nobody imports it, and it imports these."""
FILES = sorted(SOURCE.rglob("*.py"))
name_of = lambda path: ".".join(path.relative_to(SOURCE).with_suffix("").parts)  # noqa: E731


def imports(path):
    """(room, whole name) of everything of this package that a file imports, wherever in it."""
    package = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = node.module.split(".") if node.module else []
            names = [(*package[: len(package) - node.level + 1], *module, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            names = [tuple(module.split(".")[1:]) for module in modules if module.split(".")[0] == "robustdeq"]
        else:
            continue
        yield from (name for name in names if name)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_from_rooms_above_its_own_only(path):
    room = path.relative_to(SOURCE).with_suffix("").parts[0]
    if room == "__init__":
        return
    for name in imports(path):
        other = name[0]
        if other == room or (other == "__version__" and room in ("environment", "cli")):
            continue
        if room == "testing":
            assert other in TESTING, f"{name_of(path)} imports {'.'.join(name)}"
            continue
        above = RANK[other] < RANK[room] or (RANK[other] == RANK[room] and {room, other} <= AMONG)
        assert above, f"{name_of(path)} imports {'.'.join(name)}"


def modules(name):
    """Those modules of this package that an imported name brings in: itself, or the one it is defined in."""
    for length in range(len(name), 0, -1):
        path = SOURCE.joinpath(*name[:length])
        if path.with_suffix(".py").exists():
            return [".".join(name[:length])]
        if path.is_dir():
            return [".".join((*name[:length], "__init__"))]
    return []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name_of(path): {other for name in imports(path) for other in modules(name)} - {name_of(path)} for path in FILES
    }
    while graph:
        leaves = {module for module, needed in graph.items() if not needed & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {module: needed for module, needed in graph.items() if module not in leaves}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_one_idea_and_a_function_one_thing(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
