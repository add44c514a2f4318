"""Files of weights from elsewhere as {name: array}, told apart by their first bytes."""

from collections.abc import Callable
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from colorize_jax.errors import SaveError, WeightsError, why
from colorize_jax.surgery import hdf5, torch_files

_HEAD = 16  # bytes that a format is known by
_PROTOBUF = ".caffemodel"


@dataclasses.dataclass(frozen=True)
class File:
    """What a file of weights holds.

    Attributes:
        path: of the file.
        format: a key of `FORMATS`.
        arrays: by name, in the order of the file.
        metadata: what else the file says about itself.
    """

    path: pathlib.Path
    format: str
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]

    def origin(self) -> dict[str, str]:
        """What a checkpoint made from the file notes about it."""
        with self.path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": self.path.name, "format": self.format, "sha256": checksum}


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights of a file in our form.

    Attributes:
        network: what the file was taken for; `str` of it is in words.
        variables: {"params": {"encoder": ..., "head"?: ...}, "batch_stats": ...}.
        settings: of the config, {"model": ..., "task"?: ...}.
        left_over: names in the file that are of no use here.
        done: what was done besides, in words.
    """

    network: Any
    variables: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    left_over: list[str]
    done: list[str]


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files: `begins` knows it by the first bytes, `read` gives arrays and metadata.

    `read` may raise OSError, ValueError, KeyError, RuntimeError or WeightsError.
    """

    begins: Callable[[bytes], bool]
    read: Callable[[pathlib.Path], tuple[dict[str, np.ndarray], dict[str, str]]]


FORMATS = {
    "HDF5": Format(lambda head: head.startswith(hdf5.MAGIC), hdf5.read),
    "safetensors": Format(torch_files.is_safetensors, torch_files.read_safetensors),
    "PyTorch": Format(torch_files.is_pickle, torch_files.read_pickle),
}


def read(path: str | pathlib.Path) -> File:
    """Reads a file of any known format.

    Raises:
        WeightsError: it is not there, of no known format, or damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is no file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {why(error)}") from error
    for name, known in FORMATS.items():
        if known.begins(head):
            try:
                return File(path, name, *known.read(path))
            except MemoryError as error:
                raise WeightsError(f"{path} holds more than fits into memory") from error
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise WeightsError(f"{path} is a damaged {name} file: {error}") from error
    hint = (
        "; a binary .caffemodel must be saved again with Caffe's snapshot_format: HDF5"
        if path.suffix == _PROTOBUF
        else ""
    )
    raise WeightsError(f"{path} is no file of weights; known are {', '.join(FORMATS)}{hint}")


def check_output(path: str | pathlib.Path) -> None:
    """WeightsError if there is something at the path already, or no folder for it."""
    path = pathlib.Path(path)
    if path.exists() or path.is_symlink():
        raise WeightsError(f"{path} exists: name another output")
    if not path.parent.is_dir():
        raise WeightsError(f"{path.parent}, where {path.name} is to be written, is no folder")


def write(path: str | pathlib.Path, writer: Callable[[pathlib.Path], None]) -> None:
    """Lets `writer` write a draft beside the path, and renames it once it is whole.

    SaveError: it cannot be written; then nothing is there.
    """
    path = pathlib.Path(path)
    check_output(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(draft)
        draft.rename(path)
    except OSError as error:
        raise SaveError(f"{path} could not be written: {why(error)}") from error
    finally:
        draft.unlink(missing_ok=True)
