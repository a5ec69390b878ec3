"""Every public name is documented where it stands, and the reference shows it."""

import importlib

import pytest
from docs_site import hooks

PACKAGE = hooks.load()
ROOMS = {room: hooks.public(PACKAGE[room]) for room in hooks.ROOMS}


def documented(member, owner):
    """Whether a member of a class has words of its own, or overrides one that has."""
    bases = [owner, *(base for base in owner.mro())]
    return any(member.name in base.members and base.members[member.name].has_docstring for base in bases)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_documented(room):
    silent = [name for name, thing in ROOMS[room].items() if not thing.has_docstring]
    for thing in ROOMS[room].values():
        if not thing.is_class:
            continue
        members = [m for m in thing.members.values() if m.is_function or "property" in m.labels]
        silent += [
            f"{thing.name}.{member.name}"
            for member in members
            # A law's name is its sentence.
            if not member.name.startswith(("_", "test_")) and not documented(member, thing)
        ]
    assert silent == []


@pytest.mark.parametrize("room", ROOMS)
def test_griffe_and_python_see_the_same_names(room):
    module = importlib.import_module(f"robustdeq.{room}")
    assert ROOMS[room] and all(hasattr(module, name) for name in ROOMS[room])
    assert set(getattr(module, "__all__", ROOMS[room])) == set(ROOMS[room])


def test_what_the_package_itself_exports_stands_in_a_room():
    homes = {thing.path for things in ROOMS.values() for thing in things.values()}
    assert [name for name, thing in hooks.public(PACKAGE).items() if thing.path not in homes] == []


def test_no_room_is_left_out():
    folders = {path.parent.name for path in (hooks.ROOT / "src" / "robustdeq").glob("*/__init__.py")}
    spoken = {"bench", "commands", "report", "reproduction", "view"}  # through the command line
    assert folders - spoken == set(ROOMS) - {"gradients"}
