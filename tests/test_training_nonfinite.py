"""A loss that is not finite: the latch, the report, the replay, and going on without the batch."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saved
import tiny

from colorize_jax.errors import CheckpointError, NonFiniteError
from colorize_jax.tasks import task as tasks
from colorize_jax.training import loop, nonfinite
from colorize_jax.training.step import init_state, pass_over, train_step


def _poisoned(config, *positions, what="input"):
    """The task, with a NaN in the network's input (or the gradient) at positions of the data."""
    task = tasks.make_task(config)

    def prepare(keys, batch):
        (gray, *others), targets = task.prepare(keys, batch)
        bad = jnp.isin(batch["position"], jnp.array(positions))
        factor = jnp.where(bad, jnp.nan, 1.0)[:, None, None, None]
        return (gray * factor, *others), targets | {"bad": bad.any()}

    def loss(outputs, targets):
        values, counts = task.loss(outputs, {k: v for k, v in targets.items() if k != "bad"})
        return values, counts

    def loss_with_bad_gradient(outputs, targets):
        values, counts = loss(outputs, targets)
        # Its value is 0; the gradient of sqrt at 0 is infinite, times 0 gives NaN.
        shift = jnp.sqrt(0.0 * values["loss"].sum() * targets["bad"])
        return values | {"loss": values["loss"] + shift}, counts

    if what == "gradient":
        return dataclasses.replace(
            task,
            prepare=lambda keys, batch: (
                task.prepare(keys, batch)[0],
                task.prepare(keys, batch)[1]
                | {"bad": jnp.isin(batch["position"], jnp.array(positions)).any()},
            ),
            loss=lambda outputs, targets: jax.lax.cond(
                targets["bad"], loss_with_bad_gradient, loss, outputs, targets
            ),
        )
    return dataclasses.replace(task, prepare=prepare, loss=loss)


@pytest.mark.parametrize("what", ["input", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_latches(rng, what):
    config = tiny.config()
    task = _poisoned(config, 8, what=what)
    optimizer = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda count: -0.01))
    batch = tiny.batch(rng)
    key = jax.random.key(0)
    start = jax.jit(lambda: init_state(key, task, optimizer, batch))()
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer))
    one, metrics = step(start, batch, key)
    assert metrics["nonfinite"] == 0 and one.step == 1
    two, metrics = step(one, batch | {"position": np.arange(8, 16)}, key)
    assert metrics["nonfinite"] == two.nonfinite == 2 and not np.isfinite(metrics["grad_norm"])
    chex.assert_trees_all_equal(two.replace(nonfinite=one.nonfinite), one)
    # All that follows is held back too, until somebody has looked.
    three, metrics = step(two, batch, key)
    assert metrics["nonfinite"] == 2 and np.isfinite(metrics["loss"])
    chex.assert_trees_all_equal(three, two)
    # Behind it the run goes on as if that batch had not been: with the keys and the rate of step 3.
    again, metrics = step(pass_over(three, 2), batch, key)
    assert again.step == 3 and metrics["nonfinite"] == 0
    counts = optax.tree.get_all_with_path(again.opt_state, "count")
    assert [int(count) for _, count in counts] == [3]


@pytest.fixture
def poison(monkeypatch):
    def poison(*positions):
        for module in (loop, nonfinite):
            monkeypatch.setattr(module, "make_task", lambda config: _poisoned(config, *positions))

    return poison


@pytest.mark.parametrize("every", [1, 100])  # found by the save, or by the step two later
def test_a_run_stops_with_a_report_that_can_be_replayed(tmp_path, poison, every, capfd):
    poison(17)
    config = tiny.config(checkpoint__every=every, log__every=100, eval__every=100, microbatches=2)
    with pytest.raises(NonFiniteError, match=r"step 3 is not finite .*nonfinite_3\.json"):
        loop.train(config, tmp_path)
    report = json.loads((tmp_path / "nonfinite_3.json").read_text())
    assert report["step"] == 3 and report["positions"] == list(range(16, 24))
    assert len(report["records"]) == 8 and report["metrics"]["loss"] == "nan"
    if every == 1:
        kept = saved.state(tmp_path, 2)
        chex.assert_trees_all_equal(saved.state(tmp_path, 2, "nonfinite_3"), kept)

    config.replay = str(tmp_path / "nonfinite_3.json")
    result = nonfinite.replay(config, tmp_path / "look")
    assert [row["name"] for row in result["records"]] == report["records"]
    # Position 17 is row 1; batch norm spreads it over its microbatch, the odd rows.
    assert [np.isfinite(row["loss"]) for row in result["records"]] == [True, False] * 4
    finite = {name: np.isfinite(value) for name, value in result["activations"].items()}
    assert not finite["encoder/conv1_1"] and list(finite)[0] == "encoder/conv1_1"
    assert not np.isfinite(result["gradients"]["head/hue/kernel"])
    shown = capfd.readouterr().err
    assert "the first layer that is not finite: encoder/conv1_1" in shown
    assert json.loads((tmp_path / "look" / "replay_3.json").read_text())["step"] == 3
    assert (tmp_path / "look" / "replay_3.png").stat().st_size > 1000

    poison()  # the fault is mended: the same step again is finite, and is what it was in the run
    result = nonfinite.replay(config, tmp_path / "look")
    assert all(np.isfinite(row["loss"]) for row in result["records"])
    assert all(map(np.isfinite, result["gradients"].values()))


def test_a_replay_computes_the_loss_of_the_run(tmp_path, poison):
    poison(17)
    config = tiny.config(steps=4)
    with pytest.raises(NonFiniteError):
        loop.train(config, tmp_path / "poisoned")
    poison()
    loop.train(tiny.config(steps=4, log__every=1), tmp_path / "clean")
    config.replay = str(tmp_path / "poisoned" / "nonfinite_3.json")
    result = nonfinite.replay(config, tmp_path / "look")
    expected = next(r for r in saved.rows(tmp_path / "clean") if r["step"] == 3)["train/loss"]
    mean = np.mean([row["loss"] for row in result["records"]])
    np.testing.assert_allclose(mean, expected, rtol=1e-3)


def test_a_run_may_go_on_without_so_many_batches(tmp_path, poison, capfd):
    poison(17, 47)  # steps 3 and 6, the last one
    config = tiny.config(checkpoint__every=1, checkpoint__keep=9, nonfinite_skips=1)
    with pytest.raises(NonFiniteError, match=r"step 6 .*config\.nonfinite_skips=2"):
        loop.train(config, tmp_path)
    assert "going on without it (1 so far)" in capfd.readouterr().err
    before, after = saved.state(tmp_path, 2), saved.state(tmp_path, 3)
    chex.assert_trees_all_equal(after["params"], before["params"])
    assert before["step"] == 2 and after["step"] == 3
    # The number allowed may be raised on the way.
    scores = loop.train(tiny.config(checkpoint__every=1, nonfinite_skips=2), tmp_path)
    assert np.isfinite(list(scores.values())).all()
    assert saved.state(tmp_path, 6)["step"] == 6
    assert [r["step"] for r in saved.rows(tmp_path) if "eval/loss" in r] == [0, 3, 6]


def test_what_is_no_report_is_refused(tmp_path):
    config = tiny.config(replay=str(tmp_path / "nonfinite_3.json"))
    with pytest.raises(CheckpointError, match="is no nonfinite_<step>"):
        nonfinite.replay(config, tmp_path)
    (tmp_path / "nonfinite_3.json").write_text(
        '{"step": 3, "records": [], "config": {}, "microbatches": 1}'
    )
    with pytest.raises(CheckpointError, match="the state of .* is missing"):
        nonfinite.replay(config, tmp_path)
