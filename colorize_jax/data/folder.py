"""Photos in a folder and all folders below it."""

from collections.abc import Iterator
import logging
import os
import time

import numpy as np

from colorize_jax.data import index
from colorize_jax.data.names import Names
from colorize_jax.data.record import VOC_MASKS, Record, is_photo
from colorize_jax.data.tree import read_file
from colorize_jax.errors import DataError

# A folder changed less than this before it was read may change again within the same tick of the
# file system's clock, unnoticed: such an index is not believed.
_SETTLED = 2_000_000_000


class Folder:
    """Every photo below a folder, in the order of the names.

    Links are followed; a folder that several links lead to is read once. In a PASCAL VOC devkit the
    masks are left out. What was found is kept in a cache and believed as long as no folder changed.
    """

    def __init__(self, path: str):
        self._path = path
        self.names = _indexed(path)

    def __getitem__(self, index: int) -> Record:
        path = os.path.join(os.fsencode(self._path), self.names.encoded(index))
        return Record(self.names[index], read_file(path))


def _indexed(path: str) -> Names:
    cached = index.load("folder", path)
    if cached is not None and _holds(path, cached):
        return Names(cached["names"], cached["names_ends"])
    now = time.time_ns()
    names, folders, times = _scan(path)
    listed = Names.of(sorted(names))
    if len(times) < len(folders):  # one could not be entered, and may be at the next start
        return listed
    places = Names.of(folders)
    index.store(
        "folder",
        path,
        {
            "names": listed.blob,
            "names_ends": listed.ends,
            "folders": places.blob,
            "folders_ends": places.ends,
            "times": np.array(times, np.int64),
            "indexed": np.array(now),
        },
    )
    return listed


def _holds(path: str, cached: dict[str, np.ndarray]) -> bool:
    """Whether no folder was changed since: a file that came, went or was renamed changes its."""
    try:
        times = cached["times"]
        if (times > cached["indexed"] - _SETTLED).any():
            return False
        folders = Names(cached["folders"], cached["folders_ends"])
        root = os.fsencode(path)
        return all(
            os.stat(os.path.join(root, folders.encoded(i))).st_mtime_ns == times[i]
            for i in range(len(folders))
        )
    except (OSError, KeyError):
        return False


def _scan(path: str) -> tuple[list[bytes], list[bytes], list[int]]:
    """Names of the photos; the folders, and when each was last changed (not of those that cannot
    be entered)."""
    names: list[bytes] = []
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
            logging.warning("the photos in %s are left out: %s", os.fsdecode(where), error.strerror)
            folders.append(folder)
            continue
        folders.append(folder)
        times.append(status.st_mtime_ns)
        below = list(_sorted_out(entries, folder, names))
        waiting.extend(sorted(below, reverse=True))
    return names, folders, times


def _sorted_out(entries, folder: bytes, names: list[bytes]) -> Iterator[bytes]:
    """Adds the photos among the entries to `names`; yields the folders."""
    devkit = any(entry.name == b"JPEGImages" for entry in entries)
    masks = {os.fsencode(name) for name in VOC_MASKS} if devkit else ()
    for entry in entries:
        name = os.path.join(folder, entry.name)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file() or entry.is_symlink()
        except OSError:  # a link to itself, or into a folder that we may not enter
            is_folder, is_file = False, True
        if is_folder:
            if entry.name not in masks:
                yield name
        # A link that leads nowhere is listed: whoever reads it gets to know.
        elif is_file and is_photo(os.fsdecode(entry.name)):
            names.append(name)
