"""Gray, hue and chroma, Lab and back: pure functions of RGB in [0, 1], channels last."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color.photos import check_photo, check_values

# The released evaluation scripts subtract this; the training file rounds it to 0.4488.
GRAY_MEAN = 114.451 / 255

# sRGB (D65) to XYZ, and the white point, as in the release's Lab layer and in scikit-image.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)


def from_uint8(image: jax.Array) -> jax.Array:
    """8-bit photo [..., 3] -> float32 RGB in [0, 1]."""
    return jnp.asarray(image, jnp.float32) / 255


def rgb_batch(image) -> jax.Array:
    """A photo, or a batch of photos, as a batch of float32 RGB in [0, 1].

    Args:
        image: [height, width, 3] or [batch, height, width, 3], RGB, uint8 or float in [0, 1];
            an array of NumPy or JAX, or what becomes one.

    Returns:
        [batch, height, width, 3]; a photo is a batch of one.

    Raises:
        PhotoError: it has another shape (channels first, RGBA, gray) or type, or floats beyond
            [0, 1]. Inside of `jax.jit`, where values are not known yet, shape and type alone are
            looked at; of floats outside of it, all values are, which waits for them.
    """
    if not isinstance(image, jax.Array):
        image = np.asarray(image)
    check_photo(image, ndims=(3, 4))
    image = image if image.ndim == 4 else image[None]
    if image.dtype == np.uint8:
        return from_uint8(image)
    if not isinstance(image, jax.core.Tracer) and getattr(image, "is_fully_addressable", True):
        check_values(image)
    return jnp.asarray(image, jnp.float32)


def gray(rgb: jax.Array) -> jax.Array:
    """RGB [..., 3] -> [...] lightness in [0, 1]: the plain mean of the channels, not luma."""
    return rgb.mean(-1)


def network_input(image: jax.Array) -> jax.Array:
    """What every encoder reads: gray less its mean.

    Args:
        image: a photo [height, width, 3] or a batch [batch, height, width, 3], RGB, uint8 or
            float in [0, 1]; see `rgb_batch` for what is refused.

    Returns:
        float32 [batch, height, width, 1]; of a photo a batch of one.
    """
    return gray(rgb_batch(image))[..., None] - GRAY_MEAN


def color_input(image: jax.Array) -> jax.Array:
    """What an encoder reads whose first layer was made one of color: RGB less the mean of gray.

    As `network_input`, with three channels, whose mean that is.
    """
    return rgb_batch(image) - GRAY_MEAN


def lightness_input(image: jax.Array) -> jax.Array:
    """What Zhang's network reads: (L - 50) / 100, with the lightness L of Lab, and not gray.

    As in the released PyTorch code; the released Caffe network reads L - 50. A photo's a and b do
    not change it.

    Args:
        image: as `network_input` takes it.

    Returns:
        float32 [batch, height, width, 1].
    """
    return (lab(rgb_batch(image))[..., :1] - 50) / 100


def channels_lightness_input(image: jax.Array) -> jax.Array:
    """What Zhang's network reads whose first layer was made one of color: the lightness that each
    channel would have as a gray, so that a gray photo is three times `lightness_input`.

    As `lightness_input`, with three channels.
    """
    levels = jnp.repeat(rgb_batch(image)[..., None], 3, -1)
    return (lab(levels)[..., 0] - 50) / 100


def lab_input(image: jax.Array) -> jax.Array:
    """What a network in two halves reads, of which one sees L and the other a and b of Lab.

    Args:
        image: as `network_input` takes it.

    Returns:
        ((L - 50) / 100, a / 100, b / 100): float32 [batch, height, width, 3].
    """
    return (lab(rgb_batch(image)) - jnp.array([50.0, 0, 0])) / 100


INPUTS = {1: network_input, 3: color_input}  # by the channels of the encoder


def hue_chroma(rgb: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hue and chroma of RGB [..., 3], each [...]; hue in [0, 1), chroma in [0, 1].

    Chroma is max - min. Hue is that of HSV, and 0 where the pixel has no color. Differentiable
    without NaN everywhere; at achromatic pixels the gradient of the hue is zero.
    """
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = high - low
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    sector = jnp.where(
        red == high,
        (green - blue) / divisor,
        jnp.where(green == high, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # A tiny negative sector plus one rounds to 1.0 in float32, which is hue 0 again.
    turn = jnp.where(sector < 0, sector / 6 + 1, sector / 6)
    hue = jnp.where(turn >= 1, 0.0, turn)
    return jnp.where(chroma > 0, hue, 0.0), chroma


def hsv_to_rgb(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """Hue (in turns), saturation and value, each [...] -> RGB [..., 3]."""
    # Each channel is a trapezoid function of the hue; they are a third of a turn apart.
    offset = jnp.array([5.0, 3.0, 1.0], jnp.float32)
    k = jnp.mod(offset + hue[..., None] * 6, 6)
    ramp = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * ramp)


def lab(rgb: jax.Array) -> jax.Array:
    """sRGB [..., 3] -> CIE Lab [..., 3] (D65): L in 0..100, a and b about -110..110, unscaled."""
    # jnp.where differentiates both branches, so the power's base must stay away from zero.
    power = ((jnp.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4
    linear = jnp.where(rgb > 0.04045, power, rgb / 12.92)
    matrix = jnp.array(_XYZ_FROM_RGB, jnp.float32) / jnp.array(_WHITE, jnp.float32)[:, None]
    xyz = jnp.einsum("ij,...j->...i", matrix, linear, precision="highest")
    f = jnp.where(xyz > 0.008856, jnp.cbrt(jnp.maximum(xyz, 0.008856)), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lightness_gray(rgb: jax.Array) -> jax.Array:
    """RGB [..., 3] -> [...]: the value in [0, 1] of the gray that has the same L of CIE Lab."""
    f = (lab(rgb)[..., 0] + 16) / 116
    return _encoded(_from_f(f))


def lab_to_rgb(values: jax.Array) -> jax.Array:
    """CIE Lab [..., 3] -> sRGB [..., 3], clipped to [0, 1]; the inverse of `lab`."""
    return jnp.clip(lab_to_unclipped_rgb(values), 0, 1)


def lab_to_unclipped_rgb(values: jax.Array) -> jax.Array:
    """`lab_to_rgb` that goes beyond [0, 1] where no screen can show a color."""
    y = (values[..., 0] + 16) / 116
    f = jnp.stack([y + values[..., 1] / 500, y, y - values[..., 2] / 200], -1)
    xyz = _from_f(f) * jnp.array(_WHITE, jnp.float32)
    inverse = jnp.linalg.inv(jnp.array(_XYZ_FROM_RGB, jnp.float32))
    linear = jnp.einsum("ij,...j->...i", inverse, xyz, precision="highest")
    return _encoded(linear)


def _from_f(f: jax.Array) -> jax.Array:
    """Lab's function of light undone: its value -> light relative to white."""
    return jnp.where(f > 0.008856 ** (1 / 3), f**3, (f - 16 / 116) / 7.787)


def _encoded(linear: jax.Array) -> jax.Array:
    """Light -> the value that sRGB stores."""
    power = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(linear > 0.0031308, power, 12.92 * linear)
