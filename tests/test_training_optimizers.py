"""Caffe's SGD written out by hand, and the schedule of the paper's recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.training import optimizers


def test_five_steps_over_a_drop_are_those_of_caffe(rng):
    rates = [0.1, 0.1, 0.01, 0.01, 0.001]
    schedule = optimizers.Schedule(steps=5, drops=(2, 4), snapshots=())
    momentum, decay = 0.9, 0.05
    optimizer = optimizers.caffe_sgd(schedule.rate(0.1), momentum=momentum, weight_decay=decay)
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
    from colorize_jax.config import default_config

    config = default_config()
    config.data.batch_size = batch
    return config


def test_steps_take_the_place_of_epochs_and_keep_the_fractions():
    schedule = optimizers.make_schedule(tiny.config(steps=30), photos=10)
    assert schedule == optimizers.Schedule(steps=30, drops=(15,), snapshots=())


def test_snapshots_past_the_end_are_left_out():
    config = tiny.config(steps=10, checkpoint__snapshots=(0.5, 1.0, 7.0), data__batch_size=4)
    assert optimizers.make_schedule(config, photos=16).snapshots == (2, 4)


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
