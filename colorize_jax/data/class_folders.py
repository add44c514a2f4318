"""Classes as folders: the class of a photo is the folder it lies in, or the label that TFDS has."""

from collections.abc import Sequence
import os
import unicodedata

import numpy as np

from colorize_jax.data import sources
from colorize_jax.data.archives import Tar
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.record import Source, is_hidden
from colorize_jax.data.records import Tfds
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ConfigError, DataError


class ClassFolders:
    """Photos whose folders are their classes, in splits; each source is opened once.

    Args:
        spec: `config.data.source`; several sources are joined, and may not be weighted.
    """

    def __init__(self, spec: str):
        self.spec = spec
        self._paths, weights = sources.parse(spec)
        if weights is not None:
            raise ConfigError(
                f"config.data.source={spec}: photos with labels cannot be weighted; leave the "
                "numbers behind @ out"
            )
        self._opened: dict[str, Source] = {}

    def split(self, name: str) -> tuple[Labelled, tuple[str, ...]]:
        """The photos of a split, int32 labels in the order of the class names, and these names.

        Args:
            name: a folder ("train", or "images/train"), wherever in a photo's name; the class is
                the folder that follows. "": all photos; the class is the first folder that is not
                that of all photos. In a TFDS data set, its split.

        Raises:
            DataError: no photo in such a folder, or one directly in it.
        """
        paths = [_with_split(path, name) for path in self._paths]
        opened = [self._open(path) for path in paths]
        numbers, classes, start = [], [], 0
        for path, source in zip(paths, opened, strict=True):
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


def some_of_every_class(photos: Labelled, classes: tuple[str, ...], k: int, seed: int) -> Labelled:
    """Exactly k photos of every class, by a hash of (seed, name): fewer are a part of more.

    Raises:
        DataError: a class has fewer.
    """
    hashes = photos.hashes((seed + 1).to_bytes(16, "little"))  # 0 would be no salt
    chosen = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(photos.labels == label)
        if len(members) < k:
            raise DataError(
                f"config.data.per_class={k}, but class {name!r} has {len(members)} photos"
            )
        chosen.append(members[np.argsort(hashes[members], kind="stable")[:k]])
    return photos.part(np.sort(np.concatenate(chosen)))


def _with_split(path: str, split: str) -> str:
    """A TFDS data set is opened by its split, everything else as a whole."""
    if not path.startswith("tfds:") or not split:
        return path
    if ":" in path.removeprefix("tfds:"):
        raise ConfigError(
            f"config.data.source={path} names a split, and config.data.split another: leave one out"
        )
    return f"{path}:{split}"


def class_of(names: Sequence[str], split: str) -> dict[int, str]:
    """{number: class} of the photos of a split, by the folders in their names.

    Args:
        names: of photos, as in "train/cat/1.jpg".
        split: a folder ("train", or "images/train"), anywhere in the name: photos that do not lie
            below it are left out, and the class is the folder that follows. "": all photos, and the
            class is the first folder that not all of them share. "" for a photo in no such folder.

    Names that look the same are the same class: letters with accents may be written as one
    character or as two. Photos in hidden folders and those of the system are left out.
    """
    folders = {i: folder for i, name in enumerate(names) if (folder := _folder(name)) is not None}
    if split:
        below = f"/{unicodedata.normalize('NFC', split).strip('/')}/"
        parts = {i: folder.partition(below) for i, folder in folders.items() if below in folder}
        # A class may be called as the split is: of several depths the first one is the split's.
        depths = {i: before.count("/") for i, (before, _, _) in parts.items()}
        first = min(depths.values(), default=0)
        rests = {i: rest for i, (_, _, rest) in parts.items() if depths[i] == first}
    else:
        # The longest beginning that all folders share, in whole components.
        shared = os.path.commonpath(set(folders.values())) if folders else "/"
        rests = {i: folder[len(shared) :] for i, folder in folders.items()}
    return {i: rest.strip("/").partition("/")[0] for i, rest in rests.items()}


def _folder(name: str) -> str | None:
    """The folder of a photo, as in "/train/cat/"; None for one that is left out."""
    # "./cat/1.jpg" is what tar calls a file of the folder it was made in.
    parts = [part for part in name.split("/")[:-1] if part not in ("", ".")]
    if any(map(is_hidden, parts)):
        return None
    return unicodedata.normalize("NFC", "".join(f"/{part}" for part in parts)) + "/"


def _folders(source: Source, path: str, split: str) -> dict[int, str]:
    """`class_of` a source; DataError for a photo in no folder of a class."""
    names = source.names
    if isinstance(source, Tar):  # what comes first in a name is the shard
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
