"""The promises that every task must keep; a new task is tested without a change here."""

import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saved
import toys

from colorize_jax.tasks import registry
from colorize_jax.training import loop, sharding
from colorize_jax.training.step import init_state, row_keys, train_step

TASKS = registry.names()
# Tasks that are trained only with -m slow: other files train them fully, or their steps take the
# compiler long and test nothing that other tasks do not.
_TRAINED = (
    "classification", "colorization", "context_encoder", "counting", "cpc", "gamut", "jigsaw",
    "lab_decoder", "mae", "multi", "relative_patch", "segmentation", "simclr", "split_brain",
    "zhang",
)  # fmt: skip
IN_TRAINING = [
    pytest.param(name, marks=pytest.mark.slow) if name in _TRAINED else name for name in TASKS
]
# Their programs take the compiler seconds each. They go through all of this with -m slow; what they
# have of their own is tested in their own files.
_HEAVY = (
    "context_encoder", "counting", "cpc", "jigsaw", "lab_decoder", "mae", "multi", "relative_patch",
    "simclr", "split_brain",
)  # fmt: skip
COMPILED = [
    pytest.param(name, marks=pytest.mark.slow) if name in _HEAVY else name for name in TASKS
]
# Tasks in whose losses more photos are more candidates, and those whose losses take longer to
# compile.
_COMPARING = ("cpc", "instances", "simclr")
_LONGER = (
    "colorization", "gamut", "jigsaw", "mae", "multi", "segmentation", "split_brain", "zhang",
)  # fmt: skip
MEANS = [
    pytest.param(name, marks=pytest.mark.slow) if name in _LONGER else name
    for name in TASKS
    if name not in _COMPARING
]
KEY = jax.random.key(3)
ADAM = optax.adam(0.02)


@functools.cache
def _toy(name):
    """Task and a batch of toy photos. Without batch norm, by which every row of a batch would
    change every other one."""
    config, task = toys.make(name, model__norm="none")
    return task, toys.batch(config, task, np.random.default_rng(0))


def _start(name, optimizer):
    """key -> the state before training."""
    task, batch = _toy(name)

    def start(key):
        state = init_state(key, task, optimizer, batch)
        if task.fit:
            constants = task.fit.constants(task.fit.sums(_keys(), batch))
            state = state.replace(collections=state.collections | {"constants": constants})
        return state

    return start


@functools.cache
def _made(name):
    """Task, batch, and the state before training."""
    return *_toy(name), jax.device_get(jax.jit(_start(name, ADAM))(jax.random.key(0)))


@functools.cache
def _step(name, devices=1):
    """A function (state, batch) -> state and scalars after a step on this many devices."""
    task, mesh = _made(name)[0], sharding.make_mesh(jax.devices()[:devices])
    step = sharding.jit_step(task, ADAM, mesh)
    return lambda state, batch: step(state, sharding.put_batch(batch, mesh), KEY)


def _keys():
    return row_keys(KEY, jnp.arange(toys.PHOTOS))


def _held_out(task, batch):
    """The batch as evaluation reads it: with one view of every photo."""
    return batch if task.views == 1 else batch | {"image": batch["image"][:, 0]}


@pytest.mark.parametrize("name", TASKS)
def test_known_values_are_tested_in_a_file_of_its_own(name):
    assert (saved.ROOT / "tests" / f"test_tasks_{name}.py").exists()


@pytest.mark.parametrize("name", COMPILED)
def test_loss_and_gradient_are_finite_at_extremes(name):
    _, batch, state = _made(name)
    checks = np.indices(batch["image"].shape[1:-1]).sum(0)[..., None] % 2 * 255
    for image in (0, 255, 90, checks):
        extreme = batch | {"image": np.broadcast_to(image, batch["image"].shape).astype(np.uint8)}
        after, metrics = _step(name)(state, extreme)
        assert metrics["nonfinite"] == 0 and np.isfinite(metrics["grad_norm"])
        chex.assert_tree_all_finite(after.params)


@pytest.mark.parametrize("name", COMPILED)
def test_loss_is_finite_where_the_network_is_very_sure(name):
    task, batch, state = _made(name)

    @jax.jit
    def losses(variables, scale):
        params = {
            group: tree if group == "encoder" else jax.tree.map(lambda x: scale * x, tree)
            for group, tree in variables["params"].items()
        }
        inputs, targets = task.prepare(_keys(), batch)
        return task.loss(task.model.apply(variables | {"params": params}, *inputs), targets)

    for scale in (1e6, -1e6):
        chex.assert_tree_all_finite(losses(state.variables, scale))


@pytest.mark.parametrize("name", COMPILED)
def test_rows_that_are_not_valid_give_nothing(name):
    task, batch, state = _made(name)
    batch = batch | {"valid": np.arange(toys.PHOTOS) < 5}
    other = {k: v if k == "valid" else np.concatenate([v[:5], v[:3]]) for k, v in batch.items()}
    one, two = (_step(name)(state, rows) for rows in (batch, other))
    chex.assert_trees_all_close(one, two, rtol=1e-6, atol=1e-7)
    evaluator = task.evaluator

    @jax.jit
    def scores(variables, batch):
        statistics = evaluator.statistics and evaluator.statistics(_keys(), batch)
        return evaluator.on_batch(variables, statistics, _keys(), _held_out(task, batch))[0]

    one, two = (scores(state.variables, rows) for rows in (batch, other))
    chex.assert_trees_all_close(one, two, rtol=1e-6)
    nothing = batch | {"valid": np.zeros(toys.PHOTOS, bool)}
    after, metrics = _step(name)(state, nothing)
    assert metrics["loss"] == metrics["grad_norm"] == 0 and metrics["nonfinite"] == 0
    chex.assert_trees_all_equal(after.collections, state.collections)


@pytest.mark.parametrize("name", MEANS)
def test_copies_of_all_photos_leave_the_loss_as_it_is(name):
    task, batch = _toy(name)
    batch = batch | {"valid": np.arange(toys.PHOTOS) != 2}
    inputs, _ = jax.eval_shape(task.prepare, _keys(), batch)
    shapes, _ = jax.eval_shape(task.model.init_with_output, KEY, *inputs)
    rng = np.random.default_rng(0)
    outputs = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes)

    def loss(keys, batch, outputs):
        values, counts = task.loss(outputs, task.prepare(keys, batch)[1])
        return values["loss"].sum() / counts.sum()

    def twice(x):
        return np.concatenate([x, x]) if x.shape[:1] == (toys.PHOTOS,) else x

    keys = jnp.concatenate([_keys(), _keys()])
    one = jax.jit(loss)(_keys(), batch, outputs)
    two = jax.jit(loss)(keys, *jax.tree.map(twice, (batch, outputs)))
    assert one > 0
    np.testing.assert_allclose(two, one, rtol=1e-5)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_step_does_not_depend_on_the_number_of_devices(name):
    _, batch, state = _made(name)
    one, four = (jax.device_get(_step(name, devices)(state, batch)) for devices in (1, 4))
    chex.assert_trees_all_close(four[1], one[1], rtol=1e-5)
    chex.assert_trees_all_close(four[0].collections, one[0].collections, rtol=1e-5, atol=1e-6)
    mu, scale = optax.tree.get(one[0].opt_state, "mu"), float(one[1]["grad_norm"])
    assert scale > 0  # After a step `mu` is a tenth of the gradient.
    chex.assert_trees_all_close(
        optax.tree.get(four[0].opt_state, "mu"), mu, rtol=1e-5, atol=1e-6 * scale
    )


@pytest.mark.parametrize("name", TASKS)
def test_no_type_is_promoted_implicitly(name):
    """No integer silently becomes a float, and no half precision becomes single precision."""
    (task, batch), sgd = _toy(name), optax.sgd(1.0)  # optax's Adam promotes; it is not our code.
    evaluator, key = task.evaluator, jax.random.key(0)
    state = jax.eval_shape(_start(name, sgd), key)

    def scores(variables, batch, keys):
        statistics = evaluator.statistics and evaluator.statistics(keys, batch)
        return evaluator.on_batch(variables, statistics, keys, _held_out(task, batch))

    with jax.numpy_dtype_promotion("strict"):
        train = functools.partial(train_step, task=task, optimizer=sgd, microbatches=2)
        jax.eval_shape(train, state, batch, key)
        jax.eval_shape(scores, state.variables, batch, _keys())
        if evaluator.pictures:
            jax.eval_shape(evaluator.pictures, state.variables, _held_out(task, batch))
        if task.fit:
            jax.eval_shape(lambda *of: task.fit.constants(task.fit.sums(*of)), _keys(), batch)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_toy_photos_are_learned(name):
    _, batch, state = _made(name)
    found = []
    for _ in range(80):
        state, metrics = _step(name)(state, batch)
        found.append(float(metrics["loss"]))
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:3])


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_run_resumes_bit_exactly(name, tmp_path):
    settings = {"steps": 2, "checkpoint__every": 1, "eval__every": 2, "eval__pictures": 0}
    config, _ = toys.make(name, **settings)
    config.data.source = toys.source(config, tmp_path / "photos")
    run = tmp_path / "run"
    scores = loop.train(config, run)
    assert np.isfinite(scores["eval/loss"])
    rows, state = saved.rows(run, times=False), saved.state(run, 2)
    shutil.rmtree(run / "checkpoints" / "2")  # The run looks as if killed in the second step.
    (run / "results.json").unlink()
    assert loop.train(config, run) == scores
    chex.assert_trees_all_equal(saved.state(run, 2), state)
    assert saved.rows(run, times=False) == rows
