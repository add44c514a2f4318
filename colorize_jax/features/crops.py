"""Central crops of photos, and batches of them."""

from collections.abc import Iterator
import itertools

import numpy as np

from colorize_jax.data import decode, transforms
from colorize_jax.data.sources import Photos
from colorize_jax.errors import DataError, why


def central(
    photos: Photos,
    index: int,
    shortest: int,
    crop: int,
    squeeze: bool = False,
    least: int = 0,
) -> tuple[np.ndarray | None, str]:
    """The middle of a photo, uint8 [crop, crop, 3], and ""; or None and why it cannot be read.

    Args:
        photos: the photos.
        index: the photo's number.
        shortest: the photo's shortest side is scaled to this many pixels first.
        crop: the side of the crop in pixels; at most `shortest`.
        squeeze: whether the whole photo is resized to the crop instead.
        least: a photo whose shortest side has fewer pixels, as stored, is left out.
    """
    try:
        photo = decode.open_photo(photos[index].image)
        if min(photo.height, photo.width) < least:
            return None, f"{photo.width} x {photo.height} pixels; {least} are needed"
        height, width = transforms.scaled_size(photo.height, photo.width, shortest)
        if squeeze:
            height, width = crop, crop
        window = transforms.Window(height, width, (height - crop) // 2, (width - crop) // 2, crop)
        return transforms.cut(photo.pixels(height, width), window), ""
    except (DataError, OSError) as error:
        return None, why(error)


def batches(
    crops: Iterator[tuple[int, np.ndarray]], rows: int, crop: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields the numbers and the pixels of `rows` crops; the last batch is filled up with black.

    Args:
        crops: (number, uint8 [crop, crop, 3]) of each.
        rows: the number of crops in a batch.
        crop: their side in pixels.
    """
    while some := list(itertools.islice(crops, rows)):
        image = np.zeros((rows, crop, crop, 3), np.uint8)
        image[: len(some)] = [pixels for _, pixels in some]
        yield [number for number, _ in some], image
