"""Where photos come from: a folder, a zip archive, or the photos inside installed packages."""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib
import threading
from typing import Protocol
import zipfile

import numpy as np

from colorize_jax.data import decode
from colorize_jax.errors import DataError

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


@dataclasses.dataclass(frozen=True)
class Record:
    """One photo as it is stored: a name that stays the same between runs, and encoded bytes or
    decoded uint8 pixels [height, width, 3]."""

    name: str
    image: bytes | np.ndarray


class Source(Protocol):
    """Photos by number. Picklable, and safe to read from several threads."""

    names: Sequence[str]

    def __getitem__(self, index: int) -> Record: ...


class Folder:
    """Every photo below a folder, in the order of the names; links are followed."""

    def __init__(self, path: str):
        self._path = pathlib.Path(path)
        self.names = sorted(_photos_below(self._path))

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        return Record(name, (self._path / name).read_bytes())


def _photos_below(root: pathlib.Path):
    """Names relative to root; a folder that links lead to twice is read once."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for file in files:
            if os.path.splitext(file)[1].lower() in EXTENSIONS and not file.startswith("."):
                yield os.path.relpath(os.path.join(folder, file), root)


class Zip:
    """Every photo in a zip archive, read in place."""

    def __init__(self, path: str):
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = sorted(n for n in archive.namelist() if _is_photo(n))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} cannot be read as a zip archive: {error}") from error
        self._local = threading.local()

    def __getstate__(self):
        return {"_path": self._path, "names": self.names}

    def __setstate__(self, state):
        self.__dict__.update(state, _local=threading.local())

    def __getitem__(self, index: int) -> Record:
        if not hasattr(self._local, "archive"):  # a handle for each thread: nobody waits
            self._local.archive = zipfile.ZipFile(self._path)
        name = self.names[index]
        return Record(name, self._local.archive.read(name))


def _is_photo(name: str) -> bool:
    hidden = name.startswith("__MACOSX/") or os.path.basename(name).startswith(".")
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not hidden


# Color photos in the wheels of scikit-image and scikit-learn. motorcycle_right.png is left out: it
# shows what motorcycle_left.png shows, so one would give away the other's held-out part.
_BUILTIN = {
    "skimage": (
        "data",
        (
            "astronaut.png",
            "chelsea.png",
            "coffee.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "motorcycle_left.png",
            "retina.jpg",
            "rocket.jpg",
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}


class BuiltinPhotos:
    """Real color photos that ship inside scikit-image and scikit-learn.

    The right quarter of every photo is held out, cut into squares; the rest is for training.
    """

    def __init__(self, held_out: bool):
        self._held_out = held_out
        photos = _builtin_photos()
        if not held_out:
            self.names = list(photos)
            return
        squares = [(i, path) for path, image in photos.items() for i in range(len(_squares(image)))]
        self.names = [f"{path}#{i}" for i, path in sorted(squares, key=lambda square: square[0])]

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        photos = _builtin_photos()
        if self._held_out:
            path, square = name.split("#")
            return Record(name, _squares(photos[path])[int(square)])
        image = photos[name]
        return Record(name, image[:, : image.shape[1] * 3 // 4])


@functools.cache
def _builtin_photos() -> dict[str, np.ndarray]:
    photos = {}
    for package, (folder, files) in _BUILTIN.items():
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise DataError(f"builtin:photos needs the package {package}, which is not installed")
        for file in files:
            path = pathlib.Path(spec.origin).parent / folder / file
            try:
                photos[f"{package}/{file}"] = decode.decode(path.read_bytes())
            except OSError as error:
                raise DataError(f"builtin:photos: {package} ships no {file} ({error})") from error
    return photos


def _squares(image: np.ndarray) -> list[np.ndarray]:
    """The right quarter of a photo, cut from top to bottom into squares."""
    quarter = image[:, image.shape[1] * 3 // 4 :]
    side = quarter.shape[1]
    return [quarter[y : y + side] for y in range(0, len(quarter) - side + 1, side)]


class Subset:
    """Some of the photos of another source."""

    def __init__(self, source: Source, indices: np.ndarray):
        self._source, self._indices = source, indices
        self.names = [source.names[i] for i in indices]

    def __getitem__(self, index: int) -> Record:
        return self._source[self._indices[index]]


def name_hash(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def open_splits(spec: str, holdout: float) -> tuple[Source, Source]:
    """Training and held-out photos of `config.data.source`.

    Args:
        spec: a folder (read recursively), a zip archive, or "builtin:photos".
        holdout: share of the photos to hold out, chosen by a hash of their names, so that the
            choice stays the same when photos are added. At least one photo is held out, and the
            held-out photos come in the order of their hash. builtin:photos holds out the right
            quarter of every photo instead.

    Raises:
        DataError: nothing there, or no photo in it, or only one.
    """
    if not 0 < holdout < 1:
        raise DataError(f"config.data.holdout={holdout} must lie between 0 and 1")
    if spec == "builtin:photos":
        return BuiltinPhotos(held_out=False), BuiltinPhotos(held_out=True)
    source = _open(spec)
    if len(source.names) < 2:
        found = "only one photo" if source.names else "no photo"
        known = " ".join(sorted(EXTENSIONS))
        raise DataError(
            f"{found} in {spec}: at least two are needed, one of them held out for evaluation. "
            f"Looked at every name ending in one of {known}"
        )
    _check_readable(source, spec)
    hashes = np.array([name_hash(name) for name in source.names])
    held_out = hashes < holdout
    held_out[hashes.argmin()] = True
    held_out[hashes.argmax()] = False
    evaluation = np.flatnonzero(held_out)
    evaluation = evaluation[np.argsort(hashes[evaluation])]
    return Subset(source, np.flatnonzero(~held_out)), Subset(source, evaluation)


def _open(spec: str) -> Source:
    if not spec:
        raise DataError(
            "config.data.source is empty: name a folder of photos, a zip archive, or "
            "builtin:photos, for example --config.data.source=/data/photos"
        )
    if os.path.isdir(spec):
        return Folder(spec)
    if os.path.isfile(spec):
        return Zip(spec)
    if spec.startswith("builtin:"):
        raise DataError(f"config.data.source is {spec!r}; the only one built in is builtin:photos")
    raise DataError(f"config.data.source: there is no folder or archive {spec}")


def _check_readable(source: Source, spec: str, tries: int = 20) -> None:
    """DataError if none of some photos, spread over the source, can be read."""
    reasons = []
    for index in np.linspace(0, len(source.names) - 1, min(tries, len(source.names))).astype(int):
        try:
            decode.decode(source[index].image)
            return
        except (DataError, OSError) as error:
            reasons.append(f"{source.names[index]}: {error}")
    raise DataError(
        f"no readable image in {spec}: tried {len(reasons)} of {len(source.names)} files. "
        + "; ".join(reasons[:3])
    )
