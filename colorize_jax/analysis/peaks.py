"""The photos that units of a layer answer most: the strongest answers, kept while photos stream."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.analysis.receptive import Field
from colorize_jax.color import spaces


class Places(NamedTuple):
    """Where the windows around the cells of a map lie in a square crop, all within it.

    Attributes:
        starts: int [cells]: the first pixel of the windows of the cells of a row; the same of a
            column.
        window: the side of a window, in pixels.
        crop: the side of the crop.
    """

    starts: np.ndarray
    window: int
    crop: int

    def cut(self, crop: np.ndarray, cell: int) -> np.ndarray:
        """The window around a cell, counted row by row, of uint8 [crop, crop, 3]."""
        y, x = (int(self.starts[i]) for i in divmod(cell, len(self.starts)))
        return crop[y : y + self.window, x : x + self.window]

    def means(self, image: jax.Array) -> jax.Array:
        """Means over the window of every cell: [batch, crop, crop, n] -> [batch, cells², n]."""
        pixels = np.arange(self.crop)
        inside = (pixels >= self.starts[:, None]) & (pixels < self.starts[:, None] + self.window)
        weights = np.float32(inside / self.window)
        rows = jnp.einsum("gy,byxn->bgxn", weights, image)
        return jnp.einsum("kx,bgxn->bgkn", weights, rows).reshape(len(image), -1, image.shape[-1])


def places(field: Field | None, cells: int, window: int, crop: int) -> Places:
    """The windows around the centers of the receptive fields of a row of cells.

    Where a window would leave the crop, it is moved to the border.

    Args:
        field: of the layer; None: every cell sees the whole crop.
        cells: the number of cells in a row.
        window: the side of a window, in pixels; the crop's if there is no field.
        crop: the side of the crop, in pixels.
    """
    if field is None:
        return Places(np.zeros(cells, np.int64), crop, crop)
    centers = field.center + np.arange(cells) * field.stride
    starts = np.floor(centers - (window - 1) / 2).astype(np.int64)
    return Places(np.clip(starts, 0, crop - window), window, crop)


def peaks(maps: jax.Array, image: jax.Array, valid: jax.Array, where: Places) -> dict:
    """The strongest answer of every unit in every photo; pure.

    Args:
        maps: [batch, h, h, units].
        image: uint8 [batch, crop, crop, 3].
        valid: bool [batch].
        where: the windows of the cells.

    Returns:
        "value" and "cell" [batch, units], the cell counted row by row; "color", the means of Lab's
        a, b and chroma in the window around it, [batch, units, 3]; "low" [units], the lowest
        answer anywhere in the valid photos.
    """
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    cell = flat.argmax(1)
    ab = spaces.lab(spaces.from_uint8(image))[..., 1:]
    chroma = jnp.sqrt(jnp.square(ab).sum(-1, keepdims=True))
    colors = where.means(jnp.concatenate([ab, chroma], -1))
    return {
        "value": flat.max(1),
        "cell": cell,
        "color": jnp.take_along_axis(colors, cell[..., None], 1),
        "low": jnp.where(valid[:, None, None], flat, jnp.inf).min((0, 1)),
    }


class Best:
    """The photos with the strongest answers of units; memory does not grow with the photos.

    Args:
        units: the number of units.
        count: how many photos are kept of each.

    Attributes:
        value: float32 [units, count], from the strongest on; -inf where there is none.
        photo: int64 [units, count], the photos' numbers.
        cell: int64 [units, count].
        color: float32 [units, count, 3].
        low: float32 [units], the lowest answer of the unit anywhere.
    """

    def __init__(self, units: int, count: int):
        self.value = np.full((units, count), -np.inf, np.float32)
        self.photo = np.full((units, count), -1, np.int64)
        self.cell = np.zeros((units, count), np.int64)
        self.color = np.zeros((units, count, 3), np.float32)
        self.low = np.full(units, np.inf, np.float32)

    def add(self, photos: np.ndarray, found: dict[str, np.ndarray]) -> None:
        """Adds what `peaks` found; of its rows the first len(photos) count."""
        rows = len(photos)
        new = {name: np.moveaxis(np.asarray(found[name])[:rows], 0, 1)
               for name in ("value", "cell", "color")}  # fmt: skip
        new["photo"] = np.broadcast_to(np.asarray(photos), new["value"].shape)
        count = self.value.shape[1]
        old = {name: getattr(self, name) for name in new}
        both = {name: np.concatenate([old[name], new[name]], 1) for name in new}
        # Of equal answers the earlier photo is kept. NaN sorts behind everything.
        order = np.argsort(-both["value"], 1, kind="stable")[:, :count]
        for name, values in both.items():
            at = order if values.ndim == 2 else order[..., None]
            setattr(self, name, np.take_along_axis(values, at, 1))
        self.low = np.minimum(self.low, found["low"])

    @property
    def answered(self) -> np.ndarray:
        """bool [units, count]: the unit answers in this photo, more than it does at its lowest."""
        return (self.photo >= 0) & (self.value > self.low[:, None])


def color_spread(best: Best) -> np.ndarray:
    """[units]: how much the mean colors of a unit's patches differ, in units of Lab.

    The root of the mean square of the distances in (a, b) from their mean; NaN with fewer than two
    patches.
    """
    return np.sqrt(np.square(_centered(best)).sum(-1).sum(1) / _patches(best, 2))


def mean_chroma(best: Best) -> np.ndarray:
    """[units]: the mean chroma of a unit's patches, in units of Lab; NaN without any."""
    return np.where(best.answered, best.color[..., 2], 0).sum(1) / _patches(best, 1)


def _centered(best: Best) -> np.ndarray:
    weights = best.answered[..., None]
    ab = np.where(weights, best.color[..., :2], 0)
    mean = ab.sum(1) / np.maximum(weights.sum(1), 1)
    return np.where(weights, ab - mean[:, None], 0)


def _patches(best: Best, least: int) -> np.ndarray:
    counts = best.answered.sum(1)
    return np.where(counts >= least, counts, np.nan)
