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


def annealed(shares: jax.Array, temperature: jax.Array | float, keys=None) -> jax.Array:
    """Distributions [batch, ..., bins], sharper the lower the temperature; the same at 1.

    Args:
        shares: of the bins.
        temperature: towards 0 the largest bin takes all.
        keys: one for every photo: draws Gumbel noise for its bins, the same at all pixels. At a
            temperature near 0 the largest bin is then a draw from the distribution, and pixels
            that are alike draw alike.
    """
    logits = jnp.log(jnp.maximum(shares, 1e-30))
    if keys is not None:
        shape = (*[1] * (shares.ndim - 2), shares.shape[-1])
        logits += jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)
    return jax.nn.softmax(logits / jnp.maximum(temperature, 1e-3))


DECODINGS = ("median", "mean", "mode", "annealed")  # of histograms of hue and chroma
_CHROMA_OF = {"median": "median", "mean": "expectation", "mode": "mode", "annealed": "expectation"}


def hue_chroma_plane(
    hue: jax.Array,
    chroma: jax.Array,
    decoding: str,
    temperature: jax.Array | float = 1.0,
    keys=None,
) -> jax.Array:
    """Histograms of hue and chroma [batch, ..., bins] -> chroma at the angle of the hue, [..., 2].

    Args:
        hue, chroma: they sum to one.
        decoding: one of `DECODINGS`. The hue is the expected one, and the chroma is faded where
            hues contradict; with "mode" both are those of the largest bins.
        temperature: of "annealed", and of what is drawn.
        keys: draw the hue, see `annealed`; the chroma is the decoding's, and is not faded.
    """
    if decoding == "annealed":
        chroma = annealed(chroma, temperature)
    if keys is not None or decoding == "annealed":
        hue = annealed(hue, temperature, keys)
    amount = CHROMA[_CHROMA_OF[decoding]](chroma)
    if keys is None and decoding != "mode":
        amount = amount * fading(hue)
    turns = HUE["mode" if decoding == "mode" and keys is None else "expectation"](hue)
    angle = 2 * jnp.pi * turns
    return amount[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


def join_hue_chroma(plane: jax.Array, gray: jax.Array) -> jax.Array:
    """Chroma at the angle of the hue [..., 2] and gray [...] -> RGB [..., 3] of that plain mean.

    Chroma is max - min, as far as RGB has room for it.
    """
    x, y = plane[..., 0], plane[..., 1]
    turns = jnp.mod(jnp.arctan2(y, x) / (2 * jnp.pi), 1.0)
    full = jnp.ones_like(turns)
    return _around(jnp.hypot(x, y)[..., None] * spaces.hsv_to_rgb(turns, full, full), gray)


def join_ab(ab: jax.Array, gray: jax.Array) -> jax.Array:
    """Lab's a and b [..., 2] and gray [...] -> RGB [..., 3] whose plain mean is that gray.

    As `ab_to_rgb`, but a color beyond those of a screen loses chroma, and keeps its gray.
    """
    return _around(spaces.lab_to_unclipped_rgb(_with_lightness(ab, gray)), gray)


def join_ab_at_lightness(ab: jax.Array, gray: jax.Array) -> jax.Array:
    """Lab's a and b [..., 2] and gray [...] -> RGB [..., 3] that has the L of that gray.

    A color beyond those of a screen loses chroma: the largest share of it is found by bisection.
    """
    values = _with_lightness(ab, gray)

    def rgb_at(share):
        scaled = jnp.concatenate([values[..., :1], share[..., None] * values[..., 1:]], -1)
        return spaces.lab_to_unclipped_rgb(scaled)

    def fits(rgb):
        return ((rgb >= 0) & (rgb <= 1)).all(-1)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        good = fits(rgb_at(middle))
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 10, halve, (jnp.zeros_like(gray), jnp.ones_like(gray)))
    whole = rgb_at(jnp.ones_like(gray))
    return jnp.clip(jnp.where(fits(whole)[..., None], whole, rgb_at(low)), 0, 1)


def _with_lightness(ab: jax.Array, gray: jax.Array) -> jax.Array:
    lightness = spaces.lab(jnp.repeat(gray[..., None], 3, -1))[..., :1]
    return jnp.concatenate([lightness, ab], -1)


def _around(rgb: jax.Array, gray: jax.Array) -> jax.Array:
    """RGB [..., 3] moved to the plain mean `gray` [...], and drawn towards it until all of it lies
    in [0, 1]."""
    gray = gray[..., None]
    away = rgb - rgb.mean(-1, keepdims=True)
    room = jnp.where(away > 0, 1 - gray, gray)
    most = jnp.where(away == 0, jnp.inf, room / jnp.where(away == 0, 1.0, jnp.abs(away)))
    share = jnp.minimum(most.min(-1, keepdims=True), 1.0)
    return jnp.clip(gray + share * away, 0, 1)


def ab_to_rgb(ab: jax.Array, gray: jax.Array) -> jax.Array:
    """Lab's a and b [..., 2] and gray [...] -> RGB [..., 3] whose plain mean is that gray."""
    return match_lightness(spaces.lab_to_rgb(_with_lightness(ab, gray)), gray)
