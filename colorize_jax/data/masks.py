"""Masks of classes: from PNG and SBD's MATLAB files, and to the PNGs of a VOC submission."""

import io

import numpy as np
from PIL import Image

from colorize_jax.data.decode import Photo
from colorize_jax.errors import DataError

VOID = 255  # of no class: neither trained on nor scored


def decode_mask(data: bytes, classes: int) -> np.ndarray:
    """The classes of a photo's pixels, uint8 [height, width], each below `classes` or `VOID`.

    Args:
        data: a PNG (or the like) whose palette indices or gray values are the classes, or a .mat
            file of SBD, with GTcls.Segmentation.
        classes: their number, background included.

    Raises:
        DataError: damaged, no mask, or with another value.
    """
    mask = _from_matlab(data) if data.startswith(b"MATLAB") else _from_picture(data)
    wrong = mask[(mask < 0) | (mask >= classes) & (mask != VOID)]
    if wrong.size:
        raise DataError(
            f"its mask has the value {wrong[0]}; classes are 0 to {classes - 1} and {VOID}"
        )
    return mask.astype(np.uint8)


def _from_picture(data: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError(f"its mask is damaged: {error}") from error
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise DataError(
            f"its mask is {image.mode}: the values of a palette or gray PNG are expected, which "
            "are the classes"
        )
    return np.asarray(image).astype(np.int64)


def _from_matlab(data: bytes) -> np.ndarray:
    import scipy.io  # only for SBD

    try:
        found = scipy.io.loadmat(io.BytesIO(data), variable_names=["GTcls"])
        mask = np.asarray(found["GTcls"]["Segmentation"][0, 0])
    except Exception as error:
        raise DataError(f"its mask is damaged or has no GTcls.Segmentation: {error}") from error
    if mask.ndim != 2 or mask.dtype.kind not in "ui":
        raise DataError(f"its mask is {mask.dtype} {list(mask.shape)} instead of whole numbers")
    return mask.astype(np.int64)


def matching_mask(data: bytes | None, photo: Photo, classes: int) -> np.ndarray | None:
    """The mask of a photo, or None if it has none.

    A mask belongs to the photo as it is seen, upright: one that was drawn on the pixels of a photo
    with an EXIF orientation, before they were turned, has another size and is refused.

    Raises:
        DataError: as `decode_mask`, or the mask has not the photo's size.
    """
    if data is None:
        return None
    mask = decode_mask(data, classes)
    height, width = mask.shape
    if (height, width) != (photo.height, photo.width):
        raise DataError(f"its mask is {width} x {height}, the photo {photo.width} x {photo.height}")
    return mask


def palette(classes: int = 256) -> np.ndarray:
    """PASCAL VOC's colors of the first classes and of `VOID`, uint8 [256, 3]; the rest is black.

    The bits of a class, from the lowest, are dealt to red, green and blue, from their highest bit
    down (VOCcolormap of the VOC development kit).
    """
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> bit & 1) << 7 - bit // 3).astype(np.uint8) * (
                bit % 3 == channel
            )
    colors[(index >= classes) & (index != VOID)] = 0
    return colors


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask, uint8 [height, width], as a PNG with VOC's palette: what VOC's server accepts."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
