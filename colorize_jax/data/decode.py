"""Encoded bytes to 8-bit RGB, upright, and no larger than needed.

What becomes of other kinds of pictures: gray and palette become RGB; transparent pixels lie on
white; CMYK is converted without a color profile; 16-bit and floating-point gray is scaled so that
its full range, at least that of 16 bits (or 0 to 1 where no value is larger), becomes 8 bits; of an
animation the first frame is taken; the EXIF orientation is applied.
"""

import dataclasses
import io

import numpy as np
from PIL import Image, UnidentifiedImageError
import simplejpeg

from colorize_jax.errors import DataError

_ORIENTATION = 0x0112  # the EXIF tag
# What each orientation asks for, on arrays [height, width, ...].
_UPRIGHT = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo whose size is known and whose pixels are not decoded yet; see `open_photo`."""

    height: int
    width: int
    data: bytes | np.ndarray
    orientation: int = 1
    image: Image.Image | None = None

    def pixels(self, height: int = 0, width: int = 0) -> np.ndarray:
        """[height', width', 3] uint8, upright; DataError if the photo is damaged.

        A JPEG at least twice as large as asked for comes reduced by its own transform, but never
        smaller than height x width; without them at its full size.
        """
        if self.image is None:
            return self.data
        if self.orientation in (5, 6, 7, 8):
            height, width = width, height
        try:
            if self.image.format == "JPEG" and self.image.mode in ("L", "RGB"):
                # To the last bit what Pillow decodes, at twice the speed, and strict about missing
                # data. Below a factor of two it is left at its size, as the method has it.
                pixels = simplejpeg.decode_jpeg(
                    self.data, "RGB", min_height=height, min_width=width, min_factor=2
                )
            else:
                pixels = np.asarray(_to_rgb(self.image))
        # Decoders raise many kinds of errors on damaged files; none of them may end a long run.
        except Exception as error:
            raise DataError(f"damaged image: {error}") from error
        turn = _UPRIGHT.get(self.orientation)
        return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def open_photo(data: bytes | np.ndarray) -> Photo:
    """Reads the header of any photo.

    Args:
        data: encoded bytes, or pixels [height, width, 3] uint8 that are passed on.

    Raises:
        DataError: the bytes are no picture, a damaged one, or one of absurd size.
    """
    if isinstance(data, np.ndarray):
        return Photo(*data.shape[:2], data)
    if not data:
        raise DataError("empty file")
    try:
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        # Pillow turns TIFFs itself while it decodes them, and tells their size as it will be.
        orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
    except UnidentifiedImageError as error:
        raise DataError("not an image") from error
    except Exception as error:  # Pillow refuses decompression bombs here, with an error of its own
        raise DataError(f"damaged image: {error}") from error
    if orientation in (5, 6, 7, 8):
        height, width = width, height
    return Photo(height, width, data, orientation, image)


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """Any photo at its full size, [height, width, 3] uint8. DataError as in `open_photo`."""
    return open_photo(data).pixels()


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip these to 8 bits
        deep = np.asarray(image, np.float32)
        unit = image.mode == "F" and deep.max() <= 1
        scaled = deep * (255 / (1.0 if unit else max(float(deep.max()), 65535.0)))
        image = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
