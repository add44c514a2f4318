"""Photos in ArrayRecord shards, packed by us or by others, and in prepared TFDS data sets."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import io
import os
import struct

import numpy as np
from tqdm import tqdm

from colorize_jax.data import index
from colorize_jax.data.names import Names
from colorize_jax.data.record import Record
from colorize_jax.errors import DataError, why

# A record that `pack` wrote consists of: magic, length of the name, name, encoded photo.
_MAGIC = b"colorize1"
_HEADER = struct.Struct("<9sI")


def encode_record(name: bytes, photo: bytes) -> bytes:
    """One record of a packed shard."""
    return _HEADER.pack(_MAGIC, len(name)) + name + photo


def decode_record(data: bytes) -> tuple[bytes, bytes]:
    """(name, encoded photo); the name is empty if the record is only a photo."""
    if not data.startswith(_MAGIC):
        return b"", data
    _, length = _HEADER.unpack_from(data)
    start = _HEADER.size + length
    return data[_HEADER.size : start], data[start:]


def names_file(shard: str) -> str:
    """The path where `pack` stores the names of a shard's photos, which is faster to read."""
    return f"{shard}.names"


class ArrayRecords:
    """Photos in ArrayRecord shards that `pack` wrote, or in any whose records are encoded photos.

    Packed photos keep their names. The others are named by their shard and number.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, paths: Sequence[str]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._paths = list(paths)
        counts = []
        try:
            for path in self._paths:
                with contextlib.closing(open_reader(path)) as reader:
                    counts.append(reader.num_records())
            self._records = ArrayRecordDataSource(self._paths)
        except Exception as error:  # The library raises RuntimeError, ValueError and others.
            raise DataError(f"{path} cannot be read as ArrayRecord: {error}") from error
        self.names = Names.join([_names(p, n) for p, n in zip(self._paths, counts, strict=True)])

    def __getitem__(self, index: int) -> Record:
        try:
            data = self._records[index]
        except Exception as error:
            for path in self._paths:
                os.stat(path)  # The library gives the same error for a missing shard.
            raise DataError(f"damaged in the shard: {error}") from error
        return Record(self.names[index], decode_record(data)[1])


def open_reader(path: str):
    """The library's reader of one shard; the caller must close it."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path)


def _names(path: str, count: int) -> Names:
    if os.path.isfile(names_file(path)):
        try:
            with open(names_file(path), "rb") as file, np.load(file) as arrays:
                names = Names.checked(arrays["blob"], arrays["ends"])
        except Exception as error:  # numpy, zipfile and zlib raise many kinds.
            raise DataError(
                f"{names_file(path)} is damaged ({why(error)}): pack the photos again"
            ) from error
        if len(names) != count:
            raise DataError(
                f"{names_file(path)} lists {len(names)} photos, {path} holds {count}: pack it again"
            )
        return names
    base = os.fsencode(os.path.basename(path))
    return Names.of(b"%s#%d" % (base, i) for i in range(count))


def save_names(shard: str, names: Names) -> None:
    """Writes the names of a shard's photos atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, blob=names.blob, ends=names.ends)
    draft = names_file(shard) + ".tmp"
    with open(draft, "wb") as file:
        file.write(buffer.getvalue())
    os.replace(draft, names_file(shard))


class Tfds:
    """The photos of a prepared TFDS data set, as encoded bytes and without TensorFlow.

    Args:
        spec: NAME[/CONFIG][:SPLIT], for example imagenet2012:train; the default split is train. The
            data set must have been prepared with file_format="array_record".
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, spec: str):
        self._spec = spec
        name, _, split = spec.partition(":")
        self._open()
        prefix = f"{name}:{split or 'train'}#".encode()
        self.names = Names.of(prefix + b"%d" % i for i in range(len(self._records)))

    def __getstate__(self):
        return {"_spec": self._spec, "names": self.names}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _open(self):
        import tensorflow_datasets as tfds

        name, _, split = self._spec.partition(":")
        try:
            builder = tfds.builder(name)
            self._features, self._folder = builder.info.features, str(builder.data_dir)
            if "image" not in self._features:
                raise DataError(f"tfds:{name} has no feature 'image'")
            self._records = builder.as_data_source(
                split=split or "train", decoders={"image": tfds.decode.SkipDecoding()}
            )
        except DataError:
            raise
        except Exception as error:  # The kind of error depends on what is missing.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"tfds:{self._spec} cannot be opened: {reason}. Prepare it with "
                f"tfds.builder({name!r}).download_and_prepare(file_format='array_record')"
            ) from error

    def __getitem__(self, index: int) -> Record:
        try:
            return Record(self.names[index], self._records[index]["image"])
        except Exception as error:
            raise DataError(f"damaged in the data set: {error}") from error

    def labels(self) -> list[str]:
        """The name of every photo's class.

        Every record is read once, without decoding its image; the result is kept in a cache.

        Raises:
            DataError: the data set has no classes, or a record cannot be read.
        """
        import tensorflow_datasets as tfds

        known, classes = self._features, tfds.features.ClassLabel
        if "label" not in known or not isinstance(known["label"], classes):
            raise DataError(f"tfds:{self._spec} has no feature 'label' that is a class")
        path = os.path.join(self._folder, self._spec.partition(":")[2] or "train")
        cached = index.load("tfds-labels", path, ["labels"])
        if cached is not None and len(cached["labels"]) == len(self.names):
            labels = cached["labels"]
        else:
            numbers = range(len(self.names))
            with ThreadPoolExecutor(16) as pool:
                found = tqdm(
                    pool.map(self._label, numbers), "labels", len(numbers), unit="photo",
                    dynamic_ncols=True, disable=len(numbers) <= 2000,
                )  # fmt: skip
                labels = np.array(list(found), np.int32)
            index.store("tfds-labels", path, {"labels": labels})
        return [known["label"].int2str(int(label)) for label in labels]

    def _label(self, number: int) -> int:
        try:
            return int(self._records[number]["label"])
        except Exception as error:
            raise DataError(f"{self.names[number]} is damaged in the data set: {error}") from error
