"""Data sets in the layouts that they are published in: CIFAR-10, SVHN and Oxford Flowers.

Their photos get names such as "train/cat/data_batch_1-00017": splits and classes are folders in
them, as in any class folders.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
import re
import threading

import numpy as np

from colorize_jax.data import plain_pickle
from colorize_jax.data.names import Names
from colorize_jax.data.record import Record
from colorize_jax.data.tree import read_file
from colorize_jax.errors import DataError, why

_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_CIFAR_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR_TEST = "test_batch"
_SVHN = re.compile(r"(train|test|extra)_32x32\.mat")
_FLOWERS_LABELS, _FLOWERS_SPLITS = "imagelabels.mat", "setid.mat"
_FLOWERS_IDS = {"trnid": "train", "valid": "val", "tstid": "test"}
_SIDE = 32
_VALUES = _SIDE * _SIDE * 3  # of a photo
_PICKLE, _MATLAB = b"\x80", b"MATLAB 5.0 MAT-file"
_NUMBERS = ("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32)))
_MOST_PHOTOS = 2**20  # in a file; the largest of SVHN has 531,131
_MOST_INFLATED = 1100  # times its size; zlib reaches 1,032


class PhotoArrays:
    """Photos in a few files that hold arrays of them.

    The pixels of a file are read when the first of its photos is, and then stay in memory. Worker
    processes read them again.

    Args:
        names: for every file, the names of its photos.
        load: for every file, a picklable function that returns pixels, uint8 [photos, 32, 32, 3].
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, names: Sequence[Sequence[str]], load: Sequence[Callable[[], np.ndarray]]):
        self.names = Names.of(os.fsencode(name) for some in names for name in some)
        self._ends, self._load = np.cumsum([len(some) for some in names]), list(load)
        self._begin()

    def _begin(self):
        self._pixels: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self):
        return {"names": self.names, "_ends": self._ends, "_load": self._load}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._begin()

    def __getitem__(self, index: int) -> Record:
        index = range(len(self.names))[index]
        file = int(np.searchsorted(self._ends, index, side="right"))
        with self._lock:
            if file not in self._pixels:
                self._pixels[file] = self._load[file]()
        first = int(self._ends[file - 1]) if file else 0
        pixels = self._pixels[file]
        if len(pixels) != self._ends[file] - first:
            raise DataError("the file of this photo has changed since it was opened")
        return Record(self.names[index], np.ascontiguousarray(pixels[index - first]))


class FlowerPhotos:
    """Photos of a folder under other names than those of their files.

    Args:
        folder: of the files.
        names: the names of the photos.
        files: the names of their files.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, folder: str, names: Sequence[str], files: Sequence[str]):
        self._folder = folder
        self.names = Names.of(os.fsencode(name) for name in names)
        self._files = Names.of(os.fsencode(name) for name in files)

    def __getitem__(self, index: int) -> Record:
        return Record(self.names[index], read_file(os.path.join(self._folder, self._files[index])))


def in_folder(path: str) -> PhotoArrays | FlowerPhotos | None:
    """The data set whose files lie in a folder; None if there are none.

    Raises:
        DataError: a file of the data set is missing, damaged, or of another layout.
    """
    found = set(os.listdir(path))
    if {_FLOWERS_LABELS, _FLOWERS_SPLITS} <= found:
        return _flowers(path)
    files = sorted(name for name in found if _SVHN.fullmatch(name))
    if not files and not found.isdisjoint((*_CIFAR_BATCHES, _CIFAR_TEST)):
        files = [name for name in (*_CIFAR_BATCHES, _CIFAR_TEST) if name in found]
        lacking = [name for name in _CIFAR_BATCHES if name not in found]
        if 0 < len(lacking) < len(_CIFAR_BATCHES):
            raise DataError(
                f"{path} holds files of CIFAR-10, but not {', '.join(lacking)}: unpack it again, "
                "or name single files"
            )
    return of_files([os.path.join(path, name) for name in files]) if files else None


def of_files(paths: Sequence[str]) -> PhotoArrays | None:
    """Batches of CIFAR-10 in Python's pickles, or SVHN's cropped digits in MATLAB's files.

    Returns:
        The photos, or None if the first file is neither by its content.

    Raises:
        DataError: a file is damaged, or of another layout.
    """
    head = _head(paths[0])
    if head.startswith(_PICKLE):
        opened, load = _cifar, _cifar_pixels
    elif head.startswith(_MATLAB):
        opened, load = _svhn, _svhn_pixels
    else:
        return None
    loads = [functools.partial(load, path) for path in paths]
    return PhotoArrays([opened(path) for path in paths], loads)


def _head(path: str) -> bytes:
    try:
        return read_file(path, len(_MATLAB))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {why(error)}") from error
    except DataError as error:
        raise DataError(f"{path} is {error}") from error


def _named(split: str, classes: Sequence[str], path: str) -> list[str]:
    stem = os.path.splitext(os.path.basename(path))[0]
    return [f"{split}/{name}/{stem}-{i:05}" for i, name in enumerate(classes)]


def _cifar(path: str) -> list[str]:
    """The names of a batch's photos."""
    labels, _ = _cifar_batch(path)
    name = os.path.basename(path)
    split = "test" if name == _CIFAR_TEST else "train" if name in _CIFAR_BATCHES else name
    return _named(split, [_CIFAR_CLASSES[label] for label in labels], path)


def _cifar_pixels(path: str) -> np.ndarray:
    _, pixels = _cifar_batch(path)
    return pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)


def _cifar_batch(path: str) -> tuple[list[int], np.ndarray]:
    """Labels, and pixels [photos, 3072] in planes of red, green and blue."""
    try:
        found = plain_pickle.load(read_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {why(error)}") from error
    except DataError as error:
        raise DataError(f"{path} cannot be read as a batch of CIFAR-10: {error}") from error
    data = labels = None
    if isinstance(found, dict):
        data, labels = found.get("data"), found.get("labels")
    whole = (
        isinstance(labels, list)
        and all(type(label) is int and 0 <= label < len(_CIFAR_CLASSES) for label in labels)
        and isinstance(data, plain_pickle.Array)
        and data.dtype in ("u1", b"u1")
        and data.shape == (len(labels), _VALUES)
        and not data.fortran
        and isinstance(data.data, str | bytes | bytearray)
        and len(data.data) == len(labels) * _VALUES
    )
    if not whole:
        raise DataError(
            f"{path} is a pickle, but no batch of CIFAR-10, which has `data`, uint8 [photos, "
            f"{_VALUES}], and as many `labels` from 0 to 9"
        )
    stored = data.data
    if isinstance(stored, str):
        try:
            stored = stored.encode("latin-1")
        except UnicodeError as error:
            raise DataError(f"{path} is damaged: its pixels are no bytes") from error
    return labels, np.frombuffer(stored, np.uint8).reshape(data.shape)


def _svhn(path: str) -> list[str]:
    """The names of the photos of a file of cropped digits."""
    wanted = "`X`, uint8 [32, 32, 3, photos], and as many `y` from 1 to 10"
    shapes = _matlab_shapes(path)
    shape, kind = shapes.get("X", ((), ""))
    known = len(shape) == 4 and shape[:3] == (_SIDE, _SIDE, 3) and kind == "uint8"
    labels = _matlab_numbers(path, "y", shapes) if known else np.zeros(0)
    if not known or len(labels) != shape[3] or ((labels < 1) | (labels > 10)).any():
        raise DataError(f"{path} does not hold SVHN's cropped digits, which are {wanted}")
    name = os.path.basename(path)
    split = match[1] if (match := _SVHN.fullmatch(name)) else os.path.splitext(name)[0]
    return _named(split, [str(label % 10) for label in labels.tolist()], path)


def _svhn_pixels(path: str) -> np.ndarray:
    pixels = _matlab(path, "X")
    if pixels.ndim != 4 or pixels.shape[:3] != (_SIDE, _SIDE, 3) or pixels.dtype != np.uint8:
        raise DataError(f"{path} is damaged: X is {pixels.dtype} {list(pixels.shape)}")
    return pixels.transpose(3, 0, 1, 2)


def _flowers(path: str) -> FlowerPhotos:
    """The photos of Oxford Flowers in their official splits. The classes are numbers."""
    of_labels, of_splits = (os.path.join(path, n) for n in (_FLOWERS_LABELS, _FLOWERS_SPLITS))
    labels = _matlab_numbers(of_labels, "labels", _matlab_shapes(of_labels))
    if not len(labels) or ((labels < 1) | (labels > 999)).any():
        raise DataError(f"{of_labels} does not hold the labels of Oxford Flowers, from 1 on")
    shapes = _matlab_shapes(of_splits)
    names, files, seen = [], [], {}
    for variable, split in _FLOWERS_IDS.items():
        for number in _matlab_numbers(of_splits, variable, shapes).tolist():
            if not 1 <= number <= len(labels):
                raise DataError(
                    f"{of_splits}: {variable} names photo {number}, and {of_labels} has "
                    f"{len(labels)} labels"
                )
            if number in seen:
                raise DataError(
                    f"{of_splits}: photo {number} is in {seen[number]} and in {variable}: it must "
                    "be in one split, once"
                )
            seen[number] = variable
            files.append(f"image_{number:05}.jpg")
            names.append(f"{split}/{labels[number - 1]:03}/{files[-1]}")
    folder = os.path.join(path, "jpg")
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    if lost := [file for file in files if file not in there]:
        shown = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise DataError(
            f"{len(lost)} of the {len(files)} photos that {of_splits} lists are not in {folder}: "
            f"{shown}"
        )
    return FlowerPhotos(folder, names, files)


def _matlab_shapes(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """{variable: (shape, kind)} of a file, by its headers."""
    import scipy.io  # It is slow to import, and few sources need it.

    try:
        read_file(path, 1)  # A pipe would be waited on.
        shapes = {name: (tuple(shape), kind) for name, shape, kind in scipy.io.whosmat(path)}
    except Exception as error:  # scipy and zlib raise many kinds.
        raise DataError(f"{path} cannot be read as a MATLAB file: {why(error)}") from error
    size = os.path.getsize(path)
    for name, (shape, _) in shapes.items():
        values = 1
        for length in shape:
            values *= max(int(length), 0)
        if values > min(_MOST_INFLATED * size, _MOST_PHOTOS * _VALUES):
            raise DataError(f"{path} claims {values:,} values of {name} in {size:,} bytes")
    return shapes


def _matlab_numbers(path: str, name: str, shapes: Mapping) -> np.ndarray:
    """A row or column of whole numbers, int64 [n]."""
    shape, kind = shapes.get(name, ((), ""))
    known = len(shape) == 2 and min(shape) <= 1 and kind in _NUMBERS
    values = _matlab(path, name).ravel() if known else np.zeros(0)
    known = known and values.dtype.kind in "uif" and bool(np.isfinite(values).all())
    if not known or (values != np.round(values)).any():
        raise DataError(
            f"{path} is of another layout: `{name}` must be one row or column of whole numbers"
        )
    return values.astype(np.int64)


def _matlab(path: str, name: str) -> np.ndarray:
    import scipy.io

    try:
        return np.asarray(scipy.io.loadmat(path, variable_names=[name])[name])
    except Exception as error:
        if getattr(error, "errno", None) is not None:  # scipy's own OSErrors have none.
            raise
        raise DataError(f"{path} is damaged: {name} cannot be read: {why(error)}") from error
