"""Averages of batch norm that are computed anew before an evaluation."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved
import tiny

from colorize_jax.models import layers
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import evaluation, loop, sharding
from colorize_jax.training.runner import Runner
from colorize_jax.training.step import init_variables


def _variables(task, batch):
    return jax.jit(lambda: init_variables(jax.random.key(1), task, batch))()


def test_averages_are_over_all_photos_of_the_batches(rng):
    task = make_task(tiny.config())
    batches = [tiny.batch(rng) for _ in range(3)]
    variables = _variables(task, batches[0])
    stats = variables["batch_stats"]["encoder"]
    stats["batch_conv1"]["count"] = jnp.float32(7)
    runner = Runner(task, sharding.make_mesh(), seed=0)
    fresh = runner.fresh_norm(variables, batches)
    chex.assert_trees_all_equal(fresh["params"], variables["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(fresh, variables)
    found = fresh["batch_stats"]["encoder"]["batch_conv1"]

    gray = np.concatenate([batch["image"] for batch in batches]).mean(-1, keepdims=True) / 255
    kernel = variables["params"]["encoder"]["conv1"]["kernel"]
    maps = layers.convolve(jnp.asarray(gray - 0.448827, jnp.float32), kernel, "SAME", 2)
    np.testing.assert_allclose(found["mean"], maps.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], maps.var((0, 1, 2)), rtol=1e-3)
    assert found["count"] == 7


def test_frozen_layers_keep_theirs(rng):
    task = make_task(tiny.config())
    encoder = task.model.encoder.clone(frozen=("conv1",))
    model = task.model.clone(encoder=encoder)
    batch = tiny.batch(rng)
    variables = _variables(task, batch)
    runner = Runner(dataclasses.replace(task, model=model), sharding.make_mesh(), seed=0)
    fresh = runner.fresh_norm(variables, [batch])["batch_stats"]["encoder"]
    before = variables["batch_stats"]["encoder"]
    chex.assert_trees_all_close(fresh["batch_conv1"], before["batch_conv1"], rtol=1e-6)
    assert np.abs(fresh["batch_conv2"]["mean"] - before["batch_conv2"]["mean"]).max() > 1e-3


def test_a_run_is_scored_by_them_and_leaves_them(tmp_path):
    """They change the scores and the averages of the checkpoint, not what is learned; they follow
    from the parameters alone, so that an older run can be scored anew."""
    plain, config = tiny.config(steps=4), tiny.config(steps=4, eval__norm_batches=2)
    running = loop.train(plain, tmp_path / "plain")
    scores = loop.train(config, tmp_path / "fresh")
    assert scores["eval/loss"] != running["eval/loss"]
    before, after = (saved.state(tmp_path / name, 4) for name in ("plain", "fresh"))
    chex.assert_trees_all_equal(before["params"], after["params"])
    mean = [state["batch_stats"]["encoder"]["batch_conv3"]["mean"] for state in (before, after)]
    assert not np.array_equal(*mean)
    again = evaluation.evaluate(config, str(tmp_path / "fresh"), tmp_path / "again")
    assert again == pytest.approx(scores, rel=1e-5)
    (tmp_path / "plain/results.json").unlink()
    config.checkpoint.accept_changes = True
    assert loop.train(config, tmp_path / "plain") == pytest.approx(scores, rel=1e-5)
