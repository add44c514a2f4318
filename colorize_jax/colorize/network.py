"""A trained network that colors photos: of a checkpoint, or of one small file.

The file is safetensors in bfloat16, with the parameters by their names in a checkpoint
("params/encoder/conv1_1/kernel") and, as its metadata, "network": the settings in JSON.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import safetensors
import safetensors.flax

from colorize_jax import files, paths
from colorize_jax.checkpoints import reading
from colorize_jax.config import default_config
from colorize_jax.errors import CheckpointError, ConfigError, why
from colorize_jax.log import say_once
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Colors, batch_shapes
from colorize_jax.training.step import init_variables

Tree = Any
DEFAULT = pathlib.Path(__file__).parent / "default.safetensors"
_NOTE = "network"  # in the metadata of a file


@dataclasses.dataclass(frozen=True)
class Network:
    """What colors photos.

    Attributes:
        path: where it is from.
        colors: of its task.
        variables: of its model.
        settings: {"model": ..., "task": ..., "data": ...} that it was trained with.
        size: the shortest side of the photos that suits it; 0: not known.
    """

    path: pathlib.Path
    colors: Colors
    variables: Tree
    settings: Mapping[str, Any]
    size: int = 0


def load(path: str | pathlib.Path = "") -> Network:
    """A network from a run's workdir, one of its checkpoints, or a file of `save`.

    Args:
        path: "": the one that comes with the package.

    Raises:
        CheckpointError: there is none, it is damaged, or it cannot color gray photos.
    """
    if not str(path):
        if not DEFAULT.is_file():
            raise CheckpointError(
                "this installation has no network of its own: name a checkpoint, as in "
                "--checkpoint=/ckpt/vgg16"
            )
        return _of_file(DEFAULT)
    found = pathlib.Path(paths.expand(str(path)))
    if found.is_file():
        return _of_file(found)
    folder = reading.find(found)
    if folder != found.absolute():
        say_once(f"coloring with the network of {folder}")
    settings = reading.saved_note(folder)["config"]
    saved = reading.saved_arrays(folder)
    if not any(name.startswith("params/head/") for name in saved):
        raise CheckpointError(
            f"{folder} has no head that predicts colors, but an encoder alone. A run of "
            "configs/vgg16_col.py with --config.init_from=that trains one"
        )
    colors, shapes = _built(folder, settings)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    variables = reading.read_variables(folder, shapes, sharding)
    return Network(folder, colors, variables, settings)


def save(network: Network, path: str | pathlib.Path, size: int = 0) -> int:
    """Writes a network as one small file; see the module.

    Args:
        network: from `load`.
        path: of the file, which is replaced.
        size: see `Network`.

    Returns:
        Bytes of the file.
    """
    flat = traverse_util.flatten_dict(network.variables, sep="/")
    note = {group: network.settings[group] for group in ("model", "task")}
    note |= {"data": {"crop": network.settings["data"]["crop"]}, "size": size}
    half = {
        name: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x
        for name, x in ((name, jnp.asarray(x)) for name, x in flat.items())
    }
    content = safetensors.flax.save(half, metadata={_NOTE: json.dumps(note)})
    files.atomic_write_bytes(pathlib.Path(path), content)
    return len(content)


def _of_file(path: pathlib.Path) -> Network:
    try:
        with safetensors.safe_open(str(path), "flax") as file:
            settings = json.loads((file.metadata() or {})[_NOTE])
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings["model"]["name"], settings["task"]["name"], settings["data"]["crop"]
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no network that colors photos: {why(error)}. Name a run's workdir, or a "
            "file of Colorizer.save"
        ) from error
    colors, shapes = _built(path, settings)
    wanted = traverse_util.flatten_dict(shapes, sep="/")
    for name, shape in wanted.items():
        there = flat[name].shape if name in flat else "missing"
        if there != shape.shape:
            raise CheckpointError(f"{path} is damaged: {name} is {there} and not {shape.shape}")
    variables = {name: flat[name].astype(shape.dtype) for name, shape in wanted.items()}
    size = settings.get("size", 0)
    return Network(path, colors, traverse_util.unflatten_dict(variables, sep="/"), settings, size)


def _built(path: pathlib.Path, settings: Mapping[str, Any]) -> tuple[Colors, Tree]:
    """How a network of these settings colors photos, and the shapes of its variables.

    CheckpointError if it does not.
    """
    name = settings["task"]["name"]
    if settings["model"].get("in_channels", 1) != 1:
        raise CheckpointError(
            f"the network of {path} reads photos of three channels, red, green and blue: it cannot "
            "color gray ones"
        )
    config = default_config(task=name, network=settings["model"]["name"])
    with config.unlocked():
        for group in ("model", "task"):
            known = {k: v for k, v in settings[group].items() if k in config[group]}
            config[group].update(known)
        for setting in ("crop", "views", "labels"):  # which the task is checked against
            config.data[setting] = settings["data"].get(setting, config.data[setting])
    config.model.dtype, config.model.remat = "float32", False
    try:
        task = make_task(config)
    except ConfigError as error:
        raise CheckpointError(
            f"the network of {path}, of the task {name}, cannot be built: {error}"
        ) from error
    if task.colors is None:
        raise CheckpointError(
            f"the network of {path} was trained for {name}, and predicts no colors: name a "
            "checkpoint of colorization or of gamut"
        )
    shapes = jax.eval_shape(
        lambda batch: init_variables(jax.random.key(0), task, batch), batch_shapes(task, config)
    )
    return task.colors, {kind: tree for kind, tree in shapes.items() if tree}
