"""Photos in a folder and all folders below it."""

import collections
from collections.abc import Iterable, Iterator, Mapping
import logging
import os
import time

import numpy as np

from colorize_jax.data import index
from colorize_jax.data.names import Names
from colorize_jax.data.record import (
    HAS_HEIC,
    HEAD,
    HIDDEN,
    NO_FILE,
    PHOTO,
    UNKNOWN,
    VOC_MASKS,
    Record,
    is_hidden,
    sort,
    sort_content,
)
from colorize_jax.data.tree import read_file
from colorize_jax.errors import DataError, shown

# Nanoseconds. A folder that changed less than this before it was read may change again within the
# same tick of the file system's clock, and the index would miss that. Such an index is not used.
_SETTLED = 2_000_000_000


class Folder:
    """Every photo below a folder, sorted by name.

    Links are followed; a folder that several links lead to is read once. The masks of a PASCAL VOC
    devkit, hidden files and folders, and those of the system are left out. The content decides
    whether a file without an ending is a photo. The list is kept in a cache, which is used as long
    as no folder changed.
    """

    def __init__(self, path: str):
        self._path = path
        self.names, self.left_out = _indexed(path)

    def __getitem__(self, index: int) -> Record:
        path = os.path.join(os.fsencode(self._path), self.names.encoded(index))
        return Record(self.names[index], read_file(path))


class Files:
    """A source of the photos that a list names, or of one photo.

    Args:
        folder: the folder that the names are relative to.
        names: the names of the photos.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, folder: str, names: Iterable[str]):
        self._folder = folder
        self.names = Names.of(os.fsencode(name) for name in names)

    def __getitem__(self, index: int) -> Record:
        path = os.path.join(os.fsencode(self._folder), self.names.encoded(index))
        return Record(self.names[index], read_file(path))


# The name of the cache changes with its format, and with the plugin that makes HEIC a photo.
_KIND = "folder-2-heic" if HAS_HEIC else "folder-2"
# Names of photos and of folders are stored as the blob and the ends of `Names`.
_ARRAYS = ("names", "names_ends", "left_out", "folders", "folders_ends", "times", "indexed")


def _indexed(path: str) -> tuple[Names, dict[str, int]]:
    cached = index.load(_KIND, path, _ARRAYS)
    if cached is not None and _holds(path, cached):
        return Names(cached["names"], cached["names_ends"]), index.counts(cached["left_out"])
    now = time.time_ns()
    names, left_out, folders, times = _scan(path)
    listed = Names.of(sorted(names))
    if len(times) < len(folders):  # A folder could not be entered, but may be at the next start.
        return listed, left_out
    places = Names.of(folders)
    index.store(
        _KIND,
        path,
        {
            "names": listed.blob,
            "names_ends": listed.ends,
            "left_out": index.encode_counts(left_out),
            "folders": places.blob,
            "folders_ends": places.ends,
            "times": np.array(times, np.int64),
            "indexed": np.array(now),
        },
    )
    return listed, left_out


def _holds(path: str, cached: dict[str, np.ndarray]) -> bool:
    """Whether no folder has changed: adding, removing or renaming a file changes its folder."""
    try:
        times = cached["times"]
        if (times > cached["indexed"] - _SETTLED).any():
            return False
        Names.checked(cached["names"], cached["names_ends"])
        folders = Names.checked(cached["folders"], cached["folders_ends"])
        root = os.fsencode(path)
        return times.shape == (len(folders),) and all(
            os.stat(os.path.join(root, folders.encoded(i))).st_mtime_ns == times[i]
            for i in range(len(folders))
        )
    except (OSError, ValueError):
        return False


def _scan(path: str) -> tuple[list[bytes], dict[str, int], list[bytes], list[int]]:
    """Names of photos, counts of what was left out, folders, and when each folder last changed.

    Folders that cannot be entered have no time of change.
    """
    names: list[bytes] = []
    left_out: collections.Counter[str] = collections.Counter()
    folders: list[bytes] = []
    times: list[int] = []
    seen = set()
    waiting = [b""]
    root = os.fsencode(path)
    while waiting:
        folder = waiting.pop()
        where = os.path.join(root, folder)
        try:
            status = os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(where))
        except OSError as error:
            if not folder:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            shown_as = shown(os.fsdecode(where))
            logging.warning("the photos in %s are left out: %s", shown_as, error.strerror)
            folders.append(folder)
            continue
        folders.append(folder)
        times.append(status.st_mtime_ns)
        below = list(_sorted_out(entries, folder, names, left_out))
        waiting.extend(sorted(below, reverse=True))
    return names, dict(left_out), folders, times


def _sorted_out(
    entries, folder: bytes, names: list[bytes], left_out: collections.Counter[str]
) -> Iterator[bytes]:
    """Adds the photos among the entries to `names`, counts other files; yields the folders."""
    devkit = any(entry.name == b"JPEGImages" for entry in entries)
    masks = {os.fsencode(name) for name in VOC_MASKS} if devkit else ()
    for entry in entries:
        base = os.fsdecode(entry.name)
        name = os.path.join(folder, entry.name)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file() or entry.is_symlink()
        except OSError:  # The link leads to itself, or into a folder that we may not enter.
            is_folder, is_file = False, True
        if is_folder:
            if is_hidden(base):
                left_out[HIDDEN] += 1
            elif entry.name not in masks:
                yield name
            continue
        found = sort(base) if is_file else NO_FILE
        if found == UNKNOWN:
            found = sort_content(lambda path=entry.path: read_file(path, HEAD))
        # A link that leads nowhere is listed: reading it reports the error.
        if found == PHOTO:
            names.append(name)
        else:
            left_out[found] += 1
