"""How near colors come to the true ones: pure functions of pixels.

PSNR, the error of a and b, and the area under the curve of raw color accuracy of Zhang, Isola and
Efros (ECCV 2016) are functions of JAX, which evaluation during training calls. What looks at one
whole photo of any size, as SSIM does, is NumPy in float64: every size would be compiled anew.

Shapes that do not go together, and would broadcast to a wrong score, are an AssertionError.
"""

from collections.abc import Iterator

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import gamut, spaces

LARGEST_AB = 150  # distances of (a, b) that the curve of raw accuracy goes to
_BEST_PSNR_ERROR = 1e-10  # 100 dB
_STRIP = 2**19  # pixels that are looked at in float64 at a time
_K1, _K2 = 0.01, 0.03  # of SSIM, as Wang et al. have them


def psnr(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, per photo: RGB [..., height, width, 3] in [0, 1] -> [...].

    At most 100 dB: a perfect photo must not make a mean infinite.
    """
    chex.assert_equal_shape((predicted, truth))
    return psnr_of_error(jnp.square(predicted - truth).mean((-3, -2, -1)))


def psnr_of_error(error: jax.Array) -> jax.Array:
    """`psnr` of mean squared errors of RGB in [0, 1]."""
    return -10 * jnp.log10(jnp.maximum(error, _BEST_PSNR_ERROR))


def squared_error_ab(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean squared error of CIE Lab's a and b, unscaled, over both channels and all pixels.

    Args:
        predicted, truth: RGB [..., height, width, 3] in [0, 1].

    Returns:
        [...] per photo.
    """
    return jnp.square(_difference_ab(predicted, truth)).mean((-3, -2, -1))


def auc(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Area under the curve of raw color accuracy (Zhang et al. 2016), per photo.

    The curve has, for t = 0, 1, ..., 150, the share of the pixels whose (a, b) is at most t from
    the truth's; its area, by trapezoids, is divided by 150. 1: every color is exact. A photo left
    gray scores high too, where it has little color: compare with that.

    Args:
        predicted, truth: RGB [..., height, width, 3] in [0, 1].

    Returns:
        [...] per photo. Of a whole set, and rebalanced: see `accuracy_counts`.
    """
    distance = jnp.sqrt(jnp.square(_difference_ab(predicted, truth)).sum(-1))
    # The area that one pixel adds: it counts from the first t that reaches its distance on, and the
    # two ends of the curve count half.
    area = LARGEST_AB + 0.5 - jnp.maximum(jnp.ceil(distance), 0.5)
    return jnp.where(distance <= LARGEST_AB, area, 0).mean((-2, -1)) / LARGEST_AB


def _difference_ab(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Of Lab's a and b, per pixel: RGB [..., 3] in [0, 1] -> [..., 2]."""
    chex.assert_equal_shape((predicted, truth))
    return spaces.lab(predicted)[..., 1:] - spaces.lab(truth)[..., 1:]


def accuracy_counts(
    predicted: jax.Array, truth: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Pixels by the bin of their true color and by how far the predicted one is from it.

    The counts of several photos are added up; `accuracy_curve` makes the curve of a whole set of
    them, plain or rebalanced, and `accuracy_counts(...).sum(-1)` is the prior of its colors.

    Args:
        predicted, truth: [..., 2] Lab's a and b, unscaled; all pixels are counted together.
        valid: [...] bool, pixels that count; None: all.

    Returns:
        int32 [313, 152]: row b for the truths that are nearest to `gamut.bins()[b]`, column t for
        distances above t - 1 and not above t, and the last column for those above 150.
    """
    chex.assert_equal_shape((predicted, truth))
    distance = jnp.sqrt(jnp.square(predicted - truth).sum(-1))
    # NaN is far from everything.
    column = jnp.where(distance <= LARGEST_AB, jnp.ceil(distance), LARGEST_AB + 1)
    columns = LARGEST_AB + 2
    cell = gamut.nearest_bin(truth) * columns + column.astype(jnp.int32)
    none = gamut.BINS * columns
    if valid is not None:
        cell = jnp.where(valid, cell, none)
    return jnp.bincount(cell.ravel(), length=none + 1)[:-1].reshape(gamut.BINS, columns)


def accuracy_curve(counts: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """The share of the pixels whose (a, b) is at most 0, 1, ..., 150 from the truth's.

    Args:
        counts: sums of what `accuracy_counts` gives, [313, 152].
        prior: [313] how frequent each bin is, in any unit: every pixel then weighs 1 / prior of its
            true bin, so that rare colors count as much as frequent ones; bins whose prior is zero
            do not count. None: every pixel weighs the same.

    Returns:
        float64 [151]; NaN where no pixel counts.
    """
    counts = np.asarray(counts, np.float64)
    if prior is not None:
        prior = np.asarray(prior, np.float64)
        weight = np.divide(1, prior, out=np.zeros_like(prior), where=prior > 0)
        counts = counts * weight[:, None]
    by_distance = counts.sum(0)
    total = by_distance.sum()
    if not total:
        return np.full(LARGEST_AB + 1, np.nan)
    return by_distance[:-1].cumsum() / total


def area(curve: np.ndarray) -> float:
    """AuC: the area under `accuracy_curve`, by trapezoids, of which 1 is the most."""
    return float(np.trapezoid(curve) / LARGEST_AB)


def colorfulness(rgb: np.ndarray) -> float:
    """How colorful a photo looks (Hasler and Suesstrunk 2003); a gray one is 0. More is not better.

    Of rg = R - G and yb = (R + G) / 2 - B, signed, over the pixels: the root of the sum of their
    variances, and 0.3 times the root of the sum of their squared means.

    Args:
        rgb: [height, width, 3] from 0 to 255, of any type.
    """
    chex.assert_shape(rgb, (None, None, 3))
    total, squares = np.zeros(2), np.zeros(2)
    for rows in _strips(*rgb.shape[:2]):
        red, green, blue = np.moveaxis(rgb[rows].astype(np.float64), -1, 0)
        for i, opponent in enumerate((red - green, (red + green) / 2 - blue)):
            total[i] += opponent.sum()
            squares[i] += np.square(opponent).sum()
    pixels = rgb.shape[0] * rgb.shape[1]
    mean = total / pixels
    variance = np.maximum(squares / pixels - mean**2, 0)
    return float(np.sqrt(variance.sum()) + 0.3 * np.sqrt((mean**2).sum()))


WINDOWS = ("uniform", "gaussian")


def ssim(
    predicted: np.ndarray, truth: np.ndarray, window: str = "uniform", data_range: float = 1
) -> float:
    """Structural similarity of a photo: the mean over windows wholly inside of it, and channels.

    It is mostly about lightness, and near 1 wherever that was kept: of little use for colors.

    Args:
        predicted, truth: [height, width, 3] RGB from 0 to the data range, of any type.
        window: "uniform": 7 x 7 with the sample covariance, as scikit-image has it; "gaussian":
            11 x 11, sigma 1.5, without that correction, as in Wang et al. (2004).
        data_range: the value of white.

    Returns:
        NaN for a photo that is smaller than a window.
    """
    chex.assert_equal_shape((predicted, truth))
    chex.assert_shape(truth, (None, None, 3))
    kernel, correction = {
        "uniform": (np.full(7, 1 / 7), 49 / 48),
        "gaussian": (cv2.getGaussianKernel(11, 1.5, cv2.CV_64F)[:, 0], 1.0),
    }[window]
    height, width = (side - len(kernel) + 1 for side in truth.shape[:2])  # of the windows
    if min(height, width) < 1:
        return float("nan")
    total = 0.0
    for rows in _strips(height, width):
        seen = slice(rows.start, rows.stop + len(kernel) - 1)
        x, y = (photo[seen].astype(np.float64) for photo in (predicted, truth))
        total += _similarity(x, y, kernel, correction, data_range).sum()
    return float(total / (height * width * 3))


def _similarity(x, y, kernel, correction, data_range) -> np.ndarray:
    """SSIM of every window inside of a photo, and of every channel."""
    radius = len(kernel) // 2

    def mean(x):
        blurred = cv2.sepFilter2D(x, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
        return blurred[radius:-radius, radius:-radius]

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y, covariance = (
        correction * (mean(a * b) - mean_a * mean_b)
        for a, b, mean_a, mean_b in (
            (x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y),
        )
    )  # fmt: skip
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def _strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a photo, so many at a time that float64 of them takes little memory."""
    rows = max(_STRIP // width, 1)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))
