"""A source of photos that a program holds in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import os
from typing import Any

import numpy as np

from colorize_jax.color.photos import check_photo, to_uint8
from colorize_jax.data.names import Names
from colorize_jax.data.record import Record
from colorize_jax.errors import DataError, PhotoError

PREFIX = "memory:"  # In `config.data.source` such a name stands in place of a path.
SHARE = 0.5  # The largest share of the machine's memory that photos from a generator may take.

_registered: dict[str, "ArrayPhotos"] = {}


class ArrayPhotos:
    """An array [photos, height, width, 3], or a sequence or an iterable of photos.

    A photo is an array [height, width, 3] (uint8, or float in [0, 1]), an object that numpy turns
    into one (a Pillow image, a tensor), or the bytes of a picture file. All photos are read once at
    the start. A photo's name is its number and a digest of its content, so that a run resumes only
    with the same photos.

    An array (in memory, or a `numpy.memmap`) or a sequence is not copied: several threads read it
    whenever a photo is needed, so it must not change. Photos from a generator are kept as uint8.

    Raises:
        PhotoError: an item is no photo; the message gives its number.
        DataError: there are no photos, or a generator gives more than fit into memory.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, photos: np.ndarray | Sequence[Any] | Iterable[Any]):
        self._photos = _collected(photos)
        number = len(self._photos)
        if not number:
            raise DataError("photos=: there is no photo")
        digests = (_digest(_photo(self._photos[i], i)) for i in range(number))
        self.names = Names.of(b"%06d-%s" % (i, digest) for i, digest in enumerate(digests))

    def __getitem__(self, index: int) -> Record:
        return Record(self.names[index], _photo(self._photos[index], index))


@contextlib.contextmanager
def as_source(photos: Any) -> Iterator[str]:
    """Registers photos as a source while the `with` block runs.

    Args:
        photos: see `ArrayPhotos`.

    Yields:
        The name for `config.data.source`.
    """
    source = ArrayPhotos(photos)
    digest = hashlib.blake2b(source.names.blob, digest_size=8).hexdigest()
    name = f"{PREFIX}{digest}"
    _registered[name] = source
    try:
        yield name
    finally:
        _registered.pop(name, None)


def open_arrays(name: str) -> ArrayPhotos:
    """The photos registered under that name; DataError if there are none now."""
    if name not in _registered:
        raise DataError(
            f"config.data.source={name}: a program gave these photos to colorize_jax.train; give "
            "them again, as train(config, workdir, photos=...)"
        )
    return _registered[name]


def _collected(photos: Any) -> Any:
    """The photos as a sequence: something with a length and an index."""
    if isinstance(photos, (str, bytes, os.PathLike, Mapping)):
        raise PhotoError(
            f"photos= is a {type(photos).__name__}: give an array or an iterable of photos; a "
            "folder or a file is config.data.source"
        )
    if hasattr(photos, "shape") and hasattr(photos, "dtype"):
        if not hasattr(photos, "__array_interface__") and not hasattr(photos, "chunks"):
            photos = np.asarray(photos)  # an array of JAX or PyTorch
        if photos.dtype != object:
            check_photo(photos, "photos=", (4,))
        return photos
    if hasattr(photos, "__len__") and hasattr(photos, "__getitem__"):
        return photos
    if not isinstance(photos, Iterable):
        raise PhotoError(f"photos= is a {type(photos).__name__}, which contains no photos")
    most, kept, size = SHARE * _memory(), [], 0
    for number, photo in enumerate(photos):
        kept.append(_photo(photo, number))
        size += len(kept[-1]) if isinstance(kept[-1], bytes) else kept[-1].nbytes
        if size > most:
            raise DataError(
                f"photos=: the first {number + 1:,} photos of the iterable take {size >> 20:,} "
                f"MiB, which is more than {SHARE:.0%} of the memory. Write them to a folder, or "
                "give a sequence that reads them one by one"
            )
    return kept


def _photo(photo: Any, number: int) -> bytes | np.ndarray:
    return photo if isinstance(photo, bytes) else to_uint8(photo, f"photo {number} of photos=")


def _digest(photo: bytes | np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    if not isinstance(photo, bytes):
        digest.update(str(photo.shape).encode())
        photo = np.ascontiguousarray(photo)
    digest.update(photo)
    return digest.hexdigest().encode()


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
