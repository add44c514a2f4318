"""State and step: pure functions that say nothing about devices."""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from colorize_jax.models.finetune import freeze
from colorize_jax.tasks.task import Batch, Task
from colorize_jax.training import schedules

Tree = Any


@flax.struct.dataclass
class TrainState:
    """All that training changes. Keys are not in it: they derive from (seed, step, row).

    `nonfinite` is the latch: 0, or the number (from 1) of the first step whose loss or gradient was
    not finite. That step, and all after it, leave everything else as it was before.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    nonfinite: jax.Array

    @property
    def variables(self) -> dict[str, Tree]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(key: jax.Array, task: Task, optimizer, batch: Batch) -> TrainState:
    """A random start for a batch of that shape; parameters depend on the key alone."""
    variables = init_variables(key, task, batch)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
        nonfinite=jnp.zeros((), jnp.int32),
    )


def init_variables(key: jax.Array, task: Task, batch: Batch) -> dict[str, Tree]:
    """{"params": ..., "batch_stats": ...} of a random start; the second is empty without norm."""
    inputs, _ = task.prepare(row_keys(key, jnp.arange(len(batch["image"]))), batch)
    variables = task.model.init({"params": key}, *inputs)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def abstract_state(task: Task, optimizer, batch: Batch) -> TrainState:
    """The shapes of the state for a batch, or for the shapes of one; nothing is allocated."""
    return jax.eval_shape(
        lambda batch: init_state(jax.random.key(0), task, optimizer, batch), batch
    )


def pass_over(state: TrainState, step: int) -> TrainState:
    """The latched state, ready to go on behind that step; the schedule counts it as done."""
    return state.replace(
        step=jnp.asarray(step, jnp.int32),
        opt_state=schedules.pass_over(state.opt_state, step),
        nonfinite=jnp.zeros((), jnp.int32),
    )


def row_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """One key for every row of the global batch, whatever device the row is on."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def train_step(
    state: TrainState, batch: Batch, key: jax.Array, *, task: Task, optimizer, microbatches: int = 1
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update.

    Args:
        state: before the step.
        batch: this step's rows, or under shard_map and pmap (`task.axis_name`) this device's share.
        key: of the run; the step's own key is derived from it and `state.step`.
        task, optimizer: what to learn and how.
        microbatches: the batch is worked through in so many parts, each row in every part-th; they
            must divide it. The gradient is that of the whole batch, divided by all its points, but
            batch norm sees, and normalizes by, one part at a time.

    Returns:
        The state after the step, and scalars of this step: the losses and `grad_norm`, float32, and
        `nonfinite`, int32, the latch of the state.
    """
    axis, rows_here = task.axis_name, len(batch["image"])
    key = jax.random.fold_in(key, state.step)
    rows = jnp.arange(rows_here)
    points_key, dropout_key = jax.random.split(key)
    if axis is not None:
        device = jax.lax.axis_index(axis)
        rows += device * rows_here
        dropout_key = jax.random.fold_in(dropout_key, device)
    keys = row_keys(points_key, rows)

    def sums(params, batch_stats, batch, keys, dropout_key):
        variables = {"params": freeze(params, task.frozen), "batch_stats": batch_stats}
        values, counts, updated = forward(task, variables, batch, keys, dropout_key)
        values = {name: value.sum() for name, value in values.items()}
        return values["loss"], (values, counts.sum(), updated.get("batch_stats", {}))

    gradient_of = jax.grad(sums, has_aux=True)

    def accumulate(carry, part):
        batch_stats, total = carry
        part_batch, part_keys, index = part
        grads, (values, count, batch_stats) = gradient_of(
            state.params, batch_stats, part_batch, part_keys, jax.random.fold_in(dropout_key, index)
        )
        return (batch_stats, jax.tree.map(jnp.add, total, (grads, values, count))), None

    if microbatches == 1:
        grads, (values, count, batch_stats) = gradient_of(
            state.params, state.batch_stats, batch, keys, dropout_key
        )
    else:
        parts = jax.tree.map(lambda x: interleave(x, microbatches), (batch, keys))
        shapes = jax.eval_shape(
            gradient_of, state.params, state.batch_stats, *jax.tree.map(lambda x: x[0], parts), key
        )
        grads, (values, count, _) = shapes
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, values, count))
        carry, _ = jax.lax.scan(
            accumulate, (state.batch_stats, zeros), (*parts, jnp.arange(microbatches))
        )
        batch_stats, (grads, values, count) = carry

    if axis is not None:
        grads, values, count = jax.lax.psum((grads, values, count), axis)
    count = jnp.maximum(count, 1)
    grads = jax.tree.map(lambda x: x / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {name: value / count for name, value in values.items()}
    metrics["grad_norm"] = optax.tree.norm(grads)

    # The norm of the updates too, so that no parameter ever becomes infinite. One norm of all, and
    # no AND of many flags: XLA's CPU backend would put that into the update of every parameter.
    finite = jnp.isfinite(optax.tree.norm((metrics, batch_stats, updates)))
    updated = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        nonfinite=state.nonfinite,
    )
    kept = state.replace(
        nonfinite=jnp.where((state.nonfinite == 0) & ~finite, state.step + 1, state.nonfinite)
    )
    good = finite & (state.nonfinite == 0)
    state = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, kept)
    return state, metrics | {"nonfinite": state.nonfinite}


def forward(
    task: Task, variables: Tree, batch: Batch, keys: jax.Array, dropout_key: jax.Array, **options
) -> tuple[dict[str, jax.Array], jax.Array, dict[str, Tree]]:
    """The network in training mode on a batch, or on one microbatch.

    Args:
        options: for `model.apply`.

    Returns:
        The task's losses and counts of every row, and the collections that changed.

    Raises:
        AssertionError: the task's loss does not give one number for every row.
    """
    inputs, targets = task.prepare(keys, batch)
    outputs, updated = task.model.apply(
        variables,
        *inputs,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=["batch_stats", "intermediates"],
        **options,
    )
    values, counts = task.loss(outputs, targets)
    # The mean of all rows would train as well, by a gradient divided by their number once more.
    chex.assert_shape((*values.values(), counts), (len(keys),))
    return values, counts, updated


def interleave(x: jax.Array, parts: int) -> jax.Array:
    """[batch, ...] -> [parts, batch / parts, ...] with row r in part r mod parts.

    Every part then holds rows of every device, and no row moves between devices.
    """
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
