"""Finding checkpoints, and reading all or a part of what they hold."""

import contextlib
import pathlib
from typing import Any

from absl import logging
from flax import traverse_util
import jax
from orbax.checkpoint import v1 as ocp

from colorize_jax import json_files, paths
from colorize_jax.checkpoints import manifest
from colorize_jax.config import config_form
from colorize_jax.errors import CheckpointError, ConfigError, why
from colorize_jax.log import say_once
from colorize_jax.models import registry

Tree = Any
_BESIDES = ("step", "opt_state")  # in the state besides the network's variables
FOLDER = "checkpoints"  # of a workdir; in it a folder for every step

# Orbax logs a failure with several stack traces; here it becomes a sentence.
logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The checkpoint that a path stands for: itself, or the newest complete one of a workdir.

    Complete is one whose manifest lists all that is there, with the right checksums. Newer ones
    that are not are said.

    Raises:
        CheckpointError: there is none, or none that is complete.
        OSError: one cannot be read just now.
    """
    path = pathlib.Path(paths.expand(str(path))).absolute()
    for folder in (path / FOLDER, path) if not manifest.exists(path) else ():
        problems = {}
        for step in step_folders(folder):
            if not (problem := manifest.problem(step)):
                for other, what in problems.items():
                    say_once(f"the checkpoint {other} is not used: {what}")
                return step
            problems[step] = problem
        if problems:
            raise CheckpointError(
                "; ".join(_unusable(other, what) for other, what in problems.items())
            )
    if manifest.exists(path) or (path.is_dir() and path.name.isdecimal()):
        if problem := manifest.problem(path):
            others = [folder for folder in step_folders(path.parent) if manifest.exists(folder)]
            known = [folder.name for folder in others if folder != path]
            beside = f". Beside it are those of step {', '.join(known)}" if known else ""
            raise CheckpointError(_unusable(path, problem) + beside)
        return path
    raise CheckpointError(
        f"no checkpoint in {path}: give the workdir of a run or one of its checkpoints/<step>"
    )


def step_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders there that are called as a step is, complete or not, from the newest one on."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
    steps = {int(name) for name in names if name.isdecimal()}
    return [folder / str(step) for step in sorted(steps, reverse=True) if str(step) in names]


def is_import(workdir: str | pathlib.Path) -> bool:
    """Whether `save_encoder` has made the checkpoint there; does not ask whether it is damaged."""
    for folder in step_folders(pathlib.Path(workdir).absolute() / FOLDER):
        with contextlib.suppress(Exception):  # Orbax has many kinds for what is not there
            return "origin" in note(folder, object)
    return False


def saved_note(folder: pathlib.Path) -> dict:
    """What the run that wrote a checkpoint noted beside the state: its "config" and more.

    Raises:
        CheckpointError: the folder is no checkpoint of a network, is not complete, or is damaged.
    """
    if problem := manifest.problem(folder):
        raise CheckpointError(_unusable(folder, problem))
    try:
        found = note(folder, network_note())
        _ = registry.make_encoder(found["config"]["model"])
        return found
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{folder} holds no network of a run or of `colorize_jax.convert`: {error}"
        ) from error


def saved_encoder(path: str | pathlib.Path):
    """The encoder of a checkpoint, without its weights; CheckpointError if there is none that is
    complete."""
    return registry.make_encoder(saved_note(find(path))["config"]["model"])


def load_encoder(path: str | pathlib.Path) -> tuple[Any, dict[str, Tree]]:
    """The encoder of a pretrained network, ready for `encoder.apply`.

    Says which checkpoint it takes where the path leaves a choice.

    Args:
        path: a run's workdir (its newest complete checkpoint), one step folder in its
            `checkpoints`, or what `colorize_jax.convert` wrote.

    Returns:
        encoder: Linen module; `encoder.apply(variables, gray, train=False)` gives
            {layer: activation} for gray from `encoder.network_input`.
        variables: {"params": ..., "batch_stats": ...} of the encoder alone.

    Raises:
        CheckpointError: there is no complete checkpoint.
    """
    folder = find(path)
    if folder != pathlib.Path(path).absolute():
        say_once(f"loading the encoder of {folder}")
    encoder = saved_encoder(folder)
    shapes = registry.variable_shapes(encoder)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # A step without batch norm saved an empty tree, which has nothing to ask for.
    wanted = {kind: {"encoder": tree} for kind, tree in shapes.items()}
    state = read_variables(folder, wanted, sharding)
    return encoder, {kind: state[kind]["encoder"] for kind in wanted}


def load_head(path: str | pathlib.Path) -> Tree:
    """The head of a trained network, {layer: {"kernel", "bias"}}.

    CheckpointError: there is no checkpoint, it is damaged, or it has no head.
    """
    folder = find(path)
    saved_note(folder)  # finds out whether it is damaged
    prefix = "params/head/"
    wanted = traverse_util.unflatten_dict(
        {
            name.removeprefix(prefix): array
            for name, array in saved_arrays(folder).items()
            if name.startswith(prefix)
        },
        sep="/",
    )
    if not wanted:
        raise CheckpointError(f"{folder} has no head, but an encoder alone")
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return read_variables(folder, {"params": {"head": wanted}}, sharding)["params"]["head"]


def read_variables(folder: pathlib.Path, wanted: dict[str, Tree], sharding) -> dict[str, Tree]:
    """Some of the parameters and other collections of a checkpoint.

    Args:
        folder: from `find`.
        wanted: shapes, nested as in the checkpoint; what is left out there is not read.
        sharding: of every array.

    Raises:
        CheckpointError: the checkpoint holds another network, or is damaged.
    """
    check_shapes(folder, wanted)
    # An empty tree has nothing to ask for, and Orbax refuses to be asked.
    asked = {kind: abstract(tree, sharding) for kind, tree in wanted.items() if tree}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        state = ocp.load_checkpointables(folder, {"state": asked})["state"]
    return {kind: state.get(kind, {}) for kind in wanted}


def groups_besides(path: str | pathlib.Path, used: str) -> list[str]:
    """Layers of the parameters in a checkpoint that are not in the group `used`, "group/layer"."""
    names = [name.split("/") for name in _saved_shapes(find(path)) if name.startswith("params/")]
    return sorted({f"{group}/{layer}" for _, group, layer, *_ in names if group != used})


def saved_arrays(folder: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """{"params/encoder/conv1_1/kernel": its shape and type, ...} of a checkpoint from `find`."""
    metadata = ocp.checkpointables_metadata(folder).metadata["state"]
    tree = {kind: metadata[kind] for kind in metadata if kind not in _BESIDES}
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}


def note(folder: pathlib.Path, form: Any) -> dict:
    """What was written beside the state; CheckpointError if it has not that form (see
    `json_files`)."""
    try:
        found = ocp.load_checkpointables(folder, {"note": None})["note"]
    except Exception as error:  # Orbax has many kinds for what is not there
        raise CheckpointError(f"the note of {folder} cannot be read: {why(error)}") from error
    return json_files.checked(found, form, CheckpointError, f"the note of {folder}")


def check_shapes(folder: pathlib.Path, wanted: dict[str, Tree]) -> None:
    """CheckpointError, by name, if a parameter is not there or has another shape."""
    saved = _saved_shapes(folder)
    for name, shape in _shapes(wanted).items():
        if saved.get(name) != shape:
            there = saved.get(name, "missing")
            raise CheckpointError(
                f"{folder} does not fit this config: {name} is {there} there and {shape} here"
            )


def _saved_shapes(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in saved_arrays(folder).items()}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def network_note() -> dict:
    """The form of a note that tells which network was saved."""
    config = config_form() | {"model": {"name": str}, "task": {"name": str}, "data": {}}
    return {"config": config, "start?": str, "names?": str, "classes?": [str]}


def _unusable(folder: pathlib.Path, problem: str) -> str:
    """A sentence about a checkpoint that is not loaded."""
    return f"the checkpoint {folder} is not used: {problem}"


def abstract(tree: Tree, sharding) -> Tree:
    """The shapes of arrays, or of their shapes, laid out as `sharding` says."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def read_state(folder: pathlib.Path, wanted: dict[str, Tree], sharding) -> dict[str, Tree]:
    """The whole state of a checkpoint.

    Args:
        folder: from `find`.
        wanted: arrays or shapes, nested as in the checkpoint.
        sharding: of every array.

    Raises:
        CheckpointError: it holds another network.
    """
    wanted = abstract(wanted, sharding)
    check_shapes(folder, {kind: tree for kind, tree in wanted.items() if kind not in _BESIDES})
    try:
        return ocp.load_checkpointables(folder, {"state": wanted})["state"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} does not fit this config: {error}") from error
