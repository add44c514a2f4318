"""Reading from storage that may be away for a while, and telling that from a photo that is bad."""

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

# What file systems over a network say while the other end is gone. A bad sector's EIO is not among
# them: it stays.
_NETWORK = frozenset(
    (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED,
     errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
     errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.EMFILE, errno.ENFILE)
)  # fmt: skip
_TRIES = 3  # the storage may come back between a failure and the look at it
_OTHERS = 20  # photos that are tried before all of them count as gone
_SHORTEST, _LONGEST = 0.1, 10.0  # seconds between two tries


class Away(Exception):
    """The storage of a photo does not answer; `patiently` waits for it."""


def read(photos, index: int) -> Record:
    """The photo `index` of `sources.Photos` or what is used as they are.

    Raises:
        Away: neither it nor others can be read, or the folder that it lies in is gone or empty.
        DataError, OSError: it is bad, others are not.
    """
    for _ in range(_TRIES):
        try:
            return photos[index]
        except (DataError, OSError) as error:
            if (failure := of_system(error)) is None:
                raise
            if failure.errno in _NETWORK or not _has_folder(failure):
                raise Away(f"{photos.name(index)}: {why(failure)}") from error
            last = error
    others = np.linspace(0, len(photos), _OTHERS, endpoint=False).astype(int)
    if any(_reads(photos, int(other)) for other in others):
        raise last
    raise Away(f"{photos.name(index)}: {why(of_system(last))}")


def _reads(photos, index: int) -> bool:
    """Whether the storage gives a photo; it may be damaged."""
    try:
        photos[index]
    except (DataError, OSError) as error:
        return of_system(error) is None
    return True


def of_system(error: Exception) -> OSError | None:
    """The failure of the operating system that an error is, or comes from."""
    if isinstance(error, OSError):
        return error
    return error.__cause__ if isinstance(error.__cause__, OSError) else None


def _has_folder(error: OSError) -> bool:
    """Whether the folder of the file that could not be read is there, with something in it.

    A mount point is an empty folder while nothing is mounted.
    """
    if error.filename is None:
        return True
    try:
        with os.scandir(os.path.dirname(error.filename) or ".") as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def missing(paths: Iterable[str]) -> str:
    """The first of some files and folders (or patterns) that is not there, or is an empty folder;
    "" if there is none. What is no path, as tfds:NAME, is taken to be there."""
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
    """Says once, whatever the number of threads, that storage is away, and that it is back."""

    def __init__(self):
        self._lock, self._waiting = threading.Lock(), 0

    def begins(self, away: Away, seconds: float) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                log.say(f"the storage does not answer ({away}); asking for {seconds:g} s")

    def ends(self, found: bool, seconds: float) -> None:
        with self._lock:
            self._waiting -= 1
            if found and not self._waiting:
                log.say(f"the storage answers again after {seconds:.1f} s")


_outage = _Outage()


def patiently(function: Callable[[], Result], seconds: float) -> Result:
    """What `function()` gives, which is asked again, after growing waits, while it raises `Away`.

    Raises:
        StorageError: it did so for that many seconds.
    """
    try:
        return function()
    except Away as away:
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
            except Away as away:
                last = away
    finally:
        _outage.ends(found, time.monotonic() - began)
    raise StorageError(
        f"the photos could not be read for {seconds:g} s (config.data.retry_seconds), the last "
        f"one {last}: is their storage gone? The same command goes on once it is back"
    )
