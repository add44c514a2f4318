"""Photos of a collection with their labels or masks."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import hashlib
import os

import numpy as np
from tqdm import tqdm

from colorize_jax.data import decode, storage
from colorize_jax.data.masks import VOID, encode_mask
from colorize_jax.data.names import Names
from colorize_jax.data.order import Shuffled
from colorize_jax.data.record import Record
from colorize_jax.data.sources import Photos
from colorize_jax.data.tree import Tree
from colorize_jax.errors import DataError, StorageError

_SHOW_PROGRESS_FROM = 2000  # Fewer photos are read before a progress bar would be of use.


class Files:
    """Numbered files of several trees.

    Args:
        trees: folders or archives.
        owners: the number of the tree of every file.
        names: the name of every file in its tree.
    """

    def __init__(self, trees: Sequence[Tree], owners: Sequence[int], names: Sequence[str]):
        self._trees, self._owners = list(trees), np.array(owners, np.uint8)
        self.names = Names.of(os.fsencode(name) for name in names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """A file's content; OSError or DataError if it cannot be read."""
        return self._trees[self._owners[index]].read(self.names[index])

    def digest(self) -> bytes:
        """A digest of the names and of the trees that they are in; reads no file."""
        digest = hashlib.blake2b(self.names.blob, digest_size=16)
        digest.update(self.names.ends)
        digest.update(self._owners)
        return digest.digest()


class FilePhotos:
    """A source (see record.py) of photos from a list, without a search of folders.

    Args:
        files: the photos' files.
        names: the photos' names.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, files: Files, names: Sequence[str]):
        self._files, self.names = files, Names.of(os.fsencode(name) for name in names)

    def __getitem__(self, index: int) -> Record:
        return Record(self.names[index], self._files.read(index))


class Labelled:
    """Some photos of a collection, with their labels or masks; it has the API of `sources.Photos`.

    Args:
        photos: the collection.
        numbers: the numbers of the chosen photos, in order.
        labels: one for every chosen photo, [len(numbers), ...]; or None.
        masks: one for every photo of the collection; or None.
        classes: the number of classes of the masks; 0 without masks.
    """

    def __init__(
        self,
        photos: Photos,
        numbers: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        masks: Files | None = None,
        classes: int = 0,
    ):
        self._photos, self._numbers = photos, np.asarray(numbers, np.int64)
        self.labels, self._masks, self.classes = labels, masks, classes
        self._sizes: dict[int, tuple[int, int] | None] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Record:
        number = int(self._numbers[index])
        record = self._photos[number]
        if self.labels is not None:
            record = dataclasses.replace(record, labels=self.labels[index])
        if self._masks is not None:
            record = dataclasses.replace(record, mask=self.mask(index))
        return record

    def mask(self, index: int) -> bytes:
        """The bytes of a photo's mask file, without the photo; DataError if it cannot be read."""
        number = int(self._numbers[index])
        try:
            return self._masks.read(number)
        except (OSError, DataError) as error:
            raise DataError(f"its mask {self._masks.names[number]}: {error}") from error

    def unreadable(self) -> Record:
        """The stand-in for a photo that cannot be read: black, void, and labels of zero."""
        return Record(
            "",
            np.zeros((1, 1, 3), np.uint8),
            None if self._masks is None else encode_mask(np.full((1, 1), VOID, np.uint8)),
            None if self.labels is None else np.zeros_like(self.labels[0]),
        )

    def name(self, index: int) -> str:
        """The photo's name in its source; reads nothing."""
        return self._photos.name(int(self._numbers[index]))

    def path(self, index: int) -> str:
        """The source of the photo."""
        return self._photos.path(int(self._numbers[index]))

    def left_out(self) -> list[str]:
        """What the sources hold besides photos, a line for each that holds any."""
        return self._photos.left_out()

    def digest(self) -> str:
        """A digest of the names, their order, the labels, and the names of the masks."""
        digest = hashlib.blake2b(self._photos.digest().encode(), digest_size=16)
        digest.update(self._numbers)
        if self.labels is not None:
            digest.update(f"{self.labels.dtype} {self.labels.shape}".encode())
            digest.update(np.ascontiguousarray(self.labels))
        if self._masks is not None:
            digest.update(self._masks.digest())
        return digest.hexdigest()

    def order(self, seed: int) -> Shuffled:
        """Maps a position to a photo: every epoch has each photo once, in a new order."""
        return Shuffled(len(self), seed)

    def hashes(self, salt: bytes = b"") -> np.ndarray:
        """float64 in [0, 1) for every photo; depends only on its name and the salt."""
        names = Names.of(os.fsencode(self.name(i)) for i in range(len(self)))
        return names.hashes(salt)

    def part(self, indices: np.ndarray) -> "Labelled":
        """Some of these photos, in the order of `indices`."""
        labels = None if self.labels is None else self.labels[indices]
        return Labelled(
            self._photos, self._numbers[indices],
            labels=labels, masks=self._masks, classes=self.classes,
        )  # fmt: skip

    def sizes(
        self,
        count: int,
        threads: int,
        max_pixels: int = decode.MAX_PIXELS,
        retry_seconds: float = 0.0,
    ) -> list[tuple[int, int] | None]:
        """(height, width) of the first `count` photos, from their headers.

        It is None for a photo that cannot be read or is too large for `decode.open_photo`. Headers
        are read once. If the storage does not answer, the call waits for `retry_seconds`, then
        raises StorageError.
        """
        wanted = [index for index in range(count) if index not in self._sizes]
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            found = pool.map(lambda i: self._size(i, max_pixels, retry_seconds), wanted)
            quiet = len(wanted) <= _SHOW_PROGRESS_FROM
            bar = tqdm(found, "sizes", len(wanted), unit="photo", dynamic_ncols=True, disable=quiet)
            sizes = dict(zip(wanted, bar, strict=True))
        # Failures are not kept: such a photo may be readable the next time.
        self._sizes |= {index: size for index, size in sizes.items() if size is not None}
        return [self._sizes.get(index) for index in range(count)]

    def _size(self, index: int, max_pixels: int, retry_seconds: float) -> tuple[int, int] | None:
        number = int(self._numbers[index])
        try:
            record = storage.wait_for_storage(
                lambda: storage.read(self._photos, number), retry_seconds
            )
            photo = decode.open_photo(record.image, max_pixels)
        except StorageError:
            raise
        except (DataError, OSError):
            return None
        return photo.height, photo.width
