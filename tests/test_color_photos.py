"""Photos may be single or a batch, of bytes or floats; anything else gives a clear error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import colorize_jax
from colorize_jax.color import photos
from colorize_jax.color.spaces import GRAY_MEAN
from colorize_jax.errors import ColorizeError, ConfigError, PhotoError
from colorize_jax.models import registry


@pytest.fixture
def batch(rng):
    return rng.integers(0, 256, (2, 6, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("function", [colorize_jax.network_input, colorize_jax.color_input])
def test_one_photo_is_a_batch_of_one_and_floats_are_shares_of_255(function, batch):
    expected = function(batch)
    assert expected.dtype == jnp.float32 and expected.shape[:3] == (2, 6, 7)
    for image in (batch / 255, (batch / 255).astype(np.float32), jnp.asarray(batch)):
        np.testing.assert_allclose(function(image), expected, atol=1e-6)
    half = jnp.asarray(batch / 255, jnp.bfloat16)
    np.testing.assert_allclose(function(half), expected, atol=0.01)
    np.testing.assert_array_equal(function(batch[0]), expected[:1])
    np.testing.assert_allclose(
        colorize_jax.network_input(batch),
        batch.mean(-1, keepdims=True) / 255 - GRAY_MEAN,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.transpose(0, 3, 1, 2), "channels come first"),
        (lambda x: x[0].transpose(2, 0, 1), "channels come first"),
        (lambda x: np.concatenate([x, x[..., :1]], -1), "RGBA"),
        (lambda x: x[0, ..., 0], "seems gray"),
        (lambda x: x[..., :1], "seems gray"),
        (lambda x: x[None], r"\[1, 2, 6, 7, 3\], not \[height, width, 3\] or"),
        (lambda x: x[0, 0, 0], "height, width and three channels"),
        (lambda x: x.astype(np.float32), "divided by 255"),
        (lambda x: jnp.asarray(x, jnp.float32), "divided by 255"),
        (lambda x: x / 127.5 - 1, "from -1 to 1, and not from 0 to 1: clip"),
        (lambda x: np.where(x == x.max(), np.nan, x / 255), "NaN"),
        (lambda x: np.where(x == x.max(), np.inf, x / 255), "not finite"),
        (lambda x: x.astype(np.int64), r"int64.*astype\(np.uint8\)"),
        (lambda x: x > 100, "bool"),
        (lambda x: x.astype(np.uint16) * 257, "uint16"),
    ],
)
def test_what_cannot_be_known_is_refused_with_a_sentence(change, words, batch):
    for error in (PhotoError, ColorizeError, ValueError):
        with pytest.raises(error, match=words):
            colorize_jax.network_input(change(batch))


def test_inside_of_jit_shape_and_type_are_checked_alone(batch):
    compute = jax.jit(colorize_jax.network_input)
    np.testing.assert_allclose(compute(batch / 255), colorize_jax.network_input(batch), atol=1e-6)
    assert compute(batch.astype(np.float32)).max() > 100
    with pytest.raises(PhotoError, match="channels come first"):
        compute(batch.transpose(0, 3, 1, 2))


def test_rounding_of_an_interpolation_is_no_other_range(batch):
    image = batch / 255 * (1 + 1e-5)
    np.testing.assert_allclose(
        colorize_jax.network_input(image), colorize_jax.network_input(batch), atol=1e-4
    )


def test_floats_become_the_bytes_that_they_are_of(batch):
    np.testing.assert_array_equal(photos.to_uint8(batch[0] / 255), batch[0])
    with pytest.raises(PhotoError, match=r"photo 3 is \[6, 7\]"):
        photos.to_uint8(batch[0, ..., 0], "photo 3")


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "resnet14"])
def test_an_encoder_that_is_given_no_batch_says_so(name, batch):
    encoder = registry.make_encoder({"name": name, "width": 1 / 32})
    with pytest.raises(ConfigError, match="one photo|a batch of one"):
        jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((64, 64, 1)))


def test_the_package_shows_what_there_is():
    assert set(dir(colorize_jax)) >= {"train", "load_encoder", "network_input", "load_config"}
    assert all(callable(getattr(colorize_jax, name)) for name in colorize_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = colorize_jax.nothing
