"""What a source gives, and which names are photos."""

from collections.abc import Sequence
import dataclasses
import os
from typing import Protocol

import numpy as np

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
     ".pgm", ".tga", ".avif")
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Record:
    """One photo as it is stored: a name that stays the same between runs, encoded bytes or decoded
    uint8 pixels [height, width, 3], and what is known about it: an encoded mask of classes, or
    labels of any shape."""

    name: str
    image: bytes | np.ndarray
    mask: bytes | None = None
    labels: np.ndarray | None = None


class Source(Protocol):
    """Photos by number. Picklable, and safe to read from several threads.

    Reading raises OSError or DataError for a photo that cannot be had.
    """

    names: Sequence[str]

    def __getitem__(self, index: int) -> Record: ...


def is_photo(name: str) -> bool:
    """Whether a path inside a folder or an archive is that of a photo, by its name."""
    base = os.path.basename(name)
    hidden = base.startswith(".") or name.startswith("__MACOSX/")
    return os.path.splitext(base)[1].lower() in EXTENSIONS and not hidden


def only_devkit_photos(names: Sequence[str]) -> Sequence[str]:
    """Leaves out the masks where the names are those of a PASCAL VOC devkit."""
    devkits = {name.split("JPEGImages/")[0] for name in names if "JPEGImages/" in name}
    if not devkits:
        return names
    masks = tuple(f"{kit}{folder}" for kit in devkits for folder in VOC_MASKS)
    return [name for name in names if not name.startswith(masks)]


VOC_MASKS = ("SegmentationClass", "SegmentationObject")
