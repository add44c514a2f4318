"""How features spread over their space: scores of an encoder that need no labels."""

import numpy as np

from colorize_jax.features.neighbors import unit

# What RankMe adds to every share, so that its logarithm is finite.
_EPSILON = 1e-7
_ROWS = 1024  # Distances are computed for so many rows at a time, which bounds the memory.


def rank(features: np.ndarray) -> float:
    """RankMe, the effective rank of features [n, channels]: from 1 to min(n, channels).

    It is exp(-sum p ln p) with p = singular value / sum of the singular values + 1e-7 (Garrido,
    Balestriero, Najman, LeCun, ICML 2023). Equal rows give 1; features that vary equally in all
    directions give the number of channels. Features that are all zeros give 0.
    """
    x = np.asarray(features, np.float64)
    # The smaller of the two Gram matrices, whose eigenvalues are squares of the singular values. Of
    # a singular value below 1e-8 of the largest one this keeps nothing, which epsilon hides anyway.
    gram = x.T @ x if len(x) >= x.shape[1] else x @ x.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    if not values.any():
        return 0.0
    shares = values / values.sum() + _EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """The mean squared distance of the features of two views of each photo; lower is better.

    The features are normalized to length 1, so it is from 0 to 4 (Wang and Isola, ICML 2020, with
    alpha = 2).

    Args:
        first, second: [n, channels], row i of both of the same photo.
    """
    return float(np.square(unit(first, np.float64) - unit(second, np.float64)).sum(1).mean())


def uniformity(features: np.ndarray) -> float:
    """ln of the mean of exp(-2 squared distance) over all pairs of rows; lower is better.

    The features [n, channels], n at least 2, are normalized to length 1, so it is from -8 to 0
    (Wang and Isola, ICML 2020, with t = 2). Features that are all equal give 0.
    """
    x, total = unit(features, np.float64), 0.0
    for start in range(0, len(x), _ROWS):
        # Of unit vectors, the squared distance is 2 - 2 cosine. Only pairs i < j count.
        cosines = x[start : start + _ROWS] @ x.T
        total += np.triu(np.exp(4 * np.minimum(cosines, 1) - 4), start + 1).sum()
    return float(np.log(total / (len(x) * (len(x) - 1) / 2)))
