"""Pearson's correlation of the channels of two networks, from sums over batches of samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Sums(NamedTuple):
    """What is kept of samples of two networks' activations; `merged` adds those of two batches.

    Attributes:
        count: the number of samples.
        mean: the means, [2, channels]: of the first and of the second network.
        square: the sums of the squared differences from the mean, [2, channels].
        product: the sum over samples of the product of both differences, [channels].
        low, high: the smallest and the largest value, [2, channels].
    """

    count: float
    mean: np.ndarray
    square: np.ndarray
    product: np.ndarray
    low: np.ndarray
    high: np.ndarray


def sums(before: jax.Array, after: jax.Array, valid: jax.Array | None = None) -> Sums:
    """The sums of one batch, on the device.

    Args:
        before, after: activations of the two networks for the same samples, [samples, channels].
            The differences from the batch's mean are summed, so that float32 loses nothing where a
            mean is many times the spread.
        valid: bool [samples]: which samples count, at least one; None: all.
    """
    both = jnp.stack([before, after]).astype(jnp.float32)
    valid = jnp.ones(both.shape[1], bool) if valid is None else valid
    count, column = valid.sum(), valid[:, None]
    mean = jnp.where(column, both, 0).sum(1) / count
    apart = jnp.where(column, both - mean[:, None], 0)
    low, high = jnp.where(column, both, jnp.inf), jnp.where(column, both, -jnp.inf)
    return Sums(
        count, mean, (apart**2).sum(1), apart.prod(0).sum(0), low.min(1), high.max(1)
    )  # fmt: skip


def merged(one: Sums | None, other: Sums) -> Sums:
    """The sums of the samples of both, in float64 on the host; None stands for no samples.

    The formulas for joining two sets are those of Chan, Golub and LeVeque (1983).
    """
    other = Sums(*(np.asarray(x, np.float64) for x in other))
    if one is None:
        return other
    count = one.count + other.count
    apart, weight = other.mean - one.mean, one.count * other.count / count
    return Sums(
        count,
        one.mean + apart * other.count / count,
        one.square + other.square + apart**2 * weight,
        one.product + other.product + apart.prod(0) * weight,
        np.minimum(one.low, other.low),
        np.maximum(one.high, other.high),
    )


def correlations(found: Sums) -> np.ndarray:
    """Pearson's r of every channel, float64 [channels]; NaN if it is constant in either network."""
    dead = (found.low == found.high).any(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = found.product / np.sqrt(found.square.prod(0))
    return np.where(dead, np.nan, np.clip(r, -1, 1))


class Spread(NamedTuple):
    """The correlations of a layer's channels.

    Attributes:
        median, low, high: the median and the quartiles of the channels that are not dead; NaN if
            all are. Between two channels they are interpolated linearly.
        channels: the number of all channels.
        dead: the number of channels that are constant in one of the networks.
    """

    median: float
    low: float
    high: float
    channels: int
    dead: int


def spread(r: np.ndarray) -> Spread:
    """Median and quartiles of correlations [channels], in which NaN marks a dead channel."""
    alive = r[~np.isnan(r)]
    low, median, high = np.percentile(alive, (25, 50, 75)) if len(alive) else 3 * [np.nan]
    return Spread(float(median), float(low), float(high), len(r), len(r) - len(alive))
