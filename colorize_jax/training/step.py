"""State and step: pure functions that say nothing about devices."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from colorize_jax.errors import ConfigError
from colorize_jax.models.finetune import freeze
from colorize_jax.tasks.task import Batch, Task
from colorize_jax.training import schedules, together

Tree = Any
_LARGEST = jnp.finfo(jnp.float32).max


@flax.struct.dataclass
class TrainState:
    """All that training changes. Keys are not in it: they derive from (seed, step, row).

    Attributes:
        step: steps done.
        params: what the optimizer changes.
        collections: the other state of the network by Linen's names: "batch_stats" always, which is
            empty without batch norm, and what else the task's model has, as "memory" or "ema".
            Each training forward changes them, but for "constants".
        opt_state: of the optimizer.
        nonfinite: the latch: 0, or the number (from 1) of the first step whose loss or gradient was
            not finite, or whose update overflows. That step, and all after it, leave everything
            else as it was before; see `train_step` for the exception.
    """

    step: jax.Array
    params: Tree
    collections: dict[str, Tree]
    opt_state: Tree
    nonfinite: jax.Array

    @property
    def variables(self) -> dict[str, Tree]:
        """What `model.apply` takes."""
        return {"params": self.params, **self.collections}

    def with_variables(self, variables: dict[str, Tree]) -> "TrainState":
        """The state with other parameters and collections."""
        params, collections = split_variables(variables)
        return self.replace(params=params, collections=collections)


def init_state(key: jax.Array, task: Task, optimizer, batch: Batch) -> TrainState:
    """A random start for a batch of that shape; parameters depend on the key alone."""
    params, collections = split_variables(init_variables(key, task, batch))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=collections,
        opt_state=optimizer.init(params),
        nonfinite=jnp.zeros((), jnp.int32),
    )


def init_variables(key: jax.Array, task: Task, batch: Batch) -> dict[str, Tree]:
    """{"params": ..., "batch_stats": ..., ...} of a random start, each collection of the model."""
    inputs, _ = task.prepare(row_keys(key, jnp.arange(len(batch["image"]))), batch)
    variables = task.model.init({"params": key}, *inputs)
    return {"batch_stats": {}} | {k: v for k, v in variables.items() if k != "intermediates"}


def split_variables(variables: dict[str, Tree]) -> tuple[Tree, dict[str, Tree]]:
    """(parameters, other collections) of what `model.apply` takes."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


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
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    task: Task,
    optimizer,
    microbatches: int = 1,
    fused: bool = False,
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
        fused: parameters and optimizer are read and written in one pass, for accelerators: whether
            the update overflows is found in what it writes. If it does, which takes an absurd rate
            since the gradient is finite, it is not held back: what would be infinite is the largest
            float. Otherwise a pass before it finds out.

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

    def sums(params, collections, batch, keys, dropout_key):
        variables = {"params": freeze(params, task.frozen), **collections}
        values, counts, collections, _ = forward(task, variables, batch, keys, dropout_key)
        values = {name: value.sum() for name, value in values.items()}
        return values["loss"], (values, counts.sum(), collections)

    gradient_of = jax.grad(sums, has_aux=True)

    def accumulate(carry, part):
        collections, total = carry
        part_batch, part_keys, index = part
        grads, (values, count, collections) = gradient_of(
            state.params, collections, part_batch, part_keys, jax.random.fold_in(dropout_key, index)
        )
        return (collections, jax.tree.map(jnp.add, total, (grads, values, count))), None

    if microbatches == 1:
        grads, (values, count, collections) = gradient_of(
            state.params, state.collections, batch, keys, dropout_key
        )
    else:
        parts = jax.tree.map(lambda x: interleave(x, microbatches), (batch, keys))
        shapes = jax.eval_shape(
            gradient_of, state.params, state.collections, *jax.tree.map(lambda x: x[0], parts), key
        )
        grads, (values, count, _) = shapes
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, values, count))
        carry, _ = jax.lax.scan(
            accumulate, (state.collections, zeros), (*parts, jnp.arange(microbatches))
        )
        collections, (grads, values, count) = carry

    if axis is not None:
        grads, values, count = jax.lax.psum((grads, values, count), axis)
    count = jnp.maximum(count, 1)
    grads = jax.tree.map(lambda x: x / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {name: value / count for name, value in values.items()}
    metrics["grad_norm"] = together.norm(grads) if fused else together.norm_by_products(grads)
    changed = (optax.apply_updates(state.params, updates), collections, opt_state)
    before = (state.params, state.collections, state.opt_state)
    if fused:
        good = jnp.isfinite(optax.tree.norm(metrics)) & (state.nonfinite == 0)
        written = together.chosen(good, jax.tree.map(_capped, changed), before)
        largest = together.largest([x for x in jax.tree.leaves(written[:2]) if _floating(x)])
        good &= largest < _LARGEST
    else:
        # The norm of the updates too. One number of all, and no AND of many flags: XLA's CPU
        # backend would put that into the update of every parameter. The collections may hold
        # arrays that are split over devices, which a product would gather.
        floats = [x for x in jax.tree.leaves(collections) if _floating(x)]
        # SGD as Caffe's and LARS end with a change of sign. XLA joins it with this one to none, and
        # takes the norm of the velocity that they keep, without a copy of all updates.
        norm = together.norm_by_products(jax.tree.map(lambda x: -1 * x, updates))
        norm += optax.tree.norm((metrics, floats))
        finite = jnp.isfinite(norm)
        good = finite & (state.nonfinite == 0)
        written = jax.tree.map(functools.partial(jnp.where, good), changed, before)
    params, collections, opt_state = written
    at_fault = jnp.where(good, 0, state.step + 1)
    state = TrainState(
        step=jnp.where(good, state.step + 1, state.step),
        params=params,
        collections=collections,
        opt_state=opt_state,
        nonfinite=jnp.where(state.nonfinite == 0, at_fault, state.nonfinite),
    )
    return state, metrics | {"nonfinite": state.nonfinite}


def _capped(x: jax.Array) -> jax.Array:
    """The largest float in the place of what is not finite."""
    return jnp.where(jnp.isfinite(x), x, _LARGEST) if _floating(x) else x


def _floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def forward(
    task: Task, variables: Tree, batch: Batch, keys: jax.Array, dropout_key: jax.Array, **options
) -> tuple[dict[str, jax.Array], jax.Array, dict[str, Tree], Tree]:
    """The network in training mode on a batch, or on one microbatch.

    Args:
        options: for `model.apply`.

    Returns:
        The task's losses and counts of every row; the collections after it; and what Linen was
        asked to keep of the way ("intermediates").

    Raises:
        ConfigError: the task's loss does not give one number for every row.
    """
    _, collections = split_variables(variables)
    inputs, targets = task.prepare(keys, batch)
    outputs, updated = task.model.apply(
        variables,
        *inputs,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=[*(name for name in collections if name != "constants"), "intermediates"],
        **options,
    )
    values, counts = task.loss(outputs, targets)
    # The mean of all rows would train as well, by a gradient divided by their number once more.
    wrong = {name: x.shape for name, x in {**values, "counts": counts}.items()
             if x.shape != (len(keys),)}  # fmt: skip
    if wrong:
        raise ConfigError(
            f"the task's loss gives arrays of shape {wrong} for {len(keys)} rows: it must give one "
            "number for every row, and the counts to divide their sum by"
        )
    kept = updated.pop("intermediates", {})
    return values, counts, collections | updated, kept


def interleave(x: jax.Array, parts: int) -> jax.Array:
    """[batch, ...] -> [parts, batch / parts, ...] with row r in part r mod parts.

    Every part then holds rows of every device, and no row moves between devices.
    """
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
