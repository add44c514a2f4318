"""Devices: the mesh, the sharding of state and batch on it, and the step compiled for it."""

from collections.abc import Callable
import functools

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
import numpy as np

from colorize_jax.errors import ConfigError
from colorize_jax.tasks.task import Task
from colorize_jax.training import compiler
from colorize_jax.training.step import TrainState, train_step

AXIS = "data"


def make_mesh(devices=None) -> Mesh:
    """All devices (or the given ones) on one axis, for data parallelism.

    The axis is Auto, so that XLA propagates shardings. JAX's default, Explicit, would need a
    sharding in every gather.
    """
    devices = jax.devices() if devices is None else devices
    # Devices are in the order of the hosts, because each host reads contiguous rows of the batch.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that are equal on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def of_state(task: Task, state: TrainState, mesh: Mesh) -> TrainState:
    """The shardings of the arrays of a state (or of their shapes), in a tree of the same form.

    All are replicated, except those in `task.split`: of these every device holds some columns. The
    numbers, and the files of a checkpoint, are the same for any number of devices.
    """

    def of_array(path, x):
        name = "/".join(str(key.key) for key in path)
        if name not in task.split or x.shape[-1] % mesh.size:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), AXIS))

    same = jax.tree.map(lambda _: replicated(mesh), state)
    return same.replace(collections=jax.tree_util.tree_map_with_path(of_array, state.collections))


def check_batch(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """ConfigError if the rows of a microbatch cannot be split equally over the devices."""
    if batch_size % (mesh.size * microbatches):
        parts = mesh.size * microbatches
        raise ConfigError(
            f"config.data.batch_size={batch_size} cannot be shared by {mesh.size} devices"
            + (f" in {microbatches} microbatches" if microbatches > 1 else "")
            + f": make it a multiple of {parts}, for example {parts * -(-batch_size // parts)}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes arrays of the global batch, split over all devices, from this host's rows."""
    sharding = split(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def jit_step(
    task: Task,
    optimizer,
    mesh: Mesh,
    microbatches: int = 1,
    places: Sharding | TrainState | None = None,
) -> Callable:
    """`train_step(state, batch, key)` for a mesh: batch split, state donated.

    The state is replicated, unless `places` are its shardings (see `of_state`).
    An accelerator's compiler chooses how the arrays of the state lie in memory, since it would
    otherwise turn every kernel into the order that it wants, and back, at every step. The compiled
    step then takes a state from `laid_out` alone.
    """
    same, platform = replicated(mesh), mesh.devices.flat[0].platform
    accelerator = platform != "cpu"
    state = same if places is None else places
    if accelerator:
        state = jax.tree.map(lambda sharding: Format(Layout.AUTO, sharding), state)
    step = functools.partial(
        train_step, task=task, optimizer=optimizer, microbatches=microbatches, fused=accelerator
    )
    return jax.jit(
        step,
        in_shardings=(state, split(mesh), same),
        out_shardings=(state, same),
        donate_argnums=0,
        compiler_options=compiler.options(platform),
    )


def laid_out(state: TrainState, compiled: jax.stages.Compiled) -> TrainState:
    """The state in memory as a compiled step wants it; what lies so already is not copied."""
    (formats, _, _), _ = compiled.input_formats
    return jax.device_put(state, formats)
