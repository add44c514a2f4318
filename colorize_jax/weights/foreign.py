"""Files of weights from elsewhere as {name: array}, told apart by their first bytes."""

from collections.abc import Callable, Collection
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from colorize_jax.errors import SaveError, WeightsError, why
from colorize_jax.weights import hdf5, torch_files

_HEAD = 16  # bytes that a format is known by
_PROTOBUF = ".caffemodel"
_LONGEST = 200  # characters of what a library says about a damaged file


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
        new: layers that the file does not have, at a random start.
    """

    network: Any
    variables: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    left_over: list[str]
    done: list[str]
    new: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files: `begins` knows it by the first bytes, `read` gives arrays and metadata.

    `read` may raise WeightsError, whose text says all, or anything else of a damaged file.
    """

    begins: Callable[[bytes], bool]
    read: Callable[[pathlib.Path], tuple[dict[str, np.ndarray], dict[str, str]]]


FORMATS = {
    "HDF5": Format(lambda head: head.startswith(hdf5.MAGIC), hdf5.read),
    "safetensors": Format(torch_files.is_safetensors, torch_files.read_safetensors),
    "PyTorch": Format(torch_files.is_pickle, torch_files.read_pickle),
}


def read(path: str | pathlib.Path, formats: Collection[str] = tuple(FORMATS)) -> File:
    """Reads a file of a known format.

    Args:
        path: of the file.
        formats: of `FORMATS`, those that are wanted: a file of another one is not opened.

    Raises:
        WeightsError: it is not there, of no such format, or damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():  # a pipe, for example, on which a read would wait
        raise WeightsError(f"{path} is no file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {why(error)}") from error
    for name, known in FORMATS.items():
        if known.begins(head):
            if name not in formats:
                raise WeightsError(f"{path} is a {name} file, not {' or '.join(formats)}")
            try:
                return File(path, name, *known.read(path))
            except WeightsError:
                raise
            except MemoryError as error:
                raise WeightsError(f"{path} holds more than fits into memory") from error
            except Exception as error:  # three libraries of others, each with kinds of its own
                raise WeightsError(f"{path} is a damaged {name} file: {_brief(error)}") from error
    hint = (
        "; a binary .caffemodel must be saved again with Caffe's snapshot_format: HDF5"
        if path.suffix == _PROTOBUF
        else ""
    )
    raise WeightsError(f"{path} is no file of weights; known are {', '.join(FORMATS)}{hint}")


def _brief(error: Exception) -> str:
    """The first line of what a library says; its kind if that is nothing."""
    first = (why(error).strip() or type(error).__name__).partition("\n")[0]
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]} ..."


def check_output(path: str | pathlib.Path) -> None:
    """WeightsError if there is something at the path already, or no folder for it."""
    path = pathlib.Path(path)
    if path.exists() or path.is_symlink():
        raise WeightsError(f"{path} exists: name another output")
    if not path.parent.is_dir():
        raise WeightsError(f"{path.parent}, where {path.name} is to be written, is no folder")


def write(path: str | pathlib.Path, writer: Callable[[pathlib.Path], None]) -> None:
    """Lets `writer` write a draft beside the path, and renames it once it is whole.

    The file gets the permissions that the umask gives, whatever a library thinks of them.

    SaveError: it cannot be written; then nothing is there.
    """
    path = pathlib.Path(path)
    check_output(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.touch()
        usual = draft.stat().st_mode
        writer(draft)
        if draft.stat().st_mode != usual:
            draft.chmod(usual)
        draft.rename(path)
    except OSError as error:
        raise SaveError(f"{path} could not be written: {why(error)}") from error
    finally:
        draft.unlink(missing_ok=True)
