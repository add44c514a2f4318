"""Colorization by a decoder: no color in, all of a and b out."""

import jax
import numpy as np
import pytest
import toys

from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import lab_decoder


@pytest.fixture(scope="module")
def made():
    config, task = toys.make("lab_decoder")
    batch = toys.batch(config, task, np.random.default_rng(0))
    keys = jax.random.split(jax.random.key(0), len(batch["image"]))
    inputs, targets = jax.jit(task.prepare)(keys, batch)
    return task, batch, keys, inputs, targets


def test_color_does_not_reach_the_network(made):
    task, batch, keys, (gray,), _ = made
    mirrored = batch | {"image": batch["image"][..., ::-1]}
    np.testing.assert_allclose(task.prepare(keys, mirrored)[0][0], gray, atol=1e-6)
    assert gray.shape == (8, 32, 32, 1)


def test_targets_are_a_and_b_and_zeros_cost_their_mean_square(made):
    task, batch, _, _, targets = made
    ab = np.asarray(spaces.lab(spaces.from_uint8(batch["image"])))[..., 1:] / 110
    np.testing.assert_allclose(targets["ab"], ab, atol=1e-5)
    values, counts = task.loss({"ab": np.zeros_like(ab)}, targets)
    np.testing.assert_allclose(values["loss"], np.square(ab).mean((1, 2, 3)), rtol=1e-4)
    assert float(counts.sum()) == 8


def test_it_starts_with_gray_and_can_reach_negative_values(made):
    task, _, _, inputs, _ = made
    variables = jax.jit(lambda: task.model.init(jax.random.key(0), *inputs))()
    apply = jax.jit(task.model.apply)
    outputs = apply(variables, *inputs)
    assert outputs["ab"].shape == (8, 32, 32, 2) and not outputs["ab"].any()
    variables["params"]["decoder"]["out"]["bias"] -= 0.5
    np.testing.assert_array_equal(apply(variables, *inputs)["ab"], -0.5)
    assert lab_decoder.AB_SCALE == 110


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"model__in_channels": 3}, "in_channels"),
        ({"task__decoder": 0}, "task.decoder"),
        ({"task__layer": "conv9"}, "conv9"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("lab_decoder", **settings)
