"""Scores of predictions: pure functions of arrays."""

import jax
import jax.numpy as jnp

from colorize_jax.color import spaces


def psnr(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, per photo: RGB [..., height, width, 3] in [0, 1] -> [...].

    At most 100 dB: a perfect photo must not make a mean infinite.
    """
    error = jnp.square(predicted - truth).mean((-3, -2, -1))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def squared_error_ab(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean squared error of CIE Lab's a and b, unscaled, over both channels and all pixels.

    Args:
        predicted, truth: RGB [..., height, width, 3] in [0, 1].

    Returns:
        [...] per photo.
    """
    difference = spaces.lab(predicted)[..., 1:] - spaces.lab(truth)[..., 1:]
    return jnp.square(difference).mean((-3, -2, -1))
