"""Labels from folders: the class of a photo is the folder it lies in, or its label in TFDS."""

from collections.abc import Iterable, Sequence
import os
import unicodedata

import numpy as np

from colorize_jax.data import sources
from colorize_jax.data.archives import Tar
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.names import Names, salt_of
from colorize_jax.data.published import FlowerPhotos, PhotoArrays
from colorize_jax.data.record import Source, is_hidden
from colorize_jax.data.records import Tfds
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ConfigError, DataError


class ClassFolders:
    """The splits of photos whose folders are their classes. Each source is opened once.

    Args:
        spec: `config.data.source`. Several sources are joined; weights are not allowed.
    """

    def __init__(self, spec: str):
        self.spec = spec
        self._paths, weights = sources.parse(spec)
        if weights is not None:
            raise ConfigError(
                f"config.data.source={spec}: photos with labels cannot be weighted; leave out the "
                "numbers after @"
            )
        self._opened: dict[str, Source] = {}

    def split(self, name: str) -> tuple[Labelled, tuple[str, ...]]:
        """The photos of a split with int32 labels, and the class names in the order of the labels.

        Args:
            name: a folder ("train", or "images/train") anywhere in a photo's name; the class is the
                folder below it. "" means all photos; the class is then the first folder that not
                all photos share. For a TFDS data set it is the name of its split.

        Raises:
            DataError: there is no photo in such a folder, or one lies directly in it.
        """
        paths = [_with_split(path, name) for path in self._paths]
        opened = [self._open(path) for path in paths]
        numbers, classes, start = [], [], 0
        for path, source in zip(paths, opened, strict=True):
            if not name:
                _check_one_split(source, path)
            if isinstance(source, Tfds):
                found = dict(enumerate(source.labels()))
            else:
                found = _folders(source, path, name)
            numbers += [start + number for number in found]
            classes += found.values()
            start += len(source.names)
        if not numbers:
            raise DataError(f"no photo of {self.spec} lies below a folder {name!r}")
        known, labels = np.unique(np.array(classes, np.str_), return_inverse=True)
        everything = [np.arange(len(source.names)) for source in opened]
        photos = Photos(opened, everything, paths=paths)
        return Labelled(photos, np.array(numbers), labels=labels.astype(np.int32)), tuple(
            str(name) for name in known
        )

    def _open(self, path: str) -> Source:
        if path not in self._opened:
            self._opened[path] = sources.open_source(path)
        return self._opened[path]


def _check_one_split(source: Source, path: str) -> None:
    """DataError if the splits of a published data set would be taken for its classes."""
    if not isinstance(source, PhotoArrays | FlowerPhotos):
        return
    found = sorted({name.partition("/")[0] for name in source.names})
    if len(found) > 1:
        raise DataError(
            f"{path} has the splits {', '.join(found)}: name one in config.data.split, or a single "
            "file as the source"
        )


def some_of_every_class(photos: Labelled, classes: tuple[str, ...], k: int, seed: int) -> Labelled:
    """Exactly k photos of every class, chosen by a hash of (seed, name).

    The choice for a smaller k is a subset of the choice for a larger k.

    Raises:
        DataError: a class has fewer than k photos.
    """
    hashes = photos.hashes(salt_of(seed))
    chosen = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(photos.labels == label)
        if len(members) < k:
            raise DataError(
                f"config.data.per_class={k}, but class {name!r} has {len(members)} photos"
            )
        chosen.append(members[np.argsort(hashes[members], kind="stable")[:k]])
    return photos.part(np.sort(np.concatenate(chosen)))


def share_of_every_class(
    hashes: np.ndarray, labels: np.ndarray, share: float, per_class: int = 0
) -> np.ndarray:
    """The numbers of a share of the photos of every class, at least one of each, in order.

    A smaller share is a part of a larger one.

    Args:
        hashes: of the photos' names, which choose, [photos].
        labels: the classes of the photos, [photos]; photos with a negative one are left out.
        share: above 0 and at most 1.
        per_class: if not 0, at most so many of every class instead of a share.
    """
    chosen = [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        count = per_class or max(round(share * len(members)), 1)
        chosen.append(members[np.argsort(hashes[members], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


def share_of_names(
    names: Iterable[str], labels: np.ndarray, seed: int, share: float = 1.0, per_class: int = 0
) -> np.ndarray:
    """`share_of_every_class` by hashes of (seed, name)."""
    hashes = Names.of(os.fsencode(name) for name in names).hashes(salt_of(seed))
    return share_of_every_class(hashes, labels, share, per_class)


def _with_split(path: str, split: str) -> str:
    """The path with the split, for a TFDS data set; any other path as it is."""
    if not path.startswith("tfds:") or not split:
        return path
    if ":" in path.removeprefix("tfds:"):
        raise ConfigError(
            f"config.data.source={path} names a split, and config.data.split another: leave one out"
        )
    return f"{path}:{split}"


def class_of(names: Sequence[str], split: str) -> dict[int, str]:
    """{number: class} of the photos of a split, from the folders in their names.

    Args:
        names: the names of photos, such as "train/cat/1.jpg".
        split: a folder ("train", or "images/train") anywhere in the name. Photos that are not below
            it are left out, and the class is the next folder. "" means all photos; the class is
            then the first folder that not all of them share.

    The class of a photo that is in no such folder is "". Names that look the same are the same
    class: a letter with an accent may be written as one character or as two. Photos in hidden
    folders and in folders of the system are left out.
    """
    folders = {i: folder for i, name in enumerate(names) if (folder := _folder(name)) is not None}
    if split:
        below = f"/{unicodedata.normalize('NFC', split).strip('/')}/"
        parts = {i: folder.partition(below) for i, folder in folders.items() if below in folder}
        # A class may have the name of the split. The split is then the folder of smallest depth.
        depths = {i: before.count("/") for i, (before, _, _) in parts.items()}
        first = min(depths.values(), default=0)
        rests = {i: rest for i, (_, _, rest) in parts.items() if depths[i] == first}
    else:
        # The longest prefix, in whole components, that all folders share.
        shared = os.path.commonpath(set(folders.values())) if folders else "/"
        rests = {i: folder[len(shared) :] for i, folder in folders.items()}
    return {i: rest.strip("/").partition("/")[0] for i, rest in rests.items()}


def _folder(name: str) -> str | None:
    """The folder of a photo, such as "/train/cat/"; None if the photo is left out."""
    # tar writes names such as "./cat/1.jpg" when it packs the current folder.
    parts = [part for part in name.split("/")[:-1] if part not in ("", ".")]
    if any(map(is_hidden, parts)):
        return None
    return unicodedata.normalize("NFC", "".join(f"/{part}" for part in parts)) + "/"


def _folders(source: Source, path: str, split: str) -> dict[int, str]:
    """`class_of` for a source; DataError if a photo lies in no folder of a class."""
    names = source.names
    if isinstance(source, Tar):  # The first part of a name is the shard.
        names = [name.partition("/")[2] for name in names]
    classes = class_of(names, split)
    for number, name in classes.items():
        if not name:
            where = f"in the folder {split!r}" if split else "beside the folders of the classes"
            raise DataError(
                f"{source.names[number]} in {path} lies directly {where}, and not in the folder of "
                "a class"
            )
    return classes
