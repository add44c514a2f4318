"""A page on which people say which of two photos has false colors (Zhang, Isola and Efros 2016).

The page needs no network and no server: it shows a pair for a second, takes the answer, and saves
all answers of a person as a CSV file, which `python -m colorize_jax.colorize.fooled` reads.
"""

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from colorize_jax.colorize import pages
from colorize_jax.data import transforms
from colorize_jax.errors import ConfigError, DataError

SIDE = 256  # of a photo, in pixels
# Of the CSV, and the order of its columns: the script of the page writes them by these names.
COLUMNS = (
    "person", "trial", "practice", "photo", "method", "fake_side", "answer", "fooled",
    "milliseconds", "time",
)  # fmt: skip
_SECONDS = (0.05, 60)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a person is shown.

    Attributes:
        trials: pairs that count.
        practice: pairs before them, after which the right answer is said.
        seconds: that a pair is seen.
        seed: of the photos that are drawn. Their order, and which side is the false one, are drawn
            by the page anew for every person.
    """

    trials: int = 40
    practice: int = 10
    seconds: float = 1.0
    seed: int = 0


def make(
    rows, settings: Settings, threads: int, failed: Callable[[str, str], None]
) -> tuple[str, str]:
    """The page.

    Every photo is shown once to a person, as the middle square of the original, and of the same
    photo colored by one of the methods, which take turns. Both are encoded alike.

    Args:
        rows: `score.Rows`.
        settings: of the test.
        threads: that read and decode.
        failed: is told which photos cannot be read, in whose place others come.

    Returns:
        HTML, and what is in it, in words.

    Raises:
        ConfigError: a setting makes no sense.
        DataError: no photo can be shown.
    """
    _check(settings)
    wanted = settings.trials + settings.practice
    names = rows.paired.names
    order = [names[i] for i in np.random.default_rng(settings.seed).permutation(len(names))]
    found = []
    for name, truth, colored in rows.read(order, threads, failed):
        method = rows.names[len(found) % len(rows.names)]
        found.append(
            {
                "photo": name,
                "method": method,
                "real": pages.uri(_square(truth), 95),
                "fake": pages.uri(_square(colored[method]), 95),
            }
        )
        if len(found) == wanted:
            break
    if not found:
        raise DataError("no pair of photos can be read")
    practice = min(settings.practice, len(found) * settings.practice // wanted)
    # The page takes the first ones for practice: spread over all methods, as the others are.
    data = {
        "pairs": found,
        "practice": practice,
        "milliseconds": round(1000 * settings.seconds),
        "side": SIDE,
        "columns": COLUMNS,
    }
    page = pages.fill("real_or_fake", "Real or fake?", {"data": pages.data(data)})
    counted = len(found) - practice
    shown = f"{counted} pairs, and {practice} to practice, of {settings.seconds:g} s each"
    if len(found) < wanted:
        shown += f"; {wanted} were asked for, and there are no more photos"
    return page, shown


def _square(photo: np.ndarray) -> np.ndarray:
    return transforms.cut(photo, transforms.central_window(*photo.shape[:2], SIDE))


def _check(settings: Settings) -> None:
    if settings.trials < 1 or settings.practice < 0:
        raise ConfigError(
            f"--trials={settings.trials} --practice={settings.practice}: at least one pair must "
            "count, and none or more are for practice"
        )
    low, high = _SECONDS
    if not math.isfinite(settings.seconds) or not low <= settings.seconds <= high:
        raise ConfigError(f"--seconds={settings.seconds:g} must lie between {low} and {high}")
