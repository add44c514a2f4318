"""Keeps count of the photos that cannot be read, and stops a run that meets too many."""

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

WINDOW = 10_000  # the last so many positions are judged
JUDGED_FROM = 1_000  # but not before there are so many
_ROW = {"source": str, "name": str, "reason": str}


class BadRecords:
    """Writes the name and the reason of every unreadable photo, once, into `bad_records.jsonl`.

    Args:
        path: of that file; what is in it already is not written again, and what is no row of it is
            set aside.
        max_fraction: a larger share of the last `WINDOW` positions ends the run.
        max_pixels: with which the photos are read.
        say: is told of what was set aside.
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

    def watch(self, batches: Iterator[dict], photos: Photos | Labelled) -> "Noted":
        """Passes training batches on without their "bad"; closing it closes them.

        Raises:
            DataError: too large a share of the photos could not be read.
        """

        def look(bad):
            self._note_all(bad, photos)
            self._count(bad)

        return Noted(batches, look)

    def note(self, batches: Iterator[dict], photos: Photos | Labelled) -> "Noted":
        """As `watch`, for batches that are read besides training: they are not counted."""
        return Noted(batches, lambda bad: self._note_all(bad, photos))

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
        with contextlib.suppress(OSError):  # a full disk must not end the run
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self._known.add((source, name))


class Noted(Iterator[dict]):
    """Batches without their "bad", which goes to `look`. One thread may close them while another
    waits for the next batch, if it may close what they come from."""

    def __init__(self, batches: Iterator[dict], look: Callable[[np.ndarray], None]):
        self._batches, self._look = batches, look

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self._look(batch.pop("bad"))
        return batch

    def close(self) -> None:
        """Closes what the batches come from."""
        self._batches.close()


def _reason(photos: Photos | Labelled, index: int, max_pixels: int) -> str:
    """Read once more, here where there is a file to write to: workers have none."""
    try:
        record = photos[index]
        photo = decode.open_photo(record.image, max_pixels)
        photo.pixels()
        matching_mask(record.mask, photo, photos.classes)
    except (DataError, OSError) as error:
        return why(error)
    return "could not be read at first, and then could"
