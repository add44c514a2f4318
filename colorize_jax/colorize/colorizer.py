"""Colors for gray photos of any size, from Python."""

from collections.abc import Iterator, Sequence
import functools
import itertools
import pathlib
from typing import Any, NamedTuple
import zlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color.photos import check_photo, check_values
from colorize_jax.colorize import network as networks
from colorize_jax.errors import ConfigError, PhotoError

SIZE = 256  # the shortest side of what the network sees, as in the release
_LONGEST = 500 / 256  # the longest side at most, of the shortest one, as in the release
# The sides of what the network sees are filled up to multiples of it: few sizes are compiled.
_MULTIPLE = 128
TILE = 768  # a photo that the network sees larger than this is cut into tiles of this side
_OVERLAP = 192  # of tiles; over it one goes over into the next
_CHUNK = 2**19  # pixels that are joined with their colors at a time


class Decoding(NamedTuple):
    """How colors are taken from what a network predicts.

    Attributes:
        name: "median", "mean", "mode" or "annealed", as far as the network can; "": the default of
            the network, or "annealed" where a temperature is given.
        temperature: of "annealed" and of samples: low is vivid and patchy, 1 is dull; None: the
            default of the network.
        saturation: factor on the chroma.
        seed: a sample is drawn by it, another one with every seed; None: no sample.
    """

    name: str = ""
    temperature: float | None = None
    saturation: float = 1.0
    seed: int | None = None


class Colorizer:
    """A network, ready to color photos.

    The network sees a photo small; the colors are enlarged and joined with the photo's own gray,
    which stays as it is. The gray is the plain mean of red, green and blue, or with a network of
    Lab the gray of the same lightness.

    Args:
        network: see `networks.load`.
        size: the shortest side of what the network sees; the longest one is at most about twice
            that. 0: the photo's own size. None: what the network was saved with, or 256.
        tile: see `TILE`, which it is a multiple of 128 like.
    """

    def __init__(self, network: networks.Network, size: int | None = None, tile: int = TILE):
        self.network = network
        self.size = (network.size or SIZE) if size is None else size
        if self.size < 0:
            raise ConfigError(f"--size={self.size} must not be negative")
        self._multiple = int(np.lcm(_MULTIPLE, network.colors.stride))
        self._tile = max(tile // self._multiple, 1) * self._multiple
        self._overlap = min(_OVERLAP, self._tile // 4 // 4 * 4)
        colors = network.colors
        self._predict = jax.jit(lambda gray: colors.predict(network.variables, _as_rgb(gray)))
        self._plane = jax.jit(colors.plane, static_argnums=(1, 2, 3))
        self._join = jax.jit(self._joined, static_argnums=2)
        self._gray = jax.jit(colors.gray)

    @classmethod
    def load(cls, path: str | pathlib.Path = "", size: int | None = None) -> "Colorizer":
        """The network of a run's workdir, of one of its checkpoints, or of a file of `save`.

        Args:
            path: "": the network that comes with the package.
            size: see the class.

        Raises:
            CheckpointError: there is none, it is damaged, or it cannot color gray photos.
        """
        return cls(networks.load(path), size)

    @classmethod
    def default(cls) -> "Colorizer":
        """With the network that comes with the package; CheckpointError if there is none."""
        return cls.load()

    def save(self, path: str | pathlib.Path) -> int:
        """Writes the network as one file of safetensors in bfloat16; gives its bytes."""
        return networks.save(self.network, path, self.size)

    def __call__(self, photo: Any, **decoding) -> np.ndarray:
        """Colors a photo.

        Args:
            photo: gray [height, width] or [height, width, 1], or RGB [height, width, 3], whose
                colors are not looked at; uint8, uint16 or float in [0, 1].
            **decoding: see `Decoding`, as in `temperature=0.4, saturation=1.2`.

        Returns:
            RGB [height, width, 3], of uint16 if the photo is, and of uint8 otherwise.

        Raises:
            PhotoError: it is no photo.
            ConfigError: the network has no such decoding.
        """
        photo = _checked(photo)
        how = self.decoding(**decoding)
        gray = self.gray(photo)
        ((plane,),) = self.planes([self.small(gray)], [how])
        return self.join(plane, gray, photo.dtype, how.saturation)

    def histograms(self, photo: Any) -> dict[str, np.ndarray]:
        """The distributions of colors that the network predicts for a photo, as it sees it.

        Args:
            photo: see `__call__`.

        Returns:
            {"hue" and "chroma", or "bins": float32 [grid height, grid width, bins]}, each cell of
            them summing to one. A cell stands for a square of pixels of what the network sees.

        Raises:
            ConfigError: the network predicts one color for every pixel, and no distribution; or the
                photo is so large that it would be seen in tiles.
        """
        if not self.network.colors.distributions:
            raise ConfigError(
                f"the network of {self.network.path} predicts one color for every pixel, and no "
                "distributions"
            )
        small = self.small(self.gray(_checked(photo)))
        sides = self.group(small)
        found = {}
        for name, x in self.predict(small).items():
            cell = sides[0] // x.shape[1]
            found[name] = np.asarray(
                x[0, : -(-small.shape[0] // cell), : -(-small.shape[1] // cell)]
            )
        return found

    def predict(self, small: np.ndarray) -> dict[str, jax.Array]:
        """What the network says of one photo, a batch of one; see `tasks.task.Colors`.

        Args:
            small: of `small`.

        Raises:
            ConfigError: it is so large that it would be seen in tiles, which have nothing in common
                but their colors.
        """
        filled = self._filled(small)
        if max(filled.shape) > self._tile:
            raise ConfigError(
                f"the network would see the photo in tiles of {self._tile} pixels, which have no "
                f"distributions in common: --size={self.size} must be smaller"
            )
        return self._predict(filled[None])

    def plane(
        self, predicted: dict[str, jax.Array], shape: tuple[int, int], how: Decoding
    ) -> np.ndarray:
        """The colors that `predict` has given, of what the network sees in that shape."""
        ((plane,),) = self._planes(predicted, self.group(np.empty(shape)), [how], [0])
        return plane[: shape[0], : shape[1]]

    def decoding(
        self,
        decode: str = "",
        temperature: float | None = None,
        saturation: float = 1.0,
        seed: int | None = None,
    ) -> Decoding:
        """A decoding with the defaults of the network; ConfigError for one that it cannot do."""
        colors = self.network.colors
        known = colors.decodings
        name = decode or ("annealed" if temperature is not None and seed is None else known[0])
        said = f"the network of {self.network.path}"
        if not colors.distributions and (seed is not None or temperature is not None):
            raise ConfigError(
                f"{said} predicts one color for every pixel, and no distribution: it has no "
                "temperature and no samples"
            )
        if name not in known:
            raise ConfigError(f"--decode={name}: {said} knows {', '.join(known)}")
        if temperature is not None and name != "annealed" and seed is None:
            raise ConfigError(f"--temperature is of --decode=annealed and --samples, not of {name}")
        if temperature is not None and not 0 <= temperature < float("inf"):
            raise ConfigError(f"--temperature={temperature} must not be negative")
        if not 0 <= saturation < float("inf"):
            raise ConfigError(f"--saturation={saturation} must not be negative")
        temperature = colors.temperature if temperature is None else temperature
        return Decoding(name, temperature, saturation, seed)

    def gray(self, photo: np.ndarray) -> np.ndarray:
        """The gray that stays, float32 [height, width] in [0, 1].

        Args:
            photo: uint8 or uint16, [height, width] or [height, width, 3].
        """
        gray = np.empty(photo.shape[:2], np.float32)
        most = np.float32(np.iinfo(photo.dtype).max)
        for rows in _strips(*photo.shape[:2]):
            if photo.ndim == 2:
                gray[rows] = photo[rows] / most
            else:
                part = photo[rows].reshape(-1, 3) / most
                gray[rows] = self._in_one_size(self._gray, part).reshape(-1, photo.shape[1])
        return gray

    def small(self, gray: np.ndarray) -> np.ndarray:
        """What the network sees of a photo's gray [height, width]: float32 [height', width']."""
        height, width = seen_size(*gray.shape, self.size)
        if (height, width) == gray.shape:
            return gray
        larger = height * width > gray.size
        kind = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
        return cv2.resize(gray, (width, height), interpolation=kind)

    def group(self, small: np.ndarray) -> tuple[int, int]:
        """Photos of the same one go through the network together; see `planes`."""
        return tuple(_up(side, self._multiple) for side in small.shape)

    def planes(
        self, photos: Sequence[np.ndarray], how: Sequence[Decoding], rows: int = 1
    ) -> list[list[np.ndarray]]:
        """The colors of some photos, as the network sees them.

        Args:
            photos: of `small`, all of one `group`.
            how: each of `decoding`; the network is asked once for all of them.
            rows: that many photos go through the network at a time. No answer depends on it.

        Returns:
            For every photo and every decoding float32 [height', width', 2]; see
            `tasks.task.Colors`.
        """
        filled = [self._filled(small) for small in photos]
        if max(filled[0].shape) > self._tile:
            found = [self._in_tiles(gray, how) for gray in filled]
        else:
            found = []
            for start in range(0, len(filled), rows):
                part = filled[start : start + rows]
                batch = np.zeros((rows, *filled[0].shape), np.float32)
                batch[: len(part)] = part
                found += self._colored(batch, how, list(map(_number, part)))[: len(part)]
        return [
            [plane[: s.shape[0], : s.shape[1]] for plane in planes]
            for planes, s in zip(found, photos, strict=True)
        ]

    def join(
        self, plane: np.ndarray, gray: np.ndarray, dtype: np.dtype, saturation: float = 1.0
    ) -> np.ndarray:
        """Colors and the gray of the photo together, at its full size.

        Args:
            plane: of `planes`, enlarged bilinearly.
            gray: of `gray`.
            dtype: uint8 or uint16.
            saturation: factor on the chroma.

        Returns:
            RGB [height, width, 3].
        """
        rgb = np.empty((*gray.shape, 3), dtype)
        most = int(np.iinfo(dtype).max)
        plane = plane * np.float32(saturation)
        for rows in _strips(*gray.shape):
            large = _enlarged(plane, rows, *gray.shape).reshape(-1, 2)
            joined = functools.partial(self._join, most=most)
            rgb[rows] = self._in_one_size(joined, large, gray[rows].ravel()).reshape(
                rgb[rows].shape
            )
        return rgb

    def _joined(self, plane, gray, most):
        kind = jnp.uint8 if most < 256 else jnp.uint16
        return jnp.round(self.network.colors.join(plane, gray) * most).astype(kind)

    def _in_one_size(self, function, *arrays: np.ndarray) -> np.ndarray:
        """A function of pixels [pixels, ...], compiled for few numbers of pixels."""
        count = len(arrays[0])
        size = _CHUNK if count > 2**12 else 2**12
        size = max(size, 1 << (count - 1).bit_length()) if count > size else size
        filled = [
            np.concatenate([x, np.zeros((size - count, *x.shape[1:]), x.dtype)]) for x in arrays
        ]
        return np.asarray(function(*filled))[:count]

    def _filled(self, small: np.ndarray) -> np.ndarray:
        """Filled up to multiples by its mirror image, which has no edge that is not there."""
        height, width = self.group(small)
        pads = (0, height - small.shape[0]), (0, width - small.shape[1])
        return np.pad(small, pads, mode="symmetric")

    def _colored(
        self, batch: np.ndarray, how: Sequence[Decoding], numbers: Sequence[int]
    ) -> list[list[np.ndarray]]:
        """For every photo, which has a number for what is drawn, and every decoding a plane."""
        return self._planes(self._predict(batch), batch.shape[1:], how, numbers)

    def _planes(
        self,
        predicted: dict[str, jax.Array],
        shape: tuple[int, int],
        how: Sequence[Decoding],
        numbers: Sequence[int],
    ) -> list[list[np.ndarray]]:
        rows = len(next(iter(predicted.values())))
        numbers = np.resize(np.asarray(numbers, np.uint32), rows)
        planes = []
        for each in how:
            keys = None
            if each.seed is not None:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(each.seed), numbers)
            temperature = jnp.float32(each.temperature)
            planes.append(np.asarray(self._plane(predicted, *shape, each.name, temperature, keys)))
        return [list(each) for each in zip(*planes, strict=True)]

    def _in_tiles(self, gray: np.ndarray, how: Sequence[Decoding]) -> list[np.ndarray]:
        """Planes of one photo in tiles, which fade into each other where they overlap."""
        sides = [min(side, self._tile) for side in gray.shape]
        totals = [np.zeros((*gray.shape, 2), np.float32) for _ in how]
        weights = np.zeros((*gray.shape, 1), np.float32)
        starts = (
            _starts(length, side, self._overlap)
            for length, side in zip(gray.shape, sides, strict=True)
        )
        for corner in itertools.product(*starts):
            place = tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))
            y, x = (
                _ramp(at, side, length, self._overlap)
                for at, side, length in zip(corner, sides, gray.shape, strict=True)
            )
            weight = (y[:, None] * x)[..., None]
            (planes,) = self._colored(gray[place][None], how, [_number(gray)])
            for total, plane in zip(totals, planes, strict=True):
                total[place] += weight * plane
            weights[place] += weight
        return [total / weights for total in totals]


def seen_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of what the network sees of a photo; see `Colorizer` for the size."""
    if not size:
        return height, width
    scale = min(size / min(height, width), size * _LONGEST / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles of a side begin: the last one ends with the photo."""
    steps = range(0, max(length - side, 0), side - overlap)
    return [*steps, max(length - side, 0)]


def _ramp(start: int, side: int, length: int, overlap: int) -> np.ndarray:
    """The weight of a tile along one side: it rises and falls where there is another tile."""
    ramp = np.ones(side, np.float32)
    rise = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
    if start > 0:
        ramp[:overlap] *= rise
    if start + side < length:
        ramp[-overlap:] *= rise[::-1]
    return ramp


def _enlarged(plane: np.ndarray, rows: slice, height: int, width: int) -> np.ndarray:
    """Some rows of a plane enlarged bilinearly to height and width, [rows, width, channels]."""
    at = (np.arange(rows.start, rows.stop, dtype=np.float64) + 0.5) * len(plane) / height - 0.5
    at = np.clip(at, 0, len(plane) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(plane) - 1)
    share = (at - low).astype(np.float32)[:, None, None]
    part = np.ascontiguousarray(plane[low] * (1 - share) + plane[high] * share)
    if part.shape[1] == width:
        return part
    return cv2.resize(part, (width, len(part)), interpolation=cv2.INTER_LINEAR)


def _strips(height: int, width: int) -> Iterator[slice]:
    rows = max(_CHUNK // width, 1)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _number(gray: np.ndarray) -> int:
    """Of a photo's content: what is drawn for it does not depend on what else is colored."""
    return zlib.crc32(np.ascontiguousarray(gray).tobytes())


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _as_rgb(gray: jax.Array) -> jax.Array:
    return jnp.repeat(gray[..., None], 3, -1)


def _checked(photo: Any) -> np.ndarray:
    """uint8 or uint16, [height, width] or [height, width, 3]; PhotoError if it is no photo."""
    photo = np.asarray(photo)
    if photo.ndim == 3 and photo.shape[-1] == 1:
        photo = photo[..., 0]
    if photo.ndim != 2 or photo.dtype not in (np.uint8, np.uint16):
        deep = photo.dtype == np.uint16
        three = photo[..., None].repeat(3, -1) if photo.ndim == 2 else photo
        check_photo(three.astype(np.uint8) if deep else three)
        check_values(photo)
        if not deep and photo.dtype != np.uint8:
            photo = np.round(np.clip(photo.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    if not photo.size:
        raise PhotoError("the photo has no pixels")
    return photo
