"""Finds checkpoints and reads all or a part of their content."""

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
_BESIDES = ("step", "opt_state")  # the entries of the state that are no variables of the network
FOLDER = "checkpoints"  # It lies in a workdir and holds a folder for every step.

# Orbax logs a failure with several stack traces; here it is raised as one sentence.
logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The checkpoint at a path: the path itself, or the newest complete one of a workdir.

    A checkpoint is complete if its manifest lists all its files with the right checksums. Newer,
    incomplete checkpoints are reported and skipped.

    Raises:
        CheckpointError: there is no complete checkpoint.
        OSError: a checkpoint cannot be read at the moment.
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
    """The folders named by a step, complete or not, newest first."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
    steps = {int(name) for name in names if name.isdecimal()}
    return [folder / str(step) for step in sorted(steps, reverse=True) if str(step) in names]


def is_import(workdir: str | pathlib.Path) -> bool:
    """Whether `save_encoder` wrote the checkpoint there; it may be damaged."""
    for folder in step_folders(pathlib.Path(workdir).absolute() / FOLDER):
        with contextlib.suppress(Exception):  # Orbax raises many kinds of errors for missing files.
            return "origin" in note(folder, object)
    return False


def saved_note(folder: pathlib.Path) -> dict:
    """The note that a run stored beside the state of a checkpoint: its "config" and more.

    Raises:
        CheckpointError: the folder is no checkpoint of a network, or is incomplete or damaged.
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
    """The encoder of a checkpoint, without its weights; CheckpointError if none is complete."""
    return registry.make_encoder(saved_note(find(path))["config"]["model"])


def load_encoder(path: str | pathlib.Path) -> tuple[Any, dict[str, Tree]]:
    """The encoder of a pretrained network, ready for `encoder.apply`.

    If the path leaves a choice of checkpoints, the chosen one is printed.

    Args:
        path: a run's workdir (its newest complete checkpoint), one step folder in its
            `checkpoints`, or what `colorize_jax.convert` wrote.

    Returns:
        encoder: Linen module; `encoder.apply(variables, gray, train=False)` gives
            {layer: activation} for gray from `encoder.network_input`.
        variables: {"params": ..., "batch_stats": ...} of the encoder only.

    Raises:
        CheckpointError: there is no complete checkpoint.
    """
    folder = find(path)
    if folder != pathlib.Path(path).absolute():
        say_once(f"loading the encoder of {folder}")
    encoder = saved_encoder(folder)
    shapes = registry.variable_shapes(encoder)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # A network without batch norm has saved an empty tree, from which nothing can be read.
    wanted = {kind: {"encoder": tree} for kind, tree in shapes.items()}
    state = read_variables(folder, wanted, sharding)
    return encoder, {kind: state[kind]["encoder"] for kind in wanted}


def load_head(path: str | pathlib.Path) -> Tree:
    """The head of a trained network, {layer: {"kernel", "bias"}}.

    CheckpointError: there is no checkpoint, it is damaged, or it has no head.
    """
    folder = find(path)
    saved_note(folder)  # It raises if the checkpoint is damaged.
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
        folder: what `find` returned.
        wanted: shapes, nested as in the checkpoint; entries that are left out are not read.
        sharding: the sharding of every array.

    Raises:
        CheckpointError: the checkpoint holds another network, or is damaged.
    """
    check_shapes(folder, wanted)
    # Orbax refuses to restore an empty tree.
    asked = {kind: abstract(tree, sharding) for kind, tree in wanted.items() if tree}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        state = ocp.load_checkpointables(folder, {"state": asked})["state"]
    return {kind: state.get(kind, {}) for kind in wanted}


def groups_besides(path: str | pathlib.Path, used: str) -> list[str]:
    """The names "group/layer" of all layers with parameters that are not in the group `used`."""
    names = [name.split("/") for name in _saved_shapes(find(path)) if name.startswith("params/")]
    return sorted({f"{group}/{layer}" for _, group, layer, *_ in names if group != used})


def saved_arrays(folder: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """{"params/encoder/conv1_1/kernel": shape and dtype, ...} of a checkpoint from `find`."""
    metadata = ocp.checkpointables_metadata(folder).metadata["state"]
    tree = {kind: metadata[kind] for kind in metadata if kind not in _BESIDES}
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}


def note(folder: pathlib.Path, form: Any) -> dict:
    """The note beside the state; CheckpointError if it does not have that form.

    `json_files` explains forms.
    """
    try:
        found = ocp.load_checkpointables(folder, {"note": None})["note"]
    except Exception as error:  # Orbax raises many kinds of errors for missing files.
        raise CheckpointError(f"the note of {folder} cannot be read: {why(error)}") from error
    return json_files.checked(found, form, CheckpointError, f"the note of {folder}")


def check_shapes(folder: pathlib.Path, wanted: dict[str, Tree]) -> None:
    """CheckpointError that names a parameter if it is missing or has another shape."""
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
    """The form of a note that describes the saved network."""
    config = config_form() | {"model": {"name": str}, "task": {"name": str}, "data": {}}
    return {"config": config, "start?": str, "names?": str, "classes?": [str]}


def _unusable(folder: pathlib.Path, problem: str) -> str:
    """The message for a checkpoint that is not loaded."""
    return f"the checkpoint {folder} is not used: {problem}"


def abstract(tree: Tree, sharding) -> Tree:
    """The shapes of arrays (or of abstract arrays) with a sharding, or with a tree of shardings."""

    def of_array(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(of_array, tree, jax.tree.broadcast(sharding, tree))


def read_state(folder: pathlib.Path, wanted: dict[str, Tree], sharding) -> dict[str, Tree]:
    """The whole state of a checkpoint.

    Args:
        folder: what `find` returned.
        wanted: arrays or shapes, nested as in the checkpoint.
        sharding: the sharding of every array, or a tree of them.

    Raises:
        CheckpointError: the checkpoint holds another network.
    """
    wanted = abstract(wanted, sharding)
    check_shapes(folder, {kind: tree for kind, tree in wanted.items() if kind not in _BESIDES})
    try:
        return ocp.load_checkpointables(folder, {"state": wanted})["state"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} does not fit this config: {error}") from error
