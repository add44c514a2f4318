"""The nearest neighbors of some photos among all, by cosine, of features that stay on disk."""

from collections.abc import Sequence

import numpy as np

from colorize_jax.errors import ConfigError

_ROWS = 4096  # photos that are read at a time
_TINY = np.float32(1e-30)


def nearest(
    features: np.ndarray, queries: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The photos with the largest cosine to each query, itself left out.

    Args:
        features: [photos, ...], which are flattened; they may be mapped into memory, and are read a
            part at a time.
        queries: the numbers of photos.
        count: how many neighbors.

    Returns:
        The numbers of the neighbors, int64 [queries, count], the nearest first, and their cosines,
        float32 [queries, count]. Of equal ones the photo with the lower number is first.

    Raises:
        ConfigError: there are fewer other photos, or a feature is not finite.
    """
    if not 0 < count < len(features):
        raise ConfigError(
            f"--neighbors={count}: give 1 to {len(features) - 1}, as there are {len(features)} "
            "photos"
        )
    queries = np.asarray(queries)
    wanted = unit(features[queries])
    numbers = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(features), _ROWS):
        some = unit(features[start : start + _ROWS])
        new = wanted @ some.T
        own = np.arange(start, start + len(some))
        new = np.where(own == queries[:, None], -np.inf, new)
        cosines = np.concatenate([cosines, new], 1)
        numbers = np.concatenate([numbers, np.broadcast_to(own, new.shape)], 1)
        order = np.argsort(-cosines, 1, kind="stable")[:, :count]
        numbers, cosines = (np.take_along_axis(x, order, 1) for x in (numbers, cosines))
    return numbers, cosines


def unit(features: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """The rows divided by their norms, [n, values] of that type; a row of zeros stays.

    ConfigError if a feature is not finite.
    """
    rows = np.asarray(features, dtype).reshape(len(features), -1)
    if not np.isfinite(rows).all():
        raise ConfigError("some features are not finite")
    if dtype == np.float32:  # Squares of large ones would overflow.
        rows = rows / np.maximum(np.abs(rows).max(1, keepdims=True), _TINY)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
