"""Caffe's SGD written out by hand, and the schedule of the paper's recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.training import early_stopping, optimizers


def test_five_steps_over_a_drop_are_those_of_caffe(rng):
    rates = [0.1, 0.1, 0.01, 0.01, 0.001]
    schedule = optimizers.Schedule(steps=5, drops=(2, 4), snapshots=())
    momentum, decay = 0.9, 0.05
    optimizer = optimizers.caffe_sgd(
        optax.scale_by_schedule(schedule.rate(0.1)),
        momentum=momentum, weight_decay=decay, bias_rate=2.0,
    )  # fmt: skip
    params = {"fc6": {"kernel": jnp.asarray(rng.normal(size=4)), "bias": jnp.ones(2)}}
    state = optimizer.init(params)
    kernel, bias = np.array(params["fc6"]["kernel"], np.float64), np.ones(2)
    speed_kernel, speed_bias = np.zeros(4), np.zeros(2)
    for rate in rates:
        gradient = {"kernel": rng.normal(size=4), "bias": rng.normal(size=2)}
        speed_kernel = momentum * speed_kernel + rate * (gradient["kernel"] + decay * kernel)
        speed_bias = momentum * speed_bias + 2 * rate * gradient["bias"]
        kernel, bias = kernel - speed_kernel, bias - speed_bias
        gradient = {"fc6": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient)}
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        np.testing.assert_allclose(params["fc6"]["kernel"], kernel, rtol=1e-5)
        np.testing.assert_allclose(params["fc6"]["bias"], bias, rtol=1e-5)


@pytest.mark.parametrize(
    ("batch", "steps", "first_drop", "snapshots"),
    [
        (8, 1_387_500, 925_000, (92_500, 462_500, 925_000, 1_387_500)),
        (16, 693_750, 462_500, (46_250, 231_250, 462_500, 693_750)),
    ],
)
def test_three_epochs_of_the_paper(batch, steps, first_drop, snapshots):
    config = optimizers_config(batch)
    schedule = optimizers.make_schedule(config, photos=3_700_000)
    assert schedule.steps == steps
    assert schedule.drops == (first_drop, round(first_drop * 1.25), round(first_drop * 1.375))
    assert schedule.snapshots == snapshots
    rate = schedule.rate(1e-3)
    for step, expected in (
        (0, 1e-3),
        (first_drop - 1, 1e-3),
        (first_drop, 1e-4),
        (steps - 1, 1e-6),
    ):
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5)


def optimizers_config(batch):
    from colorize_jax.config.settings import default_config

    config = default_config()
    config.data.batch_size = batch
    return config


def test_steps_take_the_place_of_epochs_and_keep_the_fractions():
    schedule = optimizers.make_schedule(tiny.config(steps=30), photos=10)
    assert schedule == optimizers.Schedule(steps=30, drops=(15,), snapshots=())


def test_snapshots_past_the_end_are_left_out():
    config = tiny.config(steps=10, checkpoint__snapshots=(0.5, 1.0, 7.0), data__batch_size=4)
    assert optimizers.make_schedule(config, photos=16).snapshots == (2, 4)


def test_drops_that_are_found_while_training_are_those_of_a_schedule():
    known = optax.scale_by_schedule(
        optimizers.Schedule(steps=9, drops=(3, 5), snapshots=()).rate(0.1)
    )
    found = optimizers.scale_by_found_drops(0.1, 0.1)
    gradient = {"w": jnp.ones(2)}
    states = [known.init(gradient), found.init(gradient)]
    for step in range(9):
        if step in (3, 5):  # where a window ends without a better score
            states[1] = optimizers.drop_from(states[1], [3, 5][: 1 if step == 3 else 2])
        updates = []
        for i, optimizer in enumerate((known, found)):
            update, states[i] = optimizer.update(gradient, states[i])
            updates.append(update["w"])
        np.testing.assert_allclose(*updates, rtol=1e-6)


def test_a_rate_can_halve_eight_times():
    config = tiny.config(steps=80, schedule__drops=(0.25, 0.5, 0.75), schedule__factor=0.5)
    rate = optimizers.make_schedule(config, photos=10).rate(0.8)
    np.testing.assert_allclose([rate(s) for s in (0, 19, 20, 40, 79)], [0.8, 0.8, 0.4, 0.2, 0.1])


def test_every_parameter_is_clipped_by_itself(rng):
    gradient = {"a": jnp.asarray(rng.normal(size=(5, 5)) * 100), "b": jnp.array([0.3, 0.4])}
    clip = optimizers.clip_each(10.0)
    clipped, _ = clip.update(gradient, clip.init(gradient))
    np.testing.assert_allclose(np.linalg.norm(clipped["a"]), 10, rtol=1e-5)
    np.testing.assert_allclose(
        clipped["a"] / np.linalg.norm(clipped["a"]),
        gradient["a"] / np.linalg.norm(gradient["a"]), rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_array_equal(clipped["b"], gradient["b"])
    zero, _ = clip.update({"a": jnp.zeros(3)}, clip.init(gradient))
    np.testing.assert_array_equal(zero["a"], 0)


def test_frozen_layers_are_left_alone_and_keep_no_momentum():
    config = tiny.config(optimizer__weight_decay=0.1)
    schedule = optimizers.make_schedule(config, photos=10)
    layer = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    params = {"encoder": {"conv1": layer, "conv2": layer}, "head": {"classes": layer}}
    optimizer = optimizers.make_optimizer(config, schedule, frozen=("conv1",))
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert all((x == 0).all() for x in jax.tree.leaves(updates["encoder"]["conv1"]))
    assert all((x != 0).all() for x in jax.tree.leaves(updates["encoder"]["conv2"]))
    momentum = sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.float32)
    assert momentum == 2 * 6


def test_a_found_schedule_takes_the_place_of_the_recipe(tmp_path):
    found = early_stopping.Found(
        steps=90, drops=(30, 60), photos=9, full_photos=10, batch_size=8, windows=[]
    )
    early_stopping.write_schedule(tmp_path / "schedule.json", found)
    config = tiny.config(steps=7, schedule_from=str(tmp_path))
    schedule = optimizers.make_schedule(config, photos=10)
    assert (schedule.steps, schedule.drops) == (100, (33, 67))


def test_rate_scales_with_the_batch_only_if_asked():
    config = tiny.config(optimizer__rate=0.001, data__batch_size=64)
    assert optimizers.initial_rate(config) == 0.001
    config.optimizer.rate_batch_size = 8
    assert optimizers.initial_rate(config) == 0.008


@pytest.mark.parametrize("drops", [(0.0,), (1.0,), (0.9, 0.5), (2.0, 2.5)])
def test_drops_must_be_increasing_fractions(drops):
    with pytest.raises(ConfigError, match="schedule.drops"):
        optimizers.make_schedule(tiny.config(schedule__drops=drops), photos=100)


def test_a_run_without_a_step_is_refused():
    with pytest.raises(ConfigError, match="no step"):
        optimizers.make_schedule(tiny.config(steps=0, schedule__epochs=0.001), photos=100)
