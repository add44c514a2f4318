"""Records and sources of photos; and which files are photos, by name or content."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib.util
import re
from typing import Protocol

import numpy as np

from colorize_jax.errors import DataError

# This plugin lets Pillow read HEIC, the format of phones. It is an optional extra.
HEIC_PLUGIN = "pi_heif"
HAS_HEIC = importlib.util.find_spec(HEIC_PLUGIN) is not None
HEIC = frozenset((".heic", ".heif", ".hif"))
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".jp2", ".png",
     ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".tga", ".avif")
) | (HEIC if HAS_HEIC else frozenset())  # fmt: skip
# Folders that file managers, photo servers and file systems make for themselves.
_SYSTEM = frozenset(
    ("__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot",
     "$recycle.bin", "recycler", "system volume information", "lost+found")
)  # fmt: skip

# The kinds of files and folders by name: a photo, or unknown until its content is read. A file that
# is left out has as its kind its ending (".txt") or one of the next four.
PHOTO, UNKNOWN = "photo", "unknown"
HIDDEN, NO_PICTURE, NO_FILE, LINK = "hidden", "no picture", "no file", "link"
_SAID = {  # the text for one, and for several
    HIDDEN: ("hidden or system file or folder", "hidden or system files or folders"),
    NO_PICTURE: ("without an ending that is no picture", "without an ending that are no pictures"),
    NO_FILE: ("pipe, socket or device", "pipes, sockets or devices"),
    LINK: ("link inside an archive", "links inside an archive"),
}
# An ending contains a letter, so the names "12.30.05" and "a.2019 copy" have no ending.
_ENDING = re.compile(r"\.(?=[\d_~-]*[a-z])[a-z0-9_~-]{1,12}")


@dataclasses.dataclass(frozen=True)
class Record:
    """One stored photo, with its mask or labels if it has any.

    The name stays the same between runs. The photo is encoded bytes, or decoded pixels, uint8
    [height, width, 3]. The mask of classes is encoded; labels may have any shape.
    """

    name: str
    image: bytes | np.ndarray
    mask: bytes | None = None
    labels: np.ndarray | None = None


class Source(Protocol):
    """Numbered photos. Picklable, and safe to read from several threads.

    Reading raises OSError or DataError for a photo that cannot be read.

    Attributes:
        names: the names of the photos.
        left_out: {kind: number} of the files that are no photos; see `describe`.
    """

    names: Sequence[str]
    left_out: Mapping[str, int]

    def __getitem__(self, index: int) -> Record: ...


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or the system's, by its name; it is no photo or class."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM


def sort(name: str) -> str:
    """The kind of a file by its name (no folders): `PHOTO`, `UNKNOWN`, or a kind to leave out."""
    if is_hidden(name):
        return HIDDEN
    found = ending(name)
    return PHOTO if found in EXTENSIONS else found or UNKNOWN


def ending(name: str) -> str:
    """The ending of a file's name in small letters, such as ".jpg"; "" if it has none."""
    stem, dot, last = name.rpartition(".")
    last = dot + last.lower()
    known = stem and (last in EXTENSIONS or _ENDING.fullmatch(last))
    return last if known else ""


def sort_member(name: str, head: Callable[[], bytes]) -> str:
    """The kind of a file in an archive: `PHOTO`, or a kind to leave out.

    Args:
        name: the name with its folders, separated by "/".
        head: returns the first `HEAD` bytes or more; called only if the name does not decide.
    """
    *folders, base = name.split("/")
    if any(map(is_hidden, folders)):
        return HIDDEN
    found = sort(base)
    return sort_content(head) if found == UNKNOWN else found


HEAD = 32  # The number of first bytes by which a picture is recognized.
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|P[56]\s+[#\d]"
    rb"|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51"
    rb"|....ftypavi[fs]" + (rb"|....ftyp(?:hei[cx]|mif1)" if HAS_HEIC else b""),
    re.DOTALL,
)


def is_picture(head: bytes) -> bool:
    """Whether the first `HEAD` bytes of a file are those of a picture in a known format."""
    return _MAGIC.match(head) is not None


def sort_content(head: Callable[[], bytes]) -> str:
    """`PHOTO` or `NO_PICTURE`, by the content; a file that cannot be read is `NO_PICTURE`."""
    try:
        return PHOTO if is_picture(head()) else NO_PICTURE
    except (DataError, OSError):
        return NO_PICTURE


def describe(left_out: Mapping[str, int]) -> str:
    """The counts of files that were left out, as text; "" if there are none."""
    endings = sorted((k for k in left_out if k.startswith(".")), key=lambda k: (-left_out[k], k))
    said = [f"{left_out[ending]:,} {ending}" for ending in endings[:10]]
    if more := sum(left_out[ending] for ending in endings[10:]):
        said.append(f"{more:,} with {len(endings) - 10:,} other endings")
    said += [
        f"{left_out[kind]:,} {texts[left_out[kind] > 1]}"
        for kind, texts in _SAID.items()
        if left_out.get(kind)
    ]
    hint = ""
    if not HEIC.isdisjoint(left_out):
        hint = " (pip install 'colorize_jax[heic]' lets HEIC be read)"
    return ", ".join(said) + hint


def only_devkit_photos(names: Sequence[str]) -> Sequence[str]:
    """Leaves out the masks where the names are those of a PASCAL VOC devkit."""
    devkits = {name.split("JPEGImages/")[0] for name in names if "JPEGImages/" in name}
    if not devkits:
        return names
    masks = tuple(f"{kit}{folder}" for kit in devkits for folder in VOC_MASKS)
    return [name for name in names if not name.startswith(masks)]


VOC_MASKS = ("SegmentationClass", "SegmentationObject")
