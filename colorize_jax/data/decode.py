"""Encoded bytes to 8-bit RGB."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from colorize_jax.errors import DataError


def open_rgb(data: bytes | np.ndarray) -> Image.Image:
    """Any photo as an RGB picture, upright.

    Args:
        data: encoded bytes, or pixels [height, width, 3] uint8 that are passed on.

    Raises:
        DataError: the bytes are no picture, or a damaged one.
    """
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise DataError("not an image") from error
    # Pillow's decoders raise many kinds on damaged files; none of them may end a long run.
    except Exception as error:
        raise DataError(f"damaged image: {error}") from error
    if image.has_transparency_data:  # over white, as a page would show it
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip 16 bits to 8
        deep = np.asarray(image, np.float32)
        image = Image.fromarray((deep * (255 / max(deep.max(), 65535))).astype(np.uint8))
    return image.convert("RGB")


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """Any photo -> [height, width, 3] uint8. DataError as in `open_rgb`."""
    return np.asarray(open_rgb(data))
