"""Batches of whole photos: photos on a canvas of one size make a batch, in a fixed order."""

import dataclasses

import numpy as np

from colorize_jax.data.labelled import Labelled
from colorize_jax.data.views import Reading, canvas_of

NONE = -1  # no photo: fills up the last batch of a canvas


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which photo is in which row of which batch.

    Attributes:
        rows: [batches, batch_size] int64, numbers of photos or `NONE`.
        canvases: (height, width) of every batch.
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
    """Batches of the first `count` photos: by canvas from small to large, then in their order.

    Reads the headers of the photos, once. One that has none is put on the smallest canvas, where it
    will be found unreadable.
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
