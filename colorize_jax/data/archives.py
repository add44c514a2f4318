"""Photos in zip archives and tar shards, read in place."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import os
import stat
import tarfile

import numpy as np

from colorize_jax.data import index
from colorize_jax.data.names import Names
from colorize_jax.data.record import (
    HAS_HEIC,
    HEAD,
    LINK,
    NO_FILE,
    PHOTO,
    Record,
    only_devkit_photos,
    sort_member,
)
from colorize_jax.data.tree import ZipTree, check_size, into_zip
from colorize_jax.errors import DataError


class Zip:
    """Every photo in a zip archive, or below a folder in it: ARCHIVE.zip/FOLDER.

    In a PASCAL VOC devkit the masks are left out.
    """

    def __init__(self, path: str):
        self._files = ZipTree(*into_zip(path))
        self.left_out: collections.Counter[str] = collections.Counter()
        heads = ((n, functools.partial(self._files.head, n, HEAD)) for n in self._files.names())
        names = only_devkit_photos(list(_photos(heads, self.left_out)))
        self.names = Names.of(sorted(name.encode("utf-8", "surrogateescape") for name in names))

    def __getitem__(self, index: int) -> Record:
        name = self.names.encoded(index).decode("utf-8", "surrogateescape")
        return Record(self.names[index], self._files.read(name))


class Tar:
    """Every photo in a set of uncompressed tar shards.

    Args:
        paths: the paths of the shards; the photos come in this order.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = list(paths)
        tables = [_tar_table(path) for path in self._paths]
        counts = (index.counts(table["left_out"]) for table in tables)
        self.left_out = dict(sum(map(collections.Counter, counts), collections.Counter()))
        self._offsets = np.concatenate([table["offsets"] for table in tables])
        self._sizes = np.concatenate([table["sizes"] for table in tables])
        counts = [len(table["offsets"]) for table in tables]
        self._shards = np.repeat(np.arange(len(tables)), counts)
        self.names = Names.join([Names(table["names"], table["ends"]) for table in tables])

    def __getitem__(self, index: int) -> Record:
        size = int(self._sizes[index])
        check_size(size)
        with open(self._paths[self._shards[index]], "rb", buffering=0) as shard:
            data = os.pread(shard.fileno(), size, int(self._offsets[index]))
        if len(data) < size:
            raise DataError("the shard ends before the photo does")
        return Record(self.names[index], data)


def _photos(
    members: Iterable[tuple[str, Callable[[], bytes]]], left_out: collections.Counter[str]
) -> Iterable[str]:
    """Yields the names of the photos among the files of an archive and counts the other files."""
    for name, head in members:
        found = sort_member(name, head)
        if found == PHOTO:
            yield name
        else:
            left_out[found] += 1


# The name of the cache changes with its format, and with the plugin that makes HEIC a photo.
_KIND = "tar-2-heic" if HAS_HEIC else "tar-2"


def _holds(table: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays of a table have matching lengths."""
    try:
        count = len(Names.checked(table["names"], table["ends"]))
    except ValueError:
        return False
    return table["offsets"].shape == table["sizes"].shape == (count,)


def _tar_table(path: str) -> dict[str, np.ndarray]:
    """Names, offsets and sizes of a shard's photos, and counts of what was left out.

    The names begin with the shard's name, so that they are unique.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no file")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    stamp = np.array([status.st_size, status.st_mtime_ns])
    arrays = ("names", "ends", "offsets", "sizes", "left_out", "stamp")
    cached = index.load(_KIND, path, arrays)
    if cached is not None and np.array_equal(cached["stamp"], stamp) and _holds(cached):
        return cached
    left_out: collections.Counter[str] = collections.Counter()
    names, offsets, sizes = [], [], []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    if not member.isdir():
                        left_out[LINK if member.issym() or member.islnk() else NO_FILE] += 1
                    continue
                head = functools.partial(
                    os.pread, archive.fileobj.fileno(), HEAD, member.offset_data
                )
                if list(_photos([(member.name, head)], left_out)):
                    names.append(os.fsencode(f"{os.path.basename(path)}/{member.name}"))
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
    # A damaged header may claim any size and any encoding, so more than tarfile's errors come here.
    except (tarfile.TarError, OSError, MemoryError, OverflowError, ValueError) as error:
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
        "left_out": index.encode_counts(left_out),
        "stamp": stamp,
    }
    index.store(_KIND, path, table)
    return table
