"""Counts the photos that cannot be read, and stops a run that meets too many of them."""

import collections
from collections.abc import Callable, Iterator
import contextlib
import json
import pathlib

import numpy as np

from colorize_jax import json_files
from colorize_jax.data import decode, pipeline
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.masks import matching_mask
from colorize_jax.data.sources import Photos
from colorize_jax.errors import DataError, why

WINDOW = 10_000  # The share of bad photos is taken over the last positions, this many of them.
JUDGED_FROM = 1_000  # A run is not stopped before this many positions: a share of few says little.
_ROW = {"source": str, "name": str, "reason": str}


class BadRecords:
    """Writes the name of every unreadable photo and the reason, once, into `bad_records.jsonl`.

    Args:
        path: that file. Rows that it already has are not written again; a file with damaged lines
            is moved aside.
        max_fraction: the largest share of bad photos in the last `WINDOW` positions; a larger one
            ends the run.
        max_pixels: the limit with which the photos are read.
        say: prints what was moved aside.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        max_fraction: float,
        max_pixels: int = decode.MAX_PIXELS,
        say: Callable[[str], None] = print,
    ):
        self._path, self._max, self._max_pixels = pathlib.Path(path), max_fraction, max_pixels
        rows = json_files.keep_good_rows(self._path, _ROW, say, wanted=lambda row: True)
        self._known = {(row["source"], row["name"]) for row in rows}
        self._window: collections.deque[tuple[int, int]] = collections.deque()
        self._rows = self._bad = 0

    def watch(self, batches: Iterator[dict], photos: Photos | Labelled) -> "WatchedBatches":
        """The training batches without their entry "bad", which is counted and noted.

        Raises:
            DataError: too large a share of the photos could not be read.
        """

        def look(bad):
            self._note_all(bad, photos)
            self._count(bad)

        return WatchedBatches(batches, look)

    def note(self, batches: Iterator[dict], photos: Photos | Labelled) -> "WatchedBatches":
        """Like `watch`, for batches that are not trained on: bad photos are noted, not counted."""
        return WatchedBatches(batches, lambda bad: self._note_all(bad, photos))

    def _note_all(self, bad: np.ndarray, photos: Photos | Labelled) -> None:
        for index in bad[bad != pipeline.GOOD].tolist():
            self._note(photos, index)

    def _count(self, numbers: np.ndarray) -> None:
        rows, bad = len(numbers), int((numbers != pipeline.GOOD).sum())
        self._window.append((rows, bad))
        self._rows, self._bad = self._rows + rows, self._bad + bad
        while self._rows - self._window[0][0] >= WINDOW:
            rows, bad = self._window.popleft()
            self._rows, self._bad = self._rows - rows, self._bad - bad
        if self._rows >= JUDGED_FROM and self._bad > self._max * self._rows:
            raise DataError(
                f"{self._bad} of the last {self._rows} photos could not be read, more than "
                f"config.data.max_bad_fraction={self._max} allows; {self._path} names them with "
                "the reasons"
            )

    def _note(self, photos: Photos | Labelled, index: int) -> None:
        name, source = photos.name(index), photos.path(index)
        if (source, name) in self._known:
            return
        row = {"source": source, "name": name, "reason": _reason(photos, index, self._max_pixels)}
        with contextlib.suppress(OSError):  # A full disk must not end the run.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self._known.add((source, name))


class WatchedBatches(Iterator[dict]):
    """Batches without their entry "bad", which is passed to `look`.

    One thread may close them while another one waits for the next batch, if the iterator that they
    come from allows that.
    """

    def __init__(self, batches: Iterator[dict], look: Callable[[np.ndarray], None]):
        self._batches, self._look = batches, look

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self._look(batch.pop("bad"))
        return batch

    def close(self) -> None:
        """Closes the iterator that the batches come from."""
        self._batches.close()


def _reason(photos: Photos | Labelled, index: int, max_pixels: int) -> str:
    """Why a photo cannot be read. It is read again: workers give its number, not the reason."""
    try:
        record = photos[index]
        photo = decode.open_photo(record.image, max_pixels)
        photo.pixels()
        matching_mask(record.mask, photo, photos.classes)
    except (DataError, OSError) as error:
        return why(error)
    return "could not be read the first time, but could the second time"
