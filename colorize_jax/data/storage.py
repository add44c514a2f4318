"""Reads from storage that may not answer for a while, and tells that apart from bad photos."""

from collections.abc import Callable, Iterable
import errno
import glob
import os
import re
import threading
import time
from typing import TypeVar

import numpy as np

from colorize_jax import log
from colorize_jax.data import tree
from colorize_jax.data.record import Record
from colorize_jax.errors import DataError, StorageError, why

Result = TypeVar("Result")

# The errors of network file systems while the server is gone. EIO is not one of them: it means a
# bad sector, and waiting does not help.
_NETWORK = frozenset(
    (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED,
     errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
     errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.EMFILE, errno.ENFILE)
)  # fmt: skip
_TRIES = 3  # The storage may come back between a failure and the check of its folder.
_OTHERS = 20  # If none of this many other photos can be read, all of them count as gone.
_SHORTEST, _LONGEST = 0.1, 10.0  # the shortest and longest wait between two tries, in seconds


class StorageAway(Exception):
    """The storage of a photo does not answer; `wait_for_storage` waits for it."""


def read(photos, index: int) -> Record:
    """The photo `index` of `sources.Photos`, or of an object with the same API.

    Raises:
        StorageAway: neither this photo nor others can be read, or its folder is gone or empty.
        DataError, OSError: this photo is bad, but others can be read.
    """
    for _ in range(_TRIES):
        try:
            return photos[index]
        except (DataError, OSError) as error:
            if (failure := os_error_of(error)) is None:
                raise
            if failure.errno in _NETWORK or not _has_folder(failure):
                raise StorageAway(f"{photos.name(index)}: {why(failure)}") from error
            last = error
    others = np.linspace(0, len(photos), _OTHERS, endpoint=False).astype(int)
    if any(_reads(photos, int(other)) for other in others):
        raise last
    raise StorageAway(f"{photos.name(index)}: {why(os_error_of(last))}")


def _reads(photos, index: int) -> bool:
    """Whether the storage can read a photo, even a damaged one."""
    try:
        photos[index]
    except (DataError, OSError) as error:
        return os_error_of(error) is None
    return True


def os_error_of(error: Exception) -> OSError | None:
    """The OSError that an error is or was caused by; None if there is none."""
    if isinstance(error, OSError):
        return error
    return error.__cause__ if isinstance(error.__cause__, OSError) else None


def _has_folder(error: OSError) -> bool:
    """Whether the folder of the file that could not be read exists and is not empty.

    An empty folder counts as missing: it may be the mount point of storage that is not mounted.
    """
    if error.filename is None:
        return True
    try:
        with os.scandir(os.path.dirname(error.filename) or ".") as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def missing(paths: Iterable[str]) -> str:
    """The first file, folder or pattern that does not exist or is an empty folder; "" if none.

    A source that is no path, such as tfds:NAME, counts as existing.
    """
    for path in filter(None, paths):
        place = os.path.expandvars(os.path.expanduser(path))
        if re.match(r"[a-z]+:", place):
            continue
        try:
            if os.path.isdir(place):
                with os.scandir(place) as entries:
                    there = next(entries, None) is not None
            else:
                there = os.path.exists(tree.into_zip(place)[0]) or bool(glob.glob(place))
        except OSError:
            there = False
        if not there:
            return path
    return ""


class _Outage:
    """Reports once, for any number of threads, that storage does not answer and that it is back."""

    def __init__(self):
        self._lock, self._waiting = threading.Lock(), 0

    def begins(self, away: StorageAway, seconds: float) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                log.say(f"the storage does not answer ({away}); trying again for {seconds:g} s")

    def ends(self, found: bool, seconds: float) -> None:
        with self._lock:
            self._waiting -= 1
            if found and not self._waiting:
                log.say(f"the storage answers again after {seconds:.1f} s")


_outage = _Outage()


def wait_for_storage(function: Callable[[], Result], seconds: float) -> Result:
    """Calls `function` until it returns; after each `StorageAway` it waits longer and tries again.

    Raises:
        StorageError: the calls still raise `StorageAway` after `seconds`.
    """
    try:
        return function()
    except StorageAway as away:
        last = away
    began, wait, found = time.monotonic(), _SHORTEST, False
    _outage.begins(last, seconds)
    try:
        while (left := began + seconds - time.monotonic()) > 0:
            time.sleep(min(wait, left))
            wait = min(2 * wait, _LONGEST)
            try:
                result = function()
                found = True
                return result
            except StorageAway as away:
                last = away
    finally:
        _outage.ends(found, time.monotonic() - began)
    raise StorageError(
        f"the photos could not be read for {seconds:g} s (config.data.retry_seconds), the last "
        f"one {last}: is their storage gone? The same command goes on once it is back"
    )
