"""Plans batches of whole photos: all photos of a batch share a canvas size; the order is fixed."""

import dataclasses

import numpy as np

from colorize_jax.data.labelled import Labelled
from colorize_jax.data.views import Reading, canvas_of

NONE = -1  # A row without a photo: it fills up the last batch of a canvas size.


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which photo is in which row of which batch.

    Attributes:
        rows: the numbers of the photos, or `NONE`: int64 [batches, batch_size].
        canvases: (height, width) of every batch's canvas.
    """

    rows: np.ndarray
    canvases: tuple[tuple[int, int], ...]


def plan(
    photos: Labelled,
    count: int,
    *,
    batch_size: int,
    crop: int,
    reading: Reading,
    threads: int,
    retry_seconds: float = 0.0,
) -> Plan:
    """Plans batches of the first `count` photos, sorted by canvas size, then by their number.

    It reads the header of every photo once. A photo without a readable header is planned on the
    smallest canvas; reading it later reports why it is bad.
    """
    sizes = photos.sizes(count, threads, reading.max_pixels, retry_seconds)
    canvases = [None if size is None else canvas_of(*reading.size(*size), crop) for size in sizes]
    smallest = min(filter(None, canvases), default=canvas_of(1, 1, crop))
    groups: dict[tuple[int, int], list[int]] = {}
    for index, canvas in enumerate(canvases):
        groups.setdefault(canvas or smallest, []).append(index)
    rows, batches = [], []
    for canvas in sorted(groups):
        group = groups[canvas]
        group += [NONE] * (-len(group) % batch_size)
        rows += group
        batches += [canvas] * (len(group) // batch_size)
    return Plan(np.array(rows, np.int64).reshape(-1, batch_size), tuple(batches))
