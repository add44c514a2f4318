"""Photos in zip archives and tar shards, read in place."""

from collections.abc import Sequence
import os
import tarfile

import numpy as np

from colorize_jax.data import index
from colorize_jax.data.names import Names
from colorize_jax.data.record import Record, is_photo, only_devkit_photos
from colorize_jax.data.tree import ZipTree, into_zip
from colorize_jax.errors import DataError


class Zip:
    """Every photo in a zip archive, or below a folder in it: ARCHIVE.zip/FOLDER.

    In a PASCAL VOC devkit the masks are left out.
    """

    def __init__(self, path: str):
        self._files = ZipTree(*into_zip(path))
        names = only_devkit_photos([n for n in self._files.names() if is_photo(n)])
        self.names = Names.of(sorted(name.encode("utf-8", "surrogateescape") for name in names))

    def __getitem__(self, index: int) -> Record:
        name = self.names.encoded(index).decode("utf-8", "surrogateescape")
        return Record(self.names[index], self._files.read(name))


class Tar:
    """Every photo in a set of uncompressed tar shards.

    Args:
        paths: of the shards; their order is that of the photos.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = list(paths)
        tables = [_tar_table(path) for path in self._paths]
        self._offsets = np.concatenate([table["offsets"] for table in tables])
        self._sizes = np.concatenate([table["sizes"] for table in tables])
        counts = [len(table["offsets"]) for table in tables]
        self._shards = np.repeat(np.arange(len(tables)), counts)
        self.names = Names.join([Names(table["names"], table["ends"]) for table in tables])

    def __getitem__(self, index: int) -> Record:
        size = int(self._sizes[index])
        with open(self._paths[self._shards[index]], "rb", buffering=0) as shard:
            data = os.pread(shard.fileno(), size, int(self._offsets[index]))
        if len(data) < size:
            raise DataError("the shard ends before the photo does")
        return Record(self.names[index], data)


def _tar_table(path: str) -> dict[str, np.ndarray]:
    """Names (with the shard's, so that they are unique), offsets and sizes of a shard's photos."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    stamp = np.array([status.st_size, status.st_mtime_ns])
    cached = index.load("tar", path)
    if cached is not None and np.array_equal(cached["stamp"], stamp):
        return cached
    names, offsets, sizes = [], [], []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and is_photo(member.name):
                    names.append(os.fsencode(f"{os.path.basename(path)}/{member.name}"))
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar archive: {error}. Compressed shards "
            "cannot be read at random: unpack them first"
        ) from error
    listed = Names.of(names)
    table = {
        "names": listed.blob,
        "ends": listed.ends,
        "offsets": np.array(offsets, np.int64),
        "sizes": np.array(sizes, np.int64),
        "stamp": stamp,
    }
    index.store("tar", path, table)
    return table
