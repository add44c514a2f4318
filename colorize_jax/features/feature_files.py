"""Features on disk: one .npz, or for more than fits into memory an ArrayRecord shard."""

from collections.abc import Iterator, Sequence
import contextlib
import io
import pathlib
import zipfile

import numpy as np

from colorize_jax.data.records import open_reader
from colorize_jax.errors import DataError, why

SHARD, INDEX = "features.array_record", "index.npz"
ABOUT = ("names", "labels", "classes")  # keys of an .npz besides the layers
_CHUNK = 256  # records


class Writer:
    """Takes features in batches; use as a context manager. Nothing is there before its end.

    Args:
        path: "NAME.npz": arrays `names`, `labels` (-1: none), `classes` and one array for every
            layer, all kept in memory until the end. Anything else is a folder: an ArrayRecord shard
            with one .npz for every photo (`name`, `label` and the layers) and an index.npz with
            `names`, `labels`, `classes` and `layers`.
        classes: names, in the order of the labels.
        shapes: of one photo's features, for every layer.
        capacity: the largest number of photos.
    """

    def __init__(
        self,
        path: str,
        classes: Sequence[str],
        shapes: dict[str, tuple[int, ...]],
        capacity: int,
    ):
        self._path = pathlib.Path(path)
        self._classes, self._layers = np.array(classes, np.str_), list(shapes)
        self._names: list[str] = []
        self._labels: list[int] = []
        single = self._path.suffix == ".npz"
        folder = self._path.parent if single else self._path
        folder.mkdir(parents=True, exist_ok=True)
        self._draft = folder / f"{self._path.name if single else SHARD}.tmp"
        self._draft.touch()  # a place that cannot be written to is found out now
        self._arrays = self._records = None
        if not single:
            self._records = _open_writer(self._draft)
            return
        try:
            self._arrays = {
                layer: np.empty((capacity, *shape), np.float32) for layer, shape in shapes.items()
            }
        except MemoryError as error:
            self._draft.unlink()
            raise DataError(f"{path}: {error}; write to a folder, not to an .npz") from error

    def add(
        self, names: Sequence[str], labels: np.ndarray, features: dict[str, np.ndarray]
    ) -> None:
        """The features of some more photos: {layer: [len(names), ...]}."""
        start = len(self._names)
        self._names += names
        self._labels += labels.tolist()
        if self._arrays is not None:
            for layer, values in features.items():
                self._arrays[layer][start : len(self._names)] = values
            return
        for row, (name, label) in enumerate(zip(names, labels, strict=True)):
            one = {layer: values[row] for layer, values in features.items()}
            self._records.write(_encode({"name": name, "label": label} | one))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if self._records is not None:
                self._records.close()
            if kind is None:
                self._finish()
        finally:
            self._draft.unlink(missing_ok=True)

    def _finish(self):
        count = len(self._names)
        about = {
            "names": np.array(self._names, np.str_),
            "labels": np.array(self._labels, np.int64),
            "classes": self._classes,
        }
        if self._arrays is not None:
            _save(self._draft, about | {k: v[:count] for k, v in self._arrays.items()})
            self._draft.replace(self._path)
            return
        with _complaints(self._draft), contextlib.closing(open_reader(str(self._draft))) as reader:
            if reader.num_records() != count:
                raise ValueError(f"it holds {reader.num_records()} of {count} photos")
        index = self._path / f"{INDEX}.tmp"
        _save(index, about | {"layers": np.array(self._layers, np.str_)})
        self._draft.replace(self._path / SHARD)
        index.replace(self._path / INDEX)


class Features:
    """What a `Writer` wrote; a layer is read when it is asked for.

    Attributes:
        names: of the photos.
        labels: [photos] int64, -1: none.
        classes: names, in the order of the labels.
        layers: names.

    Raises:
        DataError: there is nothing, or something else.
    """

    def __init__(self, path: str):
        self.path = path
        folder = pathlib.Path(path)
        self._shard = str(folder / SHARD) if folder.is_dir() else None
        with _complaints(path), _load(folder / INDEX if self._shard else folder) as content:
            self.names = _row(content, "names", "U").tolist()
            self.labels = _row(content, "labels", "i")
            self.classes = tuple(_row(content, "classes", "U").tolist())
            self.layers = tuple(
                _row(content, "layers", "U").tolist()
                if self._shard
                else [key for key in content.files if key not in ABOUT]
            )
            if len(self.labels) != len(self.names):
                raise ValueError(f"{len(self.labels)} labels of {len(self.names)} photos")
            if not (self.labels >= -1).all() or not (self.labels < len(self.classes)).all():
                raise ValueError(f"its labels are not those of {len(self.classes)} classes, or -1")

    def layer(self, name: str) -> np.ndarray:
        """[photos, ...] float32; DataError if it cannot be read."""
        with _complaints(self.path):
            if not self._shard:
                with _load(pathlib.Path(self.path)) as content:
                    values = content[name]
            else:
                values = self._from_shard(name)
            if values.dtype.kind != "f" or values.ndim < 2:
                raise ValueError(f"{name} is {values.dtype} {values.shape} and no features")
            if len(values) != len(self.names):
                raise ValueError(f"{len(values)} features of {len(self.names)} photos")
            return values

    def _from_shard(self, name: str) -> np.ndarray:
        with contextlib.closing(open_reader(self._shard)) as reader:
            count = reader.num_records()
            values = None
            for start in range(0, count, _CHUNK):
                chunk = reader.read(start, min(start + _CHUNK, count))
                for row, record in enumerate(chunk, start):
                    with np.load(io.BytesIO(record)) as one:
                        value = one[name]
                    if values is None:
                        values = np.empty((count, *value.shape), np.float32)
                    values[row] = value
        return np.empty((0, 0), np.float32) if values is None else values


def _row(content: np.lib.npyio.NpzFile, name: str, kind: str) -> np.ndarray:
    """One of the arrays beside the features, one value a photo, class or layer."""
    values = content[name]
    if values.ndim != 1 or (values.dtype.kind != kind and len(values)):
        raise ValueError(f"its {name} are {values.dtype} {values.shape}")
    return values


@contextlib.contextmanager
def _load(path: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
    if not path.exists():
        raise DataError(
            f"there are no features in {path}: write them with python -m colorize_jax.extract"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not an .npz, or not all of one")
    with path.open("rb") as file, np.load(file) as content:  # numpy leaves a damaged one open
        yield content


@contextlib.contextmanager
def _complaints(path):
    try:
        yield
    except DataError:
        raise
    # ArrayRecord, numpy, zipfile and zlib raise many kinds for what is damaged.
    except Exception as error:
        reason = why(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as features: {reason}") from error


def _open_writer(path: pathlib.Path):
    from array_record.python.array_record_module import ArrayRecordWriter

    return ArrayRecordWriter(str(path), "group_size:1")


def _encode(arrays: dict) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)
