"""Color profiles (ICC) of photos, and from their colors to sRGB by littleCMS."""

import dataclasses
import functools
import io
import struct

import numpy as np
from PIL import Image, ImageCms

LARGEST = 2**22  # bytes
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # of Pillow's modes
# Levels of 255: a profile that changes no color by more is sRGB.
_SAME = 2
# Adobe RGB (1998): the primaries' XYZ, adapted to D50, and the exponent 2 + 51/256.
_ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_ADOBE_EXPONENT = 2 + 51 / 256
_D50 = (0.9642, 1.0, 0.8249)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A photo's profile.

    Attributes:
        name: as it calls itself, "sRGB" of every one that changes no color, or why it is ignored.
        broken: it is damaged, or for pictures of another kind: it is ignored.
        transform: to sRGB; None where nothing is to be done.
    """

    name: str = ""
    broken: bool = False
    transform: ImageCms.ImageCmsTransform | None = None

    def __bool__(self) -> bool:
        return self.transform is not None

    def convert(self, image: Image.Image) -> Image.Image:
        """An image of the mode that the profile is for, in sRGB."""
        return ImageCms.applyTransform(image, self.transform)


NONE = Profile()
_BROKEN = Profile("broken", True)
_OTHER = Profile("for another kind of picture", True)


# A data set has few profiles and each comes with thousands of photos.
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
        if after[-1, -1].min() < 128:  # white, which every profile keeps
            return _BROKEN
        if mode != "CMYK" and np.abs(after - before).max() <= _SAME:
            return Profile("sRGB")
        name = "".join(filter(str.isprintable, ImageCms.getProfileDescription(profile))).strip()
        return Profile(name[:60] or "unnamed", transform=transform)
    # littleCMS and Pillow raise several kinds on damaged profiles.
    except Exception:
        return _BROKEN


@functools.cache
def srgb() -> bytes:
    """sRGB as a profile, littleCMS's own."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def adobe_rgb() -> bytes:
    """Adobe RGB (1998) as a profile: cameras name it in EXIF and add none."""
    return matrix_profile("Adobe RGB (1998)", _ADOBE_RGB, _ADOBE_EXPONENT)


def matrix_profile(name: str, primaries, exponent: float) -> bytes:
    """An ICC profile (version 4) of three primaries and one exponent.

    Args:
        name: of the profile, ASCII.
        primaries: XYZ of red, green and blue, adapted to D50.
        exponent: light is the stored value, in [0, 1], to this power.
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
    """Colors of all kinds, a single row of them that ends in white."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    channels = 3 if mode == "RGB" else 4
    levels = np.linspace(0, 255, 9 if mode == "RGB" else 3).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * channels, indexing="ij"), -1).reshape(1, -1, channels)
    grid = grid if mode == "RGB" else 255 - grid  # of inks none is white
    return Image.frombytes(mode, grid.shape[1::-1], np.ascontiguousarray(grid).tobytes())
