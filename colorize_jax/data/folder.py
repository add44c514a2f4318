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

# A folder changed less than this before it was read may change again within the same tick of the
# file system's clock, unnoticed: such an index is not believed.
_SETTLED = 2_000_000_000


class Folder:
    """Every photo below a folder, in the order of the names.

    Links are followed; a folder that several links lead to is read once. In a PASCAL VOC devkit the
    masks are left out. Hidden files and folders, and those of the system, are left out; files
    without an ending are looked into. What was found is kept in a cache and believed as long as no
    folder changed.
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
        folder: what the names are relative to.
        names: of the photos.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, folder: str, names: Iterable[str]):
        self._folder = folder
        self.names = Names.of(os.fsencode(name) for name in names)

    def __getitem__(self, index: int) -> Record:
        path = os.path.join(os.fsencode(self._folder), self.names.encoded(index))
        return Record(self.names[index], read_file(path))


# What is kept, and what a listing leaves out, change with it.
_KIND = "folder-2-heic" if HAS_HEIC else "folder-2"
# Of `Names` the blob and the ends; folders, too, are names.
_ARRAYS = ("names", "names_ends", "left_out", "folders", "folders_ends", "times", "indexed")


def _indexed(path: str) -> tuple[Names, dict[str, int]]:
    cached = index.load(_KIND, path, _ARRAYS)
    if cached is not None and _holds(path, cached):
        return Names(cached["names"], cached["names_ends"]), index.counts(cached["left_out"])
    now = time.time_ns()
    names, left_out, folders, times = _scan(path)
    listed = Names.of(sorted(names))
    if len(times) < len(folders):  # one could not be entered, and may be at the next start
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
    """Whether no folder was changed since: a file that came, went or was renamed changes its."""
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
    """Names of the photos; how many files were left out as what; the folders, and when each was
    last changed (not of those that cannot be entered)."""
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
        except OSError:  # a link to itself, or into a folder that we may not enter
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
        # A link that leads nowhere is listed: whoever reads it gets to know.
        if found == PHOTO:
            names.append(name)
        else:
            left_out[found] += 1
