"""One color from predicted histograms, as the release's inference does, or from predicted a, b."""

import jax
import jax.numpy as jnp

from colorize_jax.color import spaces

# Below this mean of the 32 phasors the hue is uncertain and the chroma is faded out.
_FADE_BELOW = 0.03


def _centers(bins: int) -> jax.Array:
    return (jnp.arange(bins, dtype=jnp.float32) + 0.5) / bins


def _quantile(histogram: jax.Array, share: float) -> jax.Array:
    """Center of the bin in which the cumulative histogram reaches `share`."""
    bins = histogram.shape[-1]
    below = (jnp.cumsum(histogram, -1) < share).sum(-1)
    return (below.astype(jnp.float32) + 0.5) / bins


def _phasor(histogram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real and imaginary part of the mean over the bins of p_k exp(2 pi i c_k)."""
    angle = 2 * jnp.pi * _centers(histogram.shape[-1])
    return (histogram * jnp.cos(angle)).mean(-1), (histogram * jnp.sin(angle)).mean(-1)


def _hue_expectation(histogram: jax.Array) -> jax.Array:
    real, imaginary = _phasor(histogram)
    return jnp.mod(jnp.arctan2(imaginary, real) / (2 * jnp.pi), 1.0)


CHROMA = {
    "median": lambda histogram: _quantile(histogram, 0.5),
    "q75": lambda histogram: _quantile(histogram, 0.75),
    "expectation": lambda histogram: (histogram * _centers(histogram.shape[-1])).sum(-1),
    # Without the half bin, unlike the hue: so the release has it.
    "mode": lambda histogram: histogram.argmax(-1) / histogram.shape[-1],
}

HUE = {
    "expectation-cf": _hue_expectation,
    "expectation": _hue_expectation,
    "mode": lambda histogram: (histogram.argmax(-1) + 0.5) / histogram.shape[-1],
    "median": lambda histogram: _quantile(histogram, 0.5),
}


def fading(hue_histogram: jax.Array) -> jax.Array:
    """Factor in [0, 1] on the chroma, [..., bins] -> [...]: low where hues contradict."""
    real, imaginary = _phasor(hue_histogram)
    return jnp.clip(jnp.hypot(real, imaginary), 0, _FADE_BELOW) / _FADE_BELOW


def match_lightness(rgb: jax.Array, gray: jax.Array) -> jax.Array:
    """RGB [..., 3] moved so that its plain mean is `gray` [...], clipped to [0, 1]."""
    return jnp.clip(rgb - rgb.mean(-1, keepdims=True) + gray[..., None], 0, 1)


def histograms_to_rgb(
    hue_histogram: jax.Array,
    chroma_histogram: jax.Array,
    gray: jax.Array,
    *,
    hue: str = "expectation-cf",
    chroma: str = "median",
) -> jax.Array:
    """RGB before lightness matching, from predicted histograms.

    Args:
        hue_histogram, chroma_histogram: [..., bins] probabilities.
        gray: [...] lightness in [0, 1], with its mean (not the network's input).
        hue: a key of `HUE`; "expectation-cf" also fades the chroma where the hue is uncertain.
        chroma: a key of `CHROMA`.

    Returns:
        [..., 3] in [0, 1]; gray is taken as the middle of the largest and the smallest channel.
    """
    c = CHROMA[chroma](chroma_histogram)
    if hue == "expectation-cf":
        c = c * fading(hue_histogram)
    value = gray + c / 2
    double = 2 * gray + c
    saturation = jnp.where(double > 0, 2 * c / jnp.where(double > 0, double, 1.0), 0.0)
    h = jnp.clip(HUE[hue](hue_histogram), 0, 1)
    return spaces.hsv_to_rgb(h, jnp.clip(saturation, 0, 1), jnp.clip(value, 0, 1))


def colorize(hue_histogram: jax.Array, chroma_histogram: jax.Array, gray: jax.Array) -> jax.Array:
    """The release's default: median chroma, faded hue expectation, lightness matched; [..., 3]."""
    return match_lightness(histograms_to_rgb(hue_histogram, chroma_histogram, gray), gray)


def ab_to_rgb(ab: jax.Array, gray: jax.Array) -> jax.Array:
    """Lab's a and b [..., 2] and gray [...] -> RGB [..., 3] whose plain mean is that gray."""
    lightness = spaces.lab(jnp.repeat(gray[..., None], 3, -1))[..., :1]
    return match_lightness(spaces.lab_to_rgb(jnp.concatenate([lightness, ab], -1)), gray)
