"""Gray, hue and chroma, Lab: known values, other libraries' values, and never NaN."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color

from colorize_jax.color import spaces

EXTREMES = np.array(
    [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]],
    np.float32,
)


def test_golden_gray(golden):
    np.testing.assert_allclose(spaces.gray(jnp.asarray(golden["rgb"])), golden["gray"], atol=1e-6)


def test_golden_network_input(golden):
    values = spaces.gray(jnp.asarray(golden["rgb"])) - spaces.GRAY_MEAN
    np.testing.assert_allclose(values, golden["gray_net_input"], atol=1e-6)


def test_network_input_of_8_bit_photos(rng):
    image = rng.integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    expected = image.astype(np.float64).mean(-1, keepdims=True) / 255 - 114.451 / 255
    actual = spaces.network_input(image)
    assert actual.shape == (2, 3, 4, 1) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_golden_hue_chroma(golden):
    hue, chroma = spaces.hue_chroma(jnp.asarray(golden["rgb"], jnp.float32))
    np.testing.assert_allclose(chroma, golden["chroma"], atol=1e-6)
    around = np.abs(np.asarray(hue) - golden["hue"])
    np.testing.assert_allclose(np.minimum(around, 1 - around), 0, atol=1e-5)
    np.testing.assert_allclose(golden["rgb"].max(-1), golden["value"])


def test_hue_is_that_of_colorsys_for_8_bit_colors(rng):
    colors = rng.integers(0, 256, (2000, 3)) / 255
    hue, _ = spaces.hue_chroma(jnp.asarray(colors, jnp.float32))
    expected = np.array([colorsys.rgb_to_hsv(*color)[0] for color in colors])
    around = np.abs(np.asarray(hue) - expected)
    np.testing.assert_allclose(np.minimum(around, 1 - around), 0, atol=1e-6)
    assert (np.asarray(hue) < 1).all() and (np.asarray(hue) >= 0).all()


def test_hue_just_below_a_full_turn_stays_below_one():
    hue, _ = spaces.hue_chroma(jnp.array([1.0, 0.0, 1e-9], jnp.float32))
    assert 0 <= hue < 1


def test_achromatic_pixels_have_hue_and_chroma_zero():
    hue, chroma = spaces.hue_chroma(jnp.asarray(EXTREMES[:3]))
    np.testing.assert_array_equal(hue, 0)
    np.testing.assert_array_equal(chroma, 0)


def test_golden_lab(golden):
    actual = spaces.lab(jnp.asarray(golden["rgb"], jnp.float32))
    np.testing.assert_allclose(actual, golden["lab"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(actual, golden["lab_skimage"], rtol=1e-4, atol=1e-3)


def test_lab_is_that_of_scikit_image(rng):
    rgb = rng.random((50, 3))
    np.testing.assert_allclose(
        spaces.lab(jnp.asarray(rgb, jnp.float32)), skimage.color.rgb2lab(rgb), atol=2e-3
    )


def test_lab_there_and_back(rng):
    rgb = jnp.asarray(np.concatenate([rng.random((500, 3)), EXTREMES, EXTREMES / 50]), jnp.float32)
    np.testing.assert_allclose(spaces.lab_to_rgb(spaces.lab(rgb)), rgb, atol=2e-5)


def test_hsv_there_and_back(rng):
    colors = rng.random((200, 3))
    expected = np.array([colorsys.hsv_to_rgb(*color) for color in colors])
    actual = spaces.hsv_to_rgb(*jnp.asarray(colors, jnp.float32).T)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [spaces.gray, lambda x: spaces.hue_chroma(x)[0], lambda x: spaces.hue_chroma(x)[1], spaces.lab],
)
def test_values_and_gradients_are_finite_at_extremes(function):
    rgb = jnp.asarray(EXTREMES)
    assert np.isfinite(jax.jit(function)(rgb)).all()
    assert np.isfinite(jax.grad(lambda x: function(x).sum())(rgb)).all()
