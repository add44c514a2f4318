"""Tests of converting the first convolution between gray and color."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import CheckpointError
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.surgery import first_conv


def test_golden_gray_to_color(golden):
    actual = first_conv.to_color(jnp.asarray(golden["gray2rgb_w"], jnp.float32))
    np.testing.assert_allclose(actual, golden["gray2rgb_w_rgb"], rtol=1e-6)


def test_gray_in_three_channels_gives_the_activations_of_gray_in_one(rng):
    encoder = Vgg16(width=1 / 32, fc6_kernel=3, norm="none")
    gray = jnp.asarray(rng.normal(size=(2, 32, 32, 1)), jnp.float32)
    params = jax.jit(encoder.init)(jax.random.key(0), gray)["params"]
    first = params["conv1_1"]
    color = params | {"conv1_1": first | {"kernel": first_conv.to_color(first["kernel"])}}
    before = jax.jit(encoder.apply)({"params": params}, gray)
    rgb = jnp.repeat(gray, 3, -1)
    after = jax.jit(encoder.clone(in_channels=3).apply)({"params": color}, rgb)
    assert after["gray"].shape[-1] == 3
    for name in encoder.layers:
        np.testing.assert_allclose(after[name], before[name], atol=1e-4, err_msg=name)


def test_color_to_gray_answers_to_gray_as_before(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
    patch = jnp.asarray(rng.normal(size=(3, 3, 1)), jnp.float32)
    before = jnp.einsum("hwc,hwco->o", jnp.repeat(patch, 3, -1), kernel)
    after = jnp.einsum("hwc,hwco->o", patch, first_conv.to_gray(kernel))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_there_and_back_is_the_same_kernel(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)
    np.testing.assert_allclose(first_conv.to_gray(first_conv.to_color(kernel)), kernel, rtol=1e-5)


@pytest.mark.parametrize(("convert", "channels"), [("to_color", 3), ("to_gray", 1)])
def test_a_kernel_of_the_other_kind_is_an_error(convert, channels):
    with pytest.raises(CheckpointError, match=f"reads {channels} channels"):
        getattr(first_conv, convert)(jnp.zeros((3, 3, channels, 4)))
