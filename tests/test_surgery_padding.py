"""The padding correction: the golden layer, and a whole network away from its borders."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import ConfigError
from colorize_jax.models import layers
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.surgery import padding

ENCODER = Vgg16(width=1 / 32, fc6_kernel=3, norm="none")


def _params(rng):
    params = jax.jit(ENCODER.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]
    for layer in params.values():
        layer["bias"] = jnp.asarray(rng.normal(0, 0.5, layer["bias"].shape), jnp.float32)
    return params


class _Layer(nn.Module):
    """A convolution named "layer"."""

    shape: tuple[int, ...]
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        size, _, _, features = self.shape
        conv = layers.Conv(features, size, padding=self.padding, use_bias=False, name="layer")
        return conv(x)


def test_golden_convolution_with_the_bias_below_around_it(golden):
    x, kernel = (jnp.asarray(golden[f"edgefix_{k}"], jnp.float32) for k in ("x", "w"))
    params = {"below": {"bias": golden["edgefix_prev_bias"]}, "layer": {"kernel": kernel}}
    found = padding.borders(params, ("below", "layer"))
    assert set(found) == {"layer"}
    actual = padding.apply(_Layer(kernel.shape), {"layer": {"kernel": kernel}}, x[None], found)
    np.testing.assert_allclose(actual[0], golden["edgefix_out"], atol=1e-5)
    plain = layers.convolve(x[None], kernel, "SAME")
    np.testing.assert_allclose(plain[0], golden["edgefix_zero_pad_out"], atol=1e-5)


def test_every_layer_but_the_first_gets_one_constant_for_each_channel_of_its_input(rng):
    params = _params(rng)
    found = padding.borders(params, ENCODER.layers)
    assert tuple(found) == ENCODER.layers[1:]
    for name, border in found.items():
        assert border.shape == params[name]["kernel"].shape[2:3], name
        assert border.min() >= 0
    np.testing.assert_array_equal(found["fc6"], np.maximum(params["conv5_3"]["bias"], 0))


def test_nothing_changes_away_from_the_borders(rng):
    params = _params(rng)
    gray = jnp.asarray(rng.normal(size=(1, 128, 128, 1)), jnp.float32)
    before = jax.jit(ENCODER.apply)({"params": params}, gray)
    found = padding.borders(params, ENCODER.layers)
    after = jax.jit(lambda x: padding.apply(ENCODER, params, x, found))(gray)
    np.testing.assert_array_equal(after["conv1_1"], before["conv1_1"])
    reach, block = -1, 1  # the number of cells at each side that the correction can reach
    for name in ENCODER.layers:
        if name.startswith("conv") and int(name[4]) != block:
            reach, block = (reach + 1) // 2, int(name[4])
        reach += name.startswith("conv")
        size = before[name].shape[1]
        inside = slice(reach, size - reach)
        if name != "conv1_1":
            assert np.abs(after[name] - before[name]).max() > 1e-3, name
        if name <= "conv4_3":  # Deeper maps have no cell that far from the border.
            assert size > 2 * reach
            np.testing.assert_allclose(
                after[name][:, inside, inside], before[name][:, inside, inside], atol=1e-4
            )


def test_a_featureless_photo_has_no_borders_in_the_second_layer(rng):
    params = _params(rng)
    gray = jnp.zeros((1, 32, 32, 1))
    plain = jax.jit(ENCODER.apply)({"params": params}, gray)["conv1_2"]
    found = padding.borders(params, ENCODER.layers)
    corrected = jax.jit(lambda x: padding.apply(ENCODER, params, x, found))(gray)["conv1_2"]
    assert np.ptp(plain, axis=(1, 2)).max() > 1e-2
    np.testing.assert_allclose(np.ptp(corrected, axis=(1, 2)), 0, atol=1e-5)


@pytest.mark.parametrize("size", [(2, 3), (9, 8)])
@pytest.mark.parametrize("kernel_size", [1, 3, 4, 7])
def test_a_border_takes_the_place_of_the_zeros(rng, size, kernel_size):
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 3, 5)), jnp.float32)
    layer, params = _Layer(kernel.shape), {"layer": {"kernel": kernel}}
    plain = layer.apply({"params": params}, x)
    zeros = padding.apply(layer, params, x, {"layer": jnp.zeros(3)})
    np.testing.assert_allclose(zeros, plain, atol=1e-4)
    # A constant map that is padded with its own constant has no visible border.
    constant = jnp.array([1.0, -2.0, 3.0])
    flat = padding.apply(layer, params, jnp.broadcast_to(constant, x.shape), {"layer": constant})
    everywhere = kernel.sum((0, 1)).T @ constant
    np.testing.assert_allclose(flat, jnp.broadcast_to(everywhere, flat.shape), atol=1e-4)


def test_without_padding_there_is_no_border_to_replace():
    kernel = jnp.zeros((3, 3, 2, 2))
    layer = _Layer(kernel.shape, "VALID")
    with pytest.raises(ConfigError, match="padding 'VALID'"):
        padding.apply(
            layer, {"layer": {"kernel": kernel}}, jnp.zeros((1, 4, 4, 2)), {"layer": jnp.zeros(2)}
        )
