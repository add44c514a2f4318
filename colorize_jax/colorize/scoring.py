"""Numbers of color of whole sets of photos, beside those of photos that nobody colored.

Every row of the table is a set of photos of the same size as the originals: the colored ones, and

    truth              the originals themselves, as a check and for their colorfulness
    gray               the mean of the channels, no color
    constant color     the mean a and b of the reference photos, everywhere
    another's colors   a and b of another original, drawn by a seed and stretched to this one's size

All of them are 8-bit photos, as files would hold them.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import gamut, instantiate, quality, spaces

TRUTH, GRAY, CONSTANT, OTHER = "truth", "gray", "constant color", "another's colors"
BASELINES = (TRUTH, GRAY, CONSTANT, OTHER)
WINDOWS = quality.WINDOWS
# Pixels are looked at in pieces of these lengths, so that a few programs fit photos of all sizes.
_SMALLEST_PIECE, _LARGEST_PIECE = 2**12, 2**18


@dataclasses.dataclass(frozen=True)
class Reference:
    """What is known of colors before a photo is seen.

    Attributes:
        ab: [2] the mean of Lab's a and b over all pixels.
        prior: [313] how many pixels are nearest to each of `gamut.bins()`.
        photos: that were looked at, gray ones left out.
    """

    ab: np.ndarray
    prior: np.ndarray
    photos: int

    @classmethod
    def of(cls, photos: Iterable[np.ndarray]) -> "Reference":
        """That of some photos [height, width, 3] uint8; of none it is gray and knows no bin."""
        total, prior, pixels, seen = np.zeros(2), np.zeros(gamut.BINS, np.int64), 0, 0
        for photo in photos:
            sums = _summed(_colors_of_piece, photo)
            if sums["colored"]:
                total += sums["ab"]
                prior += sums["bins"].astype(np.int64)
                pixels += photo.shape[0] * photo.shape[1]
                seen += 1
        return cls(total / max(pixels, 1), prior, seen)


@dataclasses.dataclass
class Scores:
    """Sums over photos of one row, and the numbers of every photo.

    Attributes:
        counts: int64 [313, 152], see `quality.accuracy_counts`.
        photos: {name: {"auc", "psnr", "ssim", "squared_error_ab", "colorfulness"}}.
    """

    counts: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((gamut.BINS, quality.LARGEST_AB + 2), np.int64)
    )
    photos: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


class Scorer:
    """Compares photos with their originals, one after the other.

    Args:
        rows: names of the sets of colored photos.
        reference: for the constant color and for the weights of rare colors.
        window: of SSIM, one of `quality.WINDOWS`.
        others: whether there are several originals, to lend each other their colors.
    """

    def __init__(
        self, rows: Sequence[str], reference: Reference, window: str = "uniform",
        others: bool = True,
    ):  # fmt: skip
        self.rows, self.reference, self._window = tuple(rows), reference, window
        self.scores: dict[str, Scores] = {name: Scores() for name in all_rows(rows, others)}
        self.without_color: list[str] = []

    def add(
        self, name: str, truth: np.ndarray, colored: Mapping[str, np.ndarray], other: np.ndarray
    ) -> dict[str, np.ndarray] | None:
        """Compares one photo.

        Args:
            name: of the photo.
            truth: [height, width, 3] uint8.
            colored: {row: uint8 of the same shape} of all rows.
            other: another original, of any size.

        Returns:
            {row: the photo as it was compared}, of all rows of `scores`; None for an original
            without color, which is left out of all numbers: being gray is right there.
        """
        order = list(self.scores)
        made = baselines(truth, other, self.reference.ab)
        photos = {row: made[row] if row in made else colored[row] for row in order}
        sums = _summed(_compared_piece, truth, *(photos[row] for row in order))
        if not sums["colored"]:
            self.without_color.append(name)
            return None
        pixels = truth.shape[0] * truth.shape[1]
        for i, row in enumerate(order):
            counts = sums["counts"][i].astype(np.int64)
            self.scores[row].counts += counts
            self.scores[row].photos[name] = {
                "auc": quality.area(quality.accuracy_curve(counts)),
                "psnr": float(quality.psnr_of_error(sums["squared_error"][i] / (3 * pixels))),
                "ssim": quality.ssim(photos[row], truth, self._window, data_range=255),
                "squared_error_ab": float(sums["squared_error_ab"][i]) / (2 * pixels),
                "colorfulness": quality.colorfulness(photos[row]),
            }
        return photos

    def summary(self) -> dict[str, dict[str, float]]:
        """{row: its numbers} over all photos so far.

        `auc` and `auc_rebalanced` are of the pixels of all photos together; `psnr`, `ssim` and
        `colorfulness` are means over photos, the middle one without photos smaller than a window;
        `rmse_ab` is the root of the mean over photos of the squared error, over both channels;
        `colorfulness_difference` is the mean over photos of the distance from the truth's.
        """
        found = {}
        truth = self.scores[TRUTH].photos
        for row, scores in self.scores.items():
            each = list(scores.photos.values())
            differences = [
                abs(numbers["colorfulness"] - truth[name]["colorfulness"])
                for name, numbers in scores.photos.items()
            ]
            found[row] = {
                "auc": quality.area(quality.accuracy_curve(scores.counts)),
                "auc_rebalanced": quality.area(
                    quality.accuracy_curve(scores.counts, self.reference.prior)
                ),
                "psnr": _mean([numbers["psnr"] for numbers in each]),
                "ssim": _mean([numbers["ssim"] for numbers in each]),
                "rmse_ab": math.sqrt(_mean([numbers["squared_error_ab"] for numbers in each])),
                "colorfulness": _mean([numbers["colorfulness"] for numbers in each]),
                "colorfulness_difference": _mean(differences),
            }
        return found

    def order(self, row: str) -> list[str]:
        """Names of the photos from the worst on: by how much better the AuC is than left gray."""
        own, gray = self.scores[row].photos, self.scores[GRAY].photos
        return sorted(own, key=lambda name: own[name]["auc"] - gray[name]["auc"])


def all_rows(colored: Sequence[str], others: bool = True) -> tuple[str, ...]:
    """The rows of the table in their order; see `Scorer`."""
    return (*(row for row in BASELINES if others or row != OTHER), *colored)


def baselines(truth: np.ndarray, other: np.ndarray, ab: np.ndarray) -> dict[str, np.ndarray]:
    """{row: uint8 photo} of `BASELINES` for one original, [height, width, 3] uint8."""
    height, width = truth.shape[:2]
    stretched = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    recolored = _in_pieces(_recolored_piece, truth, stretched)
    return {
        TRUTH: truth,
        GRAY: left_gray(truth),
        CONSTANT: _shades(*map(float, ab))[truth.sum(-1, dtype=np.int32)],
        OTHER: recolored,
    }


def left_gray(truth: np.ndarray) -> np.ndarray:
    """The mean of the channels, three times: what a network that colors photos is given."""
    gray = np.round(truth.sum(-1, dtype=np.int32) / 3).astype(np.uint8)
    return np.repeat(gray[..., None], 3, -1)


@functools.lru_cache(maxsize=4)
def _shades(a: float, b: float) -> np.ndarray:
    """A color at every lightness that the mean of three 8-bit channels can have: [766, 3] uint8."""
    gray = jnp.arange(766, dtype=jnp.float32) / 765
    ab = jnp.broadcast_to(jnp.array([a, b], jnp.float32), (766, 2))
    return np.asarray(_to_uint8(instantiate.ab_to_rgb(ab, gray)))


def _to_uint8(rgb):
    return jnp.round(rgb * 255).astype(jnp.uint8)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _ab(image):
    return spaces.lab(spaces.from_uint8(image))[..., 1:]


@jax.jit
def _colors_of_piece(truth, valid):
    ab = _ab(truth)
    nearest = jnp.where(valid, gamut.nearest_bin(ab), gamut.BINS)
    return {
        "ab": jnp.where(valid[:, None], ab, 0).sum(0),
        "bins": jnp.bincount(nearest, length=gamut.BINS + 1)[:-1],
        "colored": gamut.has_color(jnp.where(valid[:, None], ab, 0)),
    }


@jax.jit
def _compared_piece(truth, valid, *predicted):
    rgb, predicted = spaces.from_uint8(truth), spaces.from_uint8(jnp.stack(predicted))
    ab, predicted_ab = spaces.lab(rgb)[..., 1:], spaces.lab(predicted)[..., 1:]
    count = functools.partial(quality.accuracy_counts, truth=ab, valid=valid)

    def squared_error(x, y):
        return jnp.where(valid[:, None], jnp.square(x - y), 0).sum((1, 2))

    return {
        "counts": jax.lax.map(count, predicted_ab),
        "squared_error": squared_error(predicted, rgb),
        "squared_error_ab": squared_error(predicted_ab, ab),
        "colored": gamut.has_color(jnp.where(valid[:, None], ab, 0)),
    }


@jax.jit
def _recolored_piece(truth, valid, other):
    del valid
    return _to_uint8(instantiate.ab_to_rgb(_ab(other), spaces.gray(spaces.from_uint8(truth))))


def _pieces(truth: np.ndarray, *photos: np.ndarray):
    """(start, end, the arguments of a function of a piece): pixels [n, 3] of the original, which of
    them count, and the same pixels of other photos."""
    flat = [photo.reshape(-1, 3) for photo in (truth, *photos)]
    pixels = flat[0].shape[0]
    length = min(max(1 << (pixels - 1).bit_length(), _SMALLEST_PIECE), _LARGEST_PIECE)
    for start in range(0, pixels, length):
        end = min(start + length, pixels)
        missing = [(0, length - (end - start)), (0, 0)]
        own, *others = (np.pad(photo[start:end], missing) for photo in flat)
        yield start, end, (own, np.arange(length) < end - start, *others)


def _summed(function, *photos: np.ndarray) -> dict[str, np.ndarray]:
    """The sums of what a function of pieces gives, in float64 and int64."""
    total: dict[str, np.ndarray] = {}
    for _, _, arguments in _pieces(*photos):
        for name, value in function(*arguments).items():
            value = np.asarray(value)
            wide = value.astype(np.int64 if value.dtype.kind in "ib" else np.float64)
            total[name] = total.get(name, 0) + wide
    return total


def _in_pieces(function, truth: np.ndarray, *photos: np.ndarray) -> np.ndarray:
    """What a function of pieces makes of the pixels, as a photo."""
    found = np.empty((truth.shape[0] * truth.shape[1], 3), np.uint8)
    for start, end, arguments in _pieces(truth, *photos):
        found[start:end] = np.asarray(function(*arguments))[: end - start]
    return found.reshape(truth.shape)
