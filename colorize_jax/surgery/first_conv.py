"""The first convolution for color in place of gray, and the other way around."""

import jax
import jax.numpy as jnp

from colorize_jax.errors import CheckpointError


def to_color(kernel: jax.Array) -> jax.Array:
    """[h, w, 1, out] -> [h, w, 3, out], which answers to gray in all three channels as before.

    CheckpointError unless the kernel reads one channel.
    """
    _check(kernel, 1)
    return jnp.repeat(kernel, 3, axis=2) / 3


def to_gray(kernel: jax.Array) -> jax.Array:
    """[h, w, 3, out] -> [h, w, 1, out], which answers as before to gray in all three channels.

    CheckpointError unless the kernel reads three channels.
    """
    _check(kernel, 3)
    return kernel.sum(axis=2, keepdims=True)


def _check(kernel, channels):
    if kernel.shape[2] != channels:
        raise CheckpointError(
            f"the first convolution reads {kernel.shape[2]} channels and is taken for one that "
            f"reads {channels}; set config.model.in_channels to what the checkpoint has"
        )
