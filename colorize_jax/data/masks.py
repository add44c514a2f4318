"""Decodes masks of classes from PNG and SBD's MATLAB files; encodes PNGs of a VOC submission."""

import io

import numpy as np
from PIL import Image

from colorize_jax.data import decode
from colorize_jax.data.decode import Photo
from colorize_jax.errors import DataError

VOID = 255  # A void pixel has no class: it is neither trained on nor scored.
# Formats of masks: they keep every value, and decoding them starts no other program.
FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
LOSSY = ("JPEG", "JPEG2000", "WEBP")
# Masks with a larger share of ramps among the edges (see `interpolated`) were resized with
# interpolation or saved as JPEG. The share over 400 masks of VOC is 0.0004, and 0.0015 after a
# resize to a fifth by the nearest neighbor. It is 0.27 to 0.61 after box, bilinear, bicubic or
# Lanczos filters, or JPEG of quality 75 or 95.
INTERPOLATED = 0.1


def decode_mask(data: bytes, classes: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """The classes of a photo's pixels, uint8 [height, width], each below `classes` or `VOID`.

    Args:
        data: a PNG (or the like) whose palette indices or gray values are the classes, or a .mat
            file of SBD, with GTcls.Segmentation.
        classes: the number of classes, background included.
        size: (height, width) of the photo; None allows any.

    Raises:
        DataError: the mask is damaged, lossy, of another size, has another value, or is no mask.
    """
    mask = _from_matlab(data) if data.startswith(b"MATLAB") else _from_picture(data, size)
    if size is not None:
        _check_size(*mask.shape, *size)
    wrong = mask[(mask < 0) | (mask >= classes) & (mask != VOID)]
    if wrong.size:
        message = f"its mask has the value {wrong[0]}; classes are 0 to {classes - 1} and {VOID}"
        ramps, edges = interpolated(mask)
        if ramps > INTERPOLATED * edges:
            message += (
                ". Its edges are blurred: resize masks by the nearest neighbor, and never save "
                "them as JPEG"
            )
        raise DataError(message)
    return mask.astype(np.uint8)


def interpolated(mask: np.ndarray) -> tuple[int, int]:
    """Counts traces of interpolation in a mask [height, width]: (ramps, edges).

    An edge is a pixel whose two opposite neighbors (left and right, or above and below) have values
    that differ by two or more. It is also a ramp if its own value lies between those two. Blurring
    turns most edges into ramps, and hand-drawn masks hardly have any; see `INTERPOLATED`.
    """
    mask = mask.astype(np.int32)
    ramps = edges = 0
    for values in (mask, mask.T):
        low = np.minimum(values[:, :-2], values[:, 2:])
        high = np.maximum(values[:, :-2], values[:, 2:])
        edge = high - low >= 2
        middle = values[:, 1:-1]
        edges += np.count_nonzero(edge)
        ramps += np.count_nonzero(edge & (low < middle) & (middle < high))
    return ramps, edges


def _from_picture(data: bytes, size: tuple[int, int] | None) -> np.ndarray:
    try:
        image, _ = decode.open_image(data, (*FORMATS, *LOSSY))
    except DataError as error:
        raise DataError(f"its mask is damaged, or none of {', '.join(FORMATS)}: {error}") from error
    if image.format in LOSSY:
        raise DataError(
            f"its mask is a {image.format}, which changes the values at every edge: classes need "
            "the original masks, as PNG"
        )
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise DataError(
            f"its mask is {image.mode}: the values of a palette or gray PNG are expected, which "
            "are the classes"
        )
    # The size is checked before decoding, so that a huge mask takes no memory.
    if size is not None:
        _check_size(image.height, image.width, *size)
    if image.height * image.width > decode.MAX_PIXELS:
        raise DataError(f"its mask has {image.width} x {image.height} pixels")
    try:
        stored = image.tile[0][3] if image.format == "PNG" and image.tile else ""
        mask = np.asarray(image)
    except Exception as error:  # Pillow raises many kinds of errors on damaged files.
        raise DataError(f"its mask is damaged: {error}") from error
    # Pillow scales gray of two or four bits to the range of eight; the stored values are classes.
    mask = mask // {"L;2": 85, "L;4": 17}.get(stored, 1) if mask.dtype == np.uint8 else mask
    return mask.astype(np.uint8) if mask.dtype == bool else mask


def _from_matlab(data: bytes) -> np.ndarray:
    import scipy.io  # It is slow to import and only SBD needs it.

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

    A mask belongs to the upright photo. A mask of a photo with an EXIF orientation that was drawn
    before the photo was turned has another size and is refused.

    Raises:
        DataError: as for `decode_mask`, or the mask does not have the photo's size.
    """
    if data is None:
        return None
    return decode_mask(data, classes, (photo.height, photo.width))


def _check_size(height: int, width: int, photo_height: int, photo_width: int) -> None:
    if (height, width) != (photo_height, photo_width):
        raise DataError(f"its mask is {width} x {height}, the photo {photo_width} x {photo_height}")


def palette(classes: int = 256) -> np.ndarray:
    """PASCAL VOC's colors of the first `classes` classes and of `VOID`; the rest is black.

    The array is uint8 [256, 3].

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
    """A mask, uint8 [height, width], as a PNG with VOC's palette, as VOC's server expects it."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
