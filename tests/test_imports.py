"""The table of which room may import which: imports point in one direction, as data flows."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "colorize_jax"
# {room: rooms that it imports}, from the lowest floor to the highest. Root modules are not listed.
ALLOWED = {
    "config": set(),
    "color": set(),
    "augment": {"color"},
    "data": {"color"},
    "models": {"color", "config"},
    "surgery": {"models"},
    "checkpoints": {"config", "models"},
    "tasks": {"augment", "color", "config", "data", "models"},
    "features": {"data", "models"},
    "weights": {"checkpoints", "color", "config", "models", "surgery", "tasks"},
    "training": {
        "checkpoints",
        "config",
        "data",
        "features",
        "models",
        "surgery",
        "tasks",
    },
    "colorize": {
        "checkpoints",
        "color",
        "config",
        "data",
        "features",
        "models",
        "tasks",
        "training",
    },
    "analysis": {
        "checkpoints",
        "color",
        "colorize",
        "data",
        "features",
        "models",
        "surgery",
        "training",
    },
    "bench": {"color", "config", "data", "models", "tasks", "training"},
    "studies": {"checkpoints", "config", "training"},
}
COMMANDS = {"main", "evaluate", "extract", "probe", "frozen", "convert", "study"}


def _imported(path):
    """The dotted names of all imports in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _ours(path):
    """The rooms and root modules of the package that a file imports."""
    names = (name.split(".") for name in _imported(path))
    return {parts[1] for parts in names if parts[0] == "colorize_jax" and len(parts) > 1}


def test_every_room_has_a_floor_and_looks_down_only():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ALLOWED)
    floors = list(ALLOWED)
    for room, below in ALLOWED.items():
        assert all(floors.index(other) < floors.index(room) for other in below), room


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_it_may_and_all_of_it(room):
    found = set().union(*(_ours(path) for path in (PACKAGE / room).glob("*.py"))) - {room}
    assert found & set(ALLOWED) == ALLOWED[room]
    assert not found & COMMANDS


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "data").glob("*.py")), ids=lambda path: path.stem
)
def test_data_knows_no_jax(path):
    outside = {name.split(".")[0] for name in _imported(path)}
    assert not outside & {"jax", "flax", "optax", "orbax", "chex"}
