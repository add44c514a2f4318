"""Features on disk: a folder with one .npy for every layer, and index.json with the photos."""

from collections.abc import Sequence
import contextlib
import json
import os
import pathlib

import numpy as np

from colorize_jax import json_files
from colorize_jax.errors import ConfigError, DataError, shown, why
from colorize_jax.files import atomic_write_text
from colorize_jax.json_files import POSITIVE, Number

INDEX = "index.json"
_FORM = {
    "names": [str],
    "labels": [Number(int, -1, 2**53)],
    "objects?": [[Number(int, -1, 1)]],
    "classes": [str],
    "layers": {str: [POSITIVE]},
}
_OLDER = ("features.array_record", "index.npz")
_ADVICE = "write them again with python -m colorize_jax.extract"


class Writer:
    """Writes features batch by batch, without keeping them in memory. Use it as a context manager.

    The features can be read only after its end, because the index is written last.

    Args:
        path: the folder. Every layer becomes `LAYER.npy`, float32 [photos, ...], and index.json
            holds `names`, `labels` (-1: none), `classes`, and the shapes of one photo's `layers`;
            of photos with several classes each also `objects`.
        classes: the names of the classes, in the order of the labels.
        shapes: {layer: shape of one photo's features}.

    Raises:
        ConfigError: the path is that of a file.
        OSError: the folder cannot be written to.
    """

    def __init__(self, path: str, classes: Sequence[str], shapes: dict[str, tuple[int, ...]]):
        self._folder = pathlib.Path(path)
        if self._folder.suffix in (".npz", ".npy"):
            raise ConfigError(
                f"--output={path}: features are a folder, with one .npy for every layer: name it "
                "without an ending"
            )
        self._classes, self._shapes = list(classes), shapes
        self._names: list[str] = []
        self._labels: list[int] = []
        self._objects: list[list[int]] = []
        self._folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self._files = {
                layer: stack.enter_context(open(self._draft(layer), "wb")) for layer in shapes
            }
            for layer in shapes:
                self._write_header(layer)
            self._open = stack.pop_all()

    def add(
        self, names: Sequence[str], labels: np.ndarray, features: dict[str, np.ndarray]
    ) -> None:
        """Adds the features of some photos.

        Args:
            names: of the photos.
            labels: [len(names)], the classes of the photos, or [len(names), classes], which classes
                they show: 1, -1 (not) or 0 (difficult).
            features: {layer: [len(names), ...]}.
        """
        self._names += names
        if labels.ndim == 2:
            self._objects += labels.tolist()
            labels = np.full(len(names), -1)
        self._labels += labels.tolist()
        for layer, values in features.items():
            # With memory-mapped files a full disk would kill the process without a message.
            self._files[layer].write(np.ascontiguousarray(values, "<f4"))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            with self._open:
                for layer in self._shapes if kind is None else ():
                    self._files[layer].seek(0)
                    self._write_header(layer)
            if kind is None:
                self._finish()
        finally:
            for layer in self._shapes:
                self._draft(layer).unlink(missing_ok=True)

    def _finish(self):
        # The old index is removed first, so that old and new files are never read together.
        with contextlib.suppress(DataError):
            for layer in Features(str(self._folder)).layers:
                _file(self._folder, layer).unlink(missing_ok=True)
        (self._folder / INDEX).unlink(missing_ok=True)
        for layer in self._shapes:
            self._draft(layer).replace(_file(self._folder, layer))
        index = {
            "classes": self._classes,
            "layers": self._shapes,
            "labels": self._labels,
            "names": self._names,
        } | ({"objects": self._objects} if self._objects else {})
        atomic_write_text(self._folder / INDEX, json.dumps(index))

    def _draft(self, layer: str) -> pathlib.Path:
        path = _file(self._folder, layer)
        return path.with_name(f"{path.name}.tmp")

    def _write_header(self, layer: str) -> None:
        """Writes the header of an .npy, whose length does not depend on the number of photos."""
        shape = (len(self._names), *self._shapes[layer])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._files[layer], header)


class Features:
    """The features that a `Writer` wrote; layers are memory-mapped.

    Attributes:
        names: the names of the photos.
        labels: int64 [photos]; -1 means none.
        objects: int8 [photos, classes], which classes a photo shows: 1, -1 (not) or 0 (difficult);
            None where a photo has one class or none.
        classes: the names of the classes, in the order of the labels.
        layers: the names of the layers.

    Raises:
        DataError: there are no features at the path, or those of an older version.
    """

    def __init__(self, path: str):
        self.path, self._folder = path, pathlib.Path(path)
        older = [self._folder / name for name in _OLDER]
        if self._folder.is_file() or any(map(os.path.exists, older)):
            raise DataError(
                f"{path} holds no features, or those of an older version, which are read no "
                f"longer: {_ADVICE}"
            )
        try:
            index = json_files.read(self._folder / INDEX, _FORM, DataError, _ADVICE)
        except FileNotFoundError:
            raise DataError(
                f"there are no features in {path}: write them with python -m colorize_jax.extract"
            ) from None
        self.names, self.classes = index["names"], tuple(index["classes"])
        self.labels = np.array(index["labels"], np.int64)
        self._shapes, self.layers = index["layers"], tuple(index["layers"])
        objects, self.objects = index.get("objects"), None
        wrong = ""
        if objects is not None:
            if len(objects) == len(self.names) and {len(row) for row in objects} <= {
                len(self.classes)
            }:
                self.objects = np.array(objects, np.int8).reshape(len(objects), -1)
            else:
                wrong = "its objects are not one row for a photo, with one number for a class"
        if len(self.labels) != len(self.names) or not (self.labels < len(self.classes)).all():
            wrong = (
                f"it has {len(self.labels)} labels of {len(self.names)} photos in "
                f"{len(self.classes)} classes"
            )
        if elsewhere := [layer for layer in self.layers if os.path.basename(layer) != layer]:
            wrong = f"the layer {shown(elsewhere[0])} is no file beside it"
        if wrong:
            raise DataError(f"{self._folder / INDEX} is damaged ({wrong}): {_ADVICE}")

    def layer(self, name: str) -> np.ndarray:
        """[photos, ...] float32, mapped into memory; DataError if it cannot be read."""
        path = _file(self._folder, name)
        try:
            values = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # numpy raises many kinds of errors on damaged files.
            raise DataError(f"{path} cannot be read ({why(error)}): {_ADVICE}") from error
        wanted = (len(self.names), *self._shapes[name])
        if values.shape != wanted or values.dtype != "<f4":
            raise DataError(
                f"{path} holds {values.dtype} {values.shape}, and the index beside it promises "
                f"float32 {wanted}: {_ADVICE}"
            )
        return values


def _file(folder: pathlib.Path, layer: str) -> pathlib.Path:
    return folder / f"{layer}.npy"
