"""Convolution and max pooling as the trunks need them, on every backend at a sane speed."""

from collections.abc import Callable
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

# Caffe's "xavier": uniform in +-sqrt(3 / fan_in).
caffe_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def he_truncated(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """He's start for what comes after a pretrained trunk: [..., in, out], cut off at 2 sigma.

    Sigma is sqrt(1.3 * 2 / fan_in) before the cut, as in TF1's contrib.layers: the 1.3 makes up for
    the cut, nearly (Flax's own he_normal makes up for it exactly).
    """
    sigma = math.sqrt(1.3 * 2 / math.prod(shape[:-1]))
    return sigma * jax.random.truncated_normal(key, -2, 2, shape, dtype)


class Conv(nn.Module):
    """A 2-D convolution of stride 1 whose bias always exists.

    Attributes:
        features: output channels.
        kernel_size: side of the square kernel.
        padding: "SAME" or "VALID".
        frozen_bias: the bias gets no gradient. Under batch norm it is cancelled anyway; it stays
            zero until batch norm is absorbed into it.
        dtype: of the computation; parameters are float32.
        kernel_init: of the start.
    """

    features: int
    kernel_size: int = 3
    padding: str = "SAME"
    frozen_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = caffe_xavier

    @nn.compact
    def __call__(self, x: jax.Array, border: jax.Array | None = None) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height', width', features].

        `border`: see `convolve`.
        """
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if self.frozen_bias:
            bias = jax.lax.stop_gradient(bias)
        x = convolve(x.astype(self.dtype), kernel, self.padding, border)
        return x + bias.astype(self.dtype)


def convolve(
    x: jax.Array, kernel: jax.Array, padding: str, border: jax.Array | None = None
) -> jax.Array:
    """Convolution of stride 1 of [batch, h, w, in] with a square odd kernel [k, k, in, out].

    `border` [in] takes the place of the zeros that SAME puts around the map; ValueError if the
    padding is not SAME.

    On a map smaller than the kernel (fc6 on small crops) most taps only ever see padding, and XLA's
    CPU backend takes a path a hundred times slower than the arithmetic asks for: there the taps
    that can touch the map become one matrix product over shifted copies.
    """
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    if border is not None:
        if padding != "SAME":
            raise ValueError(f"padding {padding!r} puts nothing around the map to replace")
        x, padding = _surround(x, border, size // 2), "VALID"
    if padding == "SAME" and size % 2 == 1 and min(height, width) < size:
        return _convolve_small(x, kernel)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _surround(x: jax.Array, border: jax.Array, ring: int) -> jax.Array:
    """[batch, h, w, channels] in a ring of constants [channels], so many cells wide."""
    edges = ((0, 0), (ring, ring), (ring, ring), (0, 0))
    inside = jnp.pad(jnp.ones((1, *x.shape[1:3], 1), bool), edges)
    return jnp.where(inside, jnp.pad(x, edges), border.astype(x.dtype))


def _convolve_small(x: jax.Array, kernel: jax.Array) -> jax.Array:
    half, (height, width) = kernel.shape[0] // 2, x.shape[1:3]
    reach_y, reach_x = min(half, height - 1), min(half, width - 1)
    padded = jnp.pad(x, ((0, 0), (reach_y, reach_y), (reach_x, reach_x), (0, 0)))
    shifted = [
        padded[:, dy : dy + height, dx : dx + width]
        for dy in range(2 * reach_y + 1)
        for dx in range(2 * reach_x + 1)
    ]
    taps = kernel[half - reach_y : half + reach_y + 1, half - reach_x : half + reach_x + 1]
    return jnp.concatenate(shifted, -1) @ taps.reshape(-1, kernel.shape[-1])


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling of stride 2; a last odd row or column forms a window of its own (SAME)."""
    _, height, width, _ = x.shape
    if height % 2 or width % 2:
        edges = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
        x = jnp.pad(x, edges, constant_values=-jnp.inf)
    # The gradient of this is ten times cheaper than that of reduce_window on XLA's CPU backend.
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])
