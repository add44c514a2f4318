"""Reads foreign files of weights as {name: array}; their first bytes decide the format."""

from collections.abc import Callable, Collection
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from colorize_jax.errors import SaveError, WeightsError, why
from colorize_jax.weights import hdf5, torch_files

_HEAD = 16  # the number of first bytes by which a format is recognized
_PROTOBUF = ".caffemodel"
_LONGEST = 200  # the most characters of a library's message about a damaged file


@dataclasses.dataclass(frozen=True)
class File:
    """The content of a file of weights.

    Attributes:
        path: the path of the file.
        format: a key of `FORMATS`.
        arrays: {name: array}, in the order of the file.
        metadata: the file's other entries about itself.
    """

    path: pathlib.Path
    format: str
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]

    def origin(self) -> dict[str, str]:
        """The entries about this file for the note of a checkpoint."""
        with self.path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": self.path.name, "format": self.format, "sha256": checksum}


@dataclasses.dataclass(frozen=True)
class Imported:
    """The weights of a file, converted to our tree.

    Attributes:
        network: the recognized network; `str` describes it.
        variables: {"params": {"encoder": ..., "head"?: ...}, "batch_stats": ...}.
        settings: settings of the config, {"model": ..., "task"?: ...}.
        left_over: the names in the file that are not used.
        done: other changes that were made, in words.
        new: the layers that the file lacks, which are random.
    """

    network: Any
    variables: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    left_over: list[str]
    done: list[str]
    new: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format: `begins` recognizes the first bytes; `read` returns arrays and metadata.

    For a damaged file `read` may raise a WeightsError with a complete message, or any other error.
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
        path: the path of the file.
        formats: the allowed formats, keys of `FORMATS`. A file of another format is not opened.

    Raises:
        WeightsError: the file does not exist, is damaged, or has no such format.
    """
    path = pathlib.Path(path)
    if not path.is_file():  # Reading a pipe, for example, would wait.
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
            except Exception as error:  # Each of the libraries raises its own kinds of errors.
                raise WeightsError(f"{path} is a damaged {name} file: {_brief(error)}") from error
    hint = (
        "; a binary .caffemodel must be saved again with Caffe's snapshot_format: HDF5"
        if path.suffix == _PROTOBUF
        else ""
    )
    raise WeightsError(f"{path} is no file of weights; known are {', '.join(FORMATS)}{hint}")


def _brief(error: Exception) -> str:
    """The first line of an error's message, or the kind of the error if there is no message."""
    first = (why(error).strip() or type(error).__name__).partition("\n")[0]
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]} ..."


def check_output(path: str | pathlib.Path) -> None:
    """WeightsError if the path exists already, or its folder does not exist."""
    path = pathlib.Path(path)
    if path.exists() or path.is_symlink():
        raise WeightsError(f"{path} exists: name another output")
    if not path.parent.is_dir():
        raise WeightsError(f"{path.parent}, where {path.name} is to be written, is no folder")


def write(path: str | pathlib.Path, writer: Callable[[pathlib.Path], None]) -> None:
    """Lets `writer` write a temporary file beside the path, and renames it when it is complete.

    The file gets the permissions of the umask, even if a library sets others.

    Raises:
        SaveError: the file cannot be written; nothing is left then.
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
