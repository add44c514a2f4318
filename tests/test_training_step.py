"""The step is the same function on one device, on four, under shard_map and under pmap."""

import dataclasses
import functools

import chex
import jax
from jax.experimental.layout import Format, Layout
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.tasks import registry as tasks
from colorize_jax.tasks.task import batch_shapes
from colorize_jax.training import sharding
from colorize_jax.training.step import TrainState, init_state, row_keys, train_step

# In one step of plain descent at rate 1 the parameters change by the gradient.
DESCENT = optax.sgd(1.0)


def _task(axis_name=None, **settings):
    """A task with batch norm, without dropout, and with a head that lets the gradient pass."""
    task = tasks.make_task(tiny.config(**settings), axis_name=axis_name)
    still = task.model.clone(
        encoder=task.model.encoder.clone(dropout=0.0), head=task.model.head.clone(dropout=0.0)
    )
    return dataclasses.replace(task, model=still)


@functools.cache
def _made(norm="batch"):
    """A task and its random start."""
    task, batch = _task(model__norm=norm), tiny.batch(np.random.default_rng(0))
    state = jax.jit(lambda key: init_state(key, task, DESCENT, batch))(jax.random.key(0))
    return task, jax.device_get(state)


def _start(norm="batch"):
    state = jax.tree.map(np.copy, _made(norm)[1])
    state.params["head"]["hidden"]["kernel"] *= 1000
    return state


@functools.cache
def _step(devices, microbatches=1, norm="batch"):
    """The step on that many devices: a function that several tests call is compiled once."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    return sharding.jit_step(_made(norm)[0], DESCENT, mesh, microbatches)


@pytest.fixture(scope="module")
def reference():
    """State, batch, and the result of a step on a single device."""
    batch = tiny.batch(np.random.default_rng(0))
    state = _start()
    return state, batch, jax.device_get(_step(1)(state, batch, jax.random.key(7)))


def _assert_same(actual, reference):
    state, _, expected = reference
    gradient = jax.tree.map(jnp.subtract, state.params, actual[0].params)
    expected_gradient = jax.tree.map(jnp.subtract, state.params, expected[0].params)
    scale = optax.tree.norm(expected_gradient)
    assert scale > 0.1
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5 * float(scale))
    # A mean near zero is a sum of numbers around one, so its error is absolute.
    chex.assert_trees_all_close(
        actual[0].collections["batch_stats"],
        expected[0].collections["batch_stats"],
        rtol=3e-5,
        atol=5e-6,
    )
    chex.assert_trees_all_close(actual[1], expected[1], rtol=1e-5)


def test_four_devices_under_jit(reference):
    state, batch, _ = reference
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    placed = sharding.put_batch(batch, mesh)
    assert len(placed["image"].addressable_shards) == 4
    _assert_same(_step(4)(state, placed, jax.random.key(7)), reference)


def test_four_devices_under_shard_map(reference):
    state, batch, _ = reference
    step = functools.partial(train_step, task=_task(sharding.AXIS), optimizer=DESCENT)
    mapped = jax.shard_map(
        step, mesh=sharding.make_mesh(), in_specs=(P(), P(sharding.AXIS), P()), out_specs=P(),
        check_vma=False,
    )  # fmt: skip
    _assert_same(jax.jit(mapped)(state, batch, jax.random.key(7)), reference)


@pytest.mark.slow
def test_four_devices_under_pmap(reference):
    state, batch, _ = reference
    step = functools.partial(train_step, task=_task("i"), optimizer=DESCENT)
    mapped = jax.pmap(step, axis_name="i", in_axes=(None, 0, None), out_axes=None)
    parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
    _assert_same(mapped(state, parts, jax.random.key(7)), reference)


def test_microbatches_give_the_gradient_of_the_whole_batch_without_batch_norm():
    batch = tiny.batch(np.random.default_rng(1))
    whole, parts = (
        jax.device_get(_step(4, count, "none")(_start("none"), batch, jax.random.key(7)))
        for count in (1, 2)
    )
    chex.assert_trees_all_close(parts[0].params, whole[0].params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(parts[1], whole[1], rtol=1e-5)


def test_batch_norm_sees_one_microbatch_at_a_time():
    batch = tiny.batch(np.random.default_rng(1))
    after, _ = _step(4, 2)(_start(), batch, jax.random.key(7))
    counts = {x["count"].item() for x in after.collections["batch_stats"]["encoder"].values()}
    assert counts == {2.0}


def test_rows_that_are_not_valid_give_no_loss_and_no_gradient():
    batch = tiny.batch(np.random.default_rng(1))
    step, state = _step(4, 1, "none"), _start("none")
    batch["valid"][6:] = False
    other = batch | {"image": batch["image"].copy()}
    other["image"][6:] = 3
    chex.assert_trees_all_close(
        step(state, batch, jax.random.key(0)), step(state, other, jax.random.key(0)), rtol=1e-6
    )


def test_keys_change_with_the_step_and_with_the_seed():
    batch = tiny.batch(np.random.default_rng(1))
    step, state = _step(1), _start()
    later = state.replace(step=jnp.int32(5))
    losses = [
        float(step(s, batch, jax.random.key(k))[1]["loss"])
        for s, k in ((state, 0), (later, 0), (state, 1))
    ]
    assert len(set(losses)) == 3
    assert losses[0] == float(step(state, batch, jax.random.key(0))[1]["loss"])


def test_state_is_donated_and_the_step_compiled_once():
    batch = tiny.batch(np.random.default_rng(1))
    step, placed = _step(4), sharding.put_batch(batch, sharding.make_mesh())
    state, _ = step(_start(), placed, jax.random.key(0))
    before, sizes = state.params["head"]["hidden"]["kernel"], []
    for _ in range(3):
        state, _ = step(state, placed, jax.random.key(0))
        sizes.append(step._cache_size())
    assert before.is_deleted() and len(set(sizes)) == 1


def test_a_state_is_laid_out_as_the_compiled_step_wants_it():
    """As on an accelerator: kernels lie in another order in memory, and are the same numbers."""
    params = {"kernel": jnp.arange(24.0).reshape(1, 2, 3, 4), "bias": jnp.arange(4.0)}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, params, {}, (), zero + 0)
    same = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))

    def format_of(x):
        order = (3, 0, 1, 2) if x.ndim == 4 else tuple(range(x.ndim))
        return Format(Layout(order), same)

    formats = jax.tree.map(format_of, state)
    step = jax.jit(
        lambda state, batch, key: (state.replace(step=state.step + 1), {}),
        in_shardings=(formats, same, same), out_shardings=(formats, same), donate_argnums=0,
    )  # fmt: skip
    compiled = step.lower(state, zero, zero).compile()
    start = jax.device_put(state, same)
    with pytest.raises(ValueError, match="layout"):
        compiled(start, zero, zero)
    placed = sharding.laid_out(start, compiled)
    assert placed.params["kernel"].format.layout.major_to_minor == (3, 0, 1, 2)
    # Other programs and the host see the same numbers in it.
    total = jax.jit(lambda x: x.sum(-1), out_shardings=same)(placed.params["kernel"])
    np.testing.assert_array_equal(total.ravel(), np.arange(24).reshape(-1, 4).sum(-1))
    np.testing.assert_array_equal(np.asarray(placed.params["kernel"]).ravel(), np.arange(24))
    after, _ = compiled(placed, zero, zero)
    np.testing.assert_array_equal(after.params["kernel"].ravel(), np.arange(24))
    assert sharding.laid_out(after, compiled).params["kernel"] is after.params["kernel"]


def test_first_loss_is_that_of_zero_logits():
    (task, state), batch = _made(), tiny.batch(np.random.default_rng(1))
    _, metrics = _step(1)(state, batch, jax.random.key(0))
    points_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    keys = row_keys(points_key, jnp.arange(8))
    zeros = {"hue": jnp.zeros((8, 6, 8)), "chroma": jnp.zeros((8, 6, 8))}
    values, counts = jax.jit(lambda: task.loss(zeros, task.prepare(keys, batch)[1]))()
    np.testing.assert_allclose(metrics["loss"], values["loss"].sum() / counts.sum(), rtol=1e-3)


@pytest.mark.parametrize(
    ("batch_size", "microbatches", "message"),
    [(6, 1, "shared by 4 devices.* 8"), (4, 2, "2 microbatches.* 8")],
)
def test_a_batch_that_cannot_be_shared_is_refused(batch_size, microbatches, message):
    with pytest.raises(ConfigError, match=message):
        sharding.check_batch(batch_size, microbatches, sharding.make_mesh())


@pytest.mark.parametrize("wrong", [lambda x: x.mean(), lambda x: x[:, None]])
def test_a_loss_must_be_one_number_for_every_row(wrong):
    task, state = _made()

    def loss(outputs, targets):
        values, counts = task.loss(outputs, targets)
        return {name: wrong(value) for name, value in values.items()}, counts

    batch = batch_shapes(task, tiny.config())
    step = functools.partial(
        train_step, task=dataclasses.replace(task, loss=loss), optimizer=DESCENT
    )
    with pytest.raises(ConfigError, match="one number for every row"):
        jax.eval_shape(step, state, batch, jax.random.key(0))
