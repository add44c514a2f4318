"""Reads the color profiles (ICC) of photos and converts their colors to sRGB by littleCMS."""

import dataclasses
import functools
import io
import struct

import numpy as np
from PIL import Image, ImageCms

LARGEST = 2**22  # A larger profile, in bytes, is ignored.
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # the color spaces of Pillow's modes
# A profile that changes no color by more than this, in levels of 255, counts as sRGB.
_SAME = 2
# The XYZ of the primaries of Adobe RGB (1998), adapted to D50. Its exponent is 2 + 51/256.
_ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_ADOBE_EXPONENT = 2 + 51 / 256
_D50 = (0.9642, 1.0, 0.8249)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A photo's profile.

    Attributes:
        name: the profile's own name, "sRGB" if it changes no color, or the reason to ignore it.
        broken: whether it is ignored because it is damaged or for another kind of picture.
        transform: the transform to sRGB; None if nothing has to be done.
    """

    name: str = ""
    broken: bool = False
    transform: ImageCms.ImageCmsTransform | None = None

    def __bool__(self) -> bool:
        return self.transform is not None

    def convert(self, image: Image.Image) -> Image.Image:
        """Converts an image of the profile's mode to sRGB."""
        return ImageCms.applyTransform(image, self.transform)


NONE = Profile()
_BROKEN = Profile("broken", True)
_OTHER = Profile("for another kind of picture", True)


# A data set has few profiles, and thousands of photos share each of them.
@functools.lru_cache(maxsize=32)
def read(data: bytes, mode: str) -> Profile:
    """The profile in `data`, for pictures of Pillow's mode "L", "RGB" or "CMYK"."""
    if not 128 <= len(data) <= LARGEST:
        return _BROKEN
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if profile.profile.xcolor_space.strip() != _SPACES[mode]:
            return _OTHER
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        colors = _colors(mode)
        before = np.asarray(colors.convert("RGB"), np.int16)
        after = np.asarray(ImageCms.applyTransform(colors, transform), np.int16)
        if after[-1, -1].min() < 128:  # The last color is white, which every valid profile keeps.
            return _BROKEN
        if mode != "CMYK" and np.abs(after - before).max() <= _SAME:
            return Profile("sRGB")
        name = "".join(filter(str.isprintable, ImageCms.getProfileDescription(profile))).strip()
        return Profile(name[:60] or "unnamed", transform=transform)
    # littleCMS and Pillow raise several kinds of errors on damaged profiles.
    except Exception:
        return _BROKEN


@functools.cache
def srgb() -> bytes:
    """littleCMS's own profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def adobe_rgb() -> bytes:
    """A profile of Adobe RGB (1998). Cameras only name this space in EXIF and embed no profile."""
    return matrix_profile("Adobe RGB (1998)", _ADOBE_RGB, _ADOBE_EXPONENT)


def matrix_profile(name: str, primaries, exponent: float) -> bytes:
    """An ICC profile (version 4) of three primaries and one exponent.

    Args:
        name: the name of the profile, in ASCII.
        primaries: XYZ of red, green and blue, adapted to D50.
        exponent: the stored value, in [0, 1], to this power is the amount of light.
    """

    def fixed(*values):
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    def text(words):
        words = words.encode("utf-16-be")
        return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(words), 28) + words

    curve = b"para\0\0\0\0\0\0\0\0" + fixed(exponent)
    tags = {b"desc": text(name), b"cprt": text("none"), b"wtpt": b"XYZ \0\0\0\0" + fixed(*_D50)}
    for color, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[color + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*primary)
        tags[color + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        start = 132 + 12 * len(tags) + len(body)
        table += struct.pack(">4sII", tag, start, len(value))
        body += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4xI12s12x4s28x", size, 0x04300000, b"mntrRGB XYZ ", b"acsp")
    return (header + fixed(*_D50)).ljust(128, b"\0") + table + body


def _colors(mode: str) -> Image.Image:
    """One row of sample colors of all kinds; the last one is white."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    channels = 3 if mode == "RGB" else 4
    levels = np.linspace(0, 255, 9 if mode == "RGB" else 3).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * channels, indexing="ij"), -1).reshape(1, -1, channels)
    grid = grid if mode == "RGB" else 255 - grid  # White is no ink, so inks are inverted.
    return Image.frombytes(mode, grid.shape[1::-1], np.ascontiguousarray(grid).tobytes())
