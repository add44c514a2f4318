"""A loss that is not finite: the latch, the report, the replay, and skipping the batch."""

import contextlib
import dataclasses
import functools
import json
import shutil
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import pytest
import saved
import tiny

from colorize_jax.data import pipeline
from colorize_jax.errors import CheckpointError, NonFiniteError
from colorize_jax.tasks import registry as tasks
from colorize_jax.training import loop, nonfinite, optimizers, saving, setup
from colorize_jax.training.step import TrainState, init_state, pass_over, train_step

POISON = 10**6  # A position plus this number makes its row bad.


def _poisoned(config, facts=None, what="input"):
    """The task with NaN in the input of bad rows, or in the gradient of a batch with one."""
    task = tasks.make_task(config, facts)

    def prepare(keys, batch):
        (gray, *others), targets = task.prepare(keys, batch)
        bad = batch["position"] >= POISON
        if what == "input":
            gray = gray * jnp.where(bad, jnp.nan, 1.0)[:, None, None, None]
        return (gray, *others), targets | {"bad": bad}

    def loss(outputs, targets):
        values, counts = task.loss(outputs, {k: v for k, v in targets.items() if k != "bad"})
        if what == "gradient":
            # Its value is 0. For a good batch it is sqrt(1) - 1; for a bad one sqrt'(0) = inf.
            root = jnp.sqrt(0.0 * values["loss"] + ~targets["bad"])
            values = values | {"loss": values["loss"] + root - jax.lax.stop_gradient(root)}
        return values, counts

    return dataclasses.replace(task, prepare=prepare, loss=loss)


_poisoned_once = programs.remembered(
    _poisoned, lambda config, facts: (config.task.to_json(), config.model.to_json(), facts)
)


@pytest.mark.parametrize(("what", "fused"), [("input", True), ("gradient", False)])
def test_a_step_that_is_not_finite_changes_nothing_and_latches(rng, what, fused):
    config = tiny.config()
    task = _poisoned(config, what=what)
    optimizer = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda count: -0.01))
    batch = tiny.batch(rng)
    bad = batch | {"position": batch["position"] + POISON * (batch["position"] == 3)}
    key = jax.random.key(0)
    start = jax.jit(lambda: init_state(key, task, optimizer, batch))()
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer, fused=fused))
    one, metrics = step(start, batch, key)
    assert metrics["nonfinite"] == 0 and one.step == 1
    two, metrics = step(one, bad, key)
    assert metrics["nonfinite"] == two.nonfinite == 2 and not np.isfinite(metrics["grad_norm"])
    assert np.isfinite(metrics["loss"]) == (what == "gradient")
    chex.assert_trees_all_equal(two.replace(nonfinite=one.nonfinite), one)
    # All later steps change nothing either, until the host has seen it.
    three, metrics = step(two, batch, key)
    assert metrics["nonfinite"] == 2 and np.isfinite(metrics["loss"])
    chex.assert_trees_all_equal(three, two)
    # Then the run continues as if that batch did not exist, with the keys and the rate of step 3.
    again, metrics = step(pass_over(three, 2), batch, key)
    assert again.step == 3 and metrics["nonfinite"] == 0
    counts = optax.tree.get_all_with_path(again.opt_state, "count")
    assert [int(count) for _, count in counts] == [3]


def _linear():
    """A task whose network is one layer, so that a step compiles in no time; and a batch."""
    task = tasks.make_task(tiny.config())

    def apply(variables, *_, **__):
        kernel, bias = (variables["params"]["head"][name] for name in ("kernel", "bias"))
        kernel = kernel.reshape(-1, kernel.shape[-1])
        return (jnp.ones((8, len(kernel))) @ kernel + bias).sum(1), {}

    encoder = types.SimpleNamespace(axis_name=None, frozen_groups=())
    model = types.SimpleNamespace(apply=apply, encoder=encoder)
    task = dataclasses.replace(
        task, model=model, prepare=lambda keys, batch: ((), batch["image"][:, 0, 0, 0]),
        loss=lambda outputs, counts: ({"loss": outputs}, counts.astype(jnp.float32)),
    )  # fmt: skip
    return task, {"image": jnp.ones((8, 1, 1, 3), jnp.uint8)}


def _start(params, optimizer):
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, {"batch_stats": {}}, optimizer.init(params), zero)


def test_in_one_pass_an_update_that_overflows_leaves_finite_numbers_and_latches():
    task, batch = _linear()
    optimizer = optax.chain(optax.sgd(3e38), optax.scale(10.0))
    start = _start({"head": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}, optimizer)
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer, fused=True))
    one, metrics = step(start, batch, jax.random.key(0))
    assert metrics["nonfinite"] == 1 and one.step == 0 and np.isfinite(metrics["grad_norm"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(one.params))
    two, metrics = step(one, batch, jax.random.key(0))
    assert metrics["nonfinite"] == 1
    chex.assert_trees_all_equal(two, one)


def test_a_step_on_a_cpu_needs_no_copy_of_the_updates():
    """Only gradient and velocity, beside what it is given."""
    task, batch = _linear()
    rate = optax.scale_by_schedule(lambda count: 0.01 / (1 + count))
    optimizer = optimizers.caffe_sgd(rate, momentum=0.9, weight_decay=1e-4)
    params = {"head": {"kernel": jnp.ones((2, 2, 128, 512)), "bias": jnp.zeros(512)}}
    step = functools.partial(train_step, task=task, optimizer=optimizer)
    arguments = _start(params, optimizer), batch, jax.random.key(0)
    compiled = jax.jit(step, donate_argnums=0).lower(*arguments).compile()
    size = params["head"]["kernel"].nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < 2.1 * size


@pytest.fixture
def poison(monkeypatch):
    """Makes rows bad by their positions in the data; all tests share one program."""
    positions = []
    plain = pipeline.training_batches

    def poisoned(*arguments, **options):
        batches = plain(*arguments, **options)
        with contextlib.closing(batches):
            for batch in batches:
                bad = np.isin(batch["position"], positions)
                yield batch | {"position": batch["position"] + POISON * bad}

    monkeypatch.setattr(pipeline, "training_batches", poisoned)
    monkeypatch.setattr(setup, "make_task", _poisoned_once)

    def poison(*now):
        positions[:] = now

    return poison


# The save finds it, or the step two later.
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 100])
def test_a_run_stops_with_a_report_that_can_be_replayed(tmp_path, poison, every, capfd):
    poison(17)
    settings = {"checkpoint__every": every, "eval__every": 100, "microbatches": 2, "log__every": 1}
    config = tiny.config(**settings)
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
    # Position 17 is row 1; batch norm spreads it over its microbatch, which has the odd rows.
    assert [np.isfinite(row["loss"]) for row in result["records"]] == [True, False] * 4
    finite = {name: np.isfinite(value) for name, value in result["activations"].items()}
    assert not finite["encoder/conv1"] and list(finite)[0] == "encoder/conv1"
    assert not np.isfinite(result["gradients"]["head/hue/kernel"])
    shown = capfd.readouterr().err
    assert "the first layer that is not finite: encoder/conv1" in shown
    assert "gradients that are not finite: " in shown
    assert json.loads((tmp_path / "look" / "replay_3.json").read_text())["step"] == 3
    assert (tmp_path / "look" / "replay_3.png").stat().st_size > 1000

    poison()  # Without the bad row, the replayed step gives the result of a run.
    result = nonfinite.replay(config, tmp_path / "look")
    assert all(map(np.isfinite, result["gradients"].values()))
    if every == 1:
        loop.train(tiny.config(**settings, steps=3), tmp_path / "clean")
        expected = next(r for r in saved.rows(tmp_path / "clean") if r["step"] == 3)["train/loss"]
        mean = np.mean([row["loss"] for row in result["records"]])
        np.testing.assert_allclose(mean, expected, rtol=1e-3)


def test_a_run_may_skip_a_limited_number_of_batches(tmp_path, poison, capfd):
    poison(17, 47)  # steps 3 and 6, the last one
    settings = {"checkpoint__every": 1, "checkpoint__keep": 9, "microbatches": 2}
    with pytest.raises(NonFiniteError, match=r"step 6 .*config\.nonfinite_skips=2"):
        loop.train(tiny.config(**settings, nonfinite_skips=1), tmp_path)
    assert "going on without it (1 so far)" in capfd.readouterr().err
    before, after = saved.state(tmp_path, 2), saved.state(tmp_path, 3)
    chex.assert_trees_all_equal(after["params"], before["params"])
    assert before["step"] == 2 and after["step"] == 3
    # The allowed number may be raised during the run.
    scores = loop.train(tiny.config(**settings, nonfinite_skips=2), tmp_path)
    assert np.isfinite(list(scores.values())).all()
    assert saved.state(tmp_path, 6)["step"] == 6
    assert [r["step"] for r in saved.rows(tmp_path) if "eval/loss" in r] == [0, 3, 6]


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path, poison, monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write", full)
    poison(17)
    loop.train(tiny.config(microbatches=2, nonfinite_skips=1), tmp_path)
    assert "its report could not be written: No space left on device; going on" in (
        capfd.readouterr().err
    )


def test_an_update_that_is_not_finite_is_caught_before_it_spoils_the_parameters(tmp_path):
    config = tiny.config(optimizer__rate=3e38, schedule__drops=(), microbatches=2)
    with pytest.raises(NonFiniteError, match="step 1 .*overflows"):
        loop.train(config, tmp_path)


def test_what_is_no_report_is_refused(tmp_path):
    config = tiny.config(replay=str(tmp_path / "nonfinite_3.json"))
    with pytest.raises(CheckpointError, match="no .*nonfinite_<step>"):
        nonfinite.replay(config, tmp_path)
    report = {
        "step": 3,
        "positions": [4, 5],
        "records": ["a.jpg", "b.jpg"],
        "config": {"early_stopping": {"mode": "off"}, "data": {"source": "/photos"}},
        "microbatches": 1,
    }
    for name, value, message in (
        ("microbatches", 0, '"microbatches" is 0'),
        ("records", "a.jpg", '"records" is "a.jpg" and not a list'),
        ("config", {"early_stopping": []}, '"config.early_stopping" is a list'),
        ("positions", [4, 6], "are not those of the records of step 3"),
        ("step", 2, "are not those of the records of step 2"),
        ("step", 3, "the state of .* is missing"),
    ):
        (tmp_path / "nonfinite_3.json").write_text(json.dumps(report | {name: value}))
        with pytest.raises(CheckpointError, match=message):
            nonfinite.replay(config, tmp_path)
    # The rest of a killed save is no state.
    shutil.copytree(tmp_path, tmp_path / "nonfinite_3" / "state")
    with pytest.raises(CheckpointError, match="has no manifest"):
        nonfinite.replay(config, tmp_path)
