"""Converts the first convolution from gray to color and back, and to another scale of input."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import CheckpointError


def to_color(kernel: jax.Array) -> jax.Array:
    """[h, w, 1, out] -> [h, w, 3, out], with the same output for gray in all three channels.

    CheckpointError if the kernel does not read one channel.
    """
    _check(kernel, 1)
    return jnp.repeat(kernel, 3, axis=2) / 3


def to_gray(kernel: jax.Array) -> jax.Array:
    """[h, w, 3, out] -> [h, w, 1, out], with the same output as for gray in all three channels.

    CheckpointError if the kernel does not read three channels.
    """
    _check(kernel, 3)
    return kernel.sum(axis=2, keepdims=True)


def refit(
    kernel: np.ndarray, scale: float | np.ndarray, shift: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Converts a first convolution that reads scale x + shift into one that reads x.

    It is exact except at the border: the padding's zeros now mean x = 0, and meant
    scale x + shift = 0 before.

    Args:
        kernel: [h, w, in, out].
        scale, shift: numbers, or one for every channel of the input, [in].

    Returns:
        The kernel, and the constant [out] to add to the bias; both float32.
    """
    wide = np.asarray(kernel, np.float64)
    per_channel = (np.broadcast_to(x, wide.shape[2])[:, None] for x in (scale, shift))
    scale, shift = per_channel
    return (wide * scale).astype(np.float32), (wide * shift).sum((0, 1, 2)).astype(np.float32)


def _check(kernel, channels):
    if kernel.shape[2] != channels:
        raise CheckpointError(
            f"the first convolution reads {kernel.shape[2]} channels and is taken for one that "
            f"reads {channels}; set config.model.in_channels to what the checkpoint has"
        )
