"""Photos of several folders that belong together: those with the same name below their folder."""

from collections.abc import Callable, Collection, Iterator, Sequence
import dataclasses
import functools
import os

import numpy as np

from colorize_jax.data import ahead, decode, sources
from colorize_jax.data.sources import Photos
from colorize_jax.errors import DataError, why

_NAMED = 5  # photos that a message names


class Folder:
    """The photos of a source, by their names in it without their endings.

    Args:
        path: what `sources.KINDS` lists; a folder, as a rule.

    Raises:
        DataError: it is not there, or no photo is in it, or two have the same name.
    """

    def __init__(self, path: str):
        self.path = path
        self._photos: Photos = sources.open_all(path)
        self.numbers: dict[str, int] = {}
        for number in range(len(self._photos)):
            name = self._photos.name(number)
            stem = os.path.splitext(name)[0]
            if stem in self.numbers:
                raise DataError(
                    f"{path} has {self._photos.name(self.numbers[stem])} and {name}: photos are "
                    "paired by their names without endings, so that there is no telling which one "
                    "is meant; move one of them away"
                )
            self.numbers[stem] = number

    def name(self, stem: str) -> str:
        """The name of a photo with its ending, for messages."""
        return self._photos.name(self.numbers[stem])

    def read(self, stem: str) -> np.ndarray:
        """[height, width, 3] uint8; DataError or OSError, without the photo's name."""
        return decode.decode(self._photos[self.numbers[stem]].image)


@dataclasses.dataclass(frozen=True)
class Paired:
    """What photos several folders have in common.

    Attributes:
        truth: the originals.
        colored: the others.
        names: of the photos that are in all of them, in the order of the truth's.
        unpaired: {path of a folder: its photos that are not}.
    """

    truth: Folder
    colored: list[Folder]
    names: list[str]
    unpaired: dict[str, list[str]]

    def report(self) -> Iterator[str]:
        """A line for every folder that has photos of its own, with some of their names."""
        for path, names in self.unpaired.items():
            some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            yield f"{counted(names)} of {path} left out, not in every other folder: {some}"


def counted(photos: Collection) -> str:
    """How many, in words."""
    return "1 photo" if len(photos) == 1 else f"{len(photos):,} photos"


def pair(truth: str, colored: Sequence[str]) -> Paired:
    """Opens folders and finds out which photos they share.

    Raises:
        DataError: they share none, or a folder cannot be used: see `Folder`.
    """
    folders = [Folder(path) for path in (truth, *colored)]
    first = folders[0]
    names = [name for name in first.numbers if all(name in other.numbers for other in folders)]
    if not names:
        raise DataError(
            f"no photo of {truth} has one of the same name in {' and in '.join(colored)}: names "
            f"count from these folders on, without endings, as in {next(iter(first.numbers))!r} "
            f"and {next(iter(folders[1].numbers))!r}"
        )
    shared = set(names)
    unpaired = {}
    for folder in folders:
        if rest := [folder.name(name) for name in folder.numbers if name not in shared]:
            unpaired[folder.path] = rest
    return Paired(first, folders[1:], names, unpaired)


def read(
    paired: Paired, names: Sequence[str], threads: int, failed: Callable[[str, str], None]
) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """(name, the original, the colored ones) of the photos that can be read, in order.

    Args:
        paired: from `pair`.
        names: of the photos wanted.
        threads: that read and decode ahead of whoever takes the photos.
        failed: is told the name and the reason of every other photo, among them those whose sizes
            differ.
    """
    with ahead.threads(threads) as pool:
        found = ahead.in_order(pool, functools.partial(_read, paired), names, threads + 2)
        for name, result in zip(names, found, strict=True):
            if isinstance(result, str):
                failed(name, result)
            else:
                yield name, result[0], result[1:]


def _read(paired: Paired, name: str) -> list[np.ndarray] | str:
    photos: list[np.ndarray] = []
    for folder in (paired.truth, *paired.colored):
        try:
            photos.append(folder.read(name))
        except (DataError, OSError) as error:
            return f"{folder.name(name)} of {folder.path}: {why(error)}"
        if photos[-1].shape != photos[0].shape:
            (height, width), (own_height, own_width) = photos[0].shape[:2], photos[-1].shape[:2]
            return (
                f"it is {width}x{height} in {paired.truth.path} and {own_width}x{own_height} in "
                f"{folder.path}: numbers of color compare pixel by pixel, so give both at one size"
            )
    return photos
