"""Checksums of a checkpoint's files. They reveal damage that Orbax would load without an error."""

import hashlib
import json
import os
import pathlib

from colorize_jax import json_files
from colorize_jax.errors import shown

NAME = "manifest.json"
_FORM = {"files": {str: {"bytes": json_files.COUNT, "sha256": str}}}
# {folder: size and time of its files when they were verified}. A command opens one checkpoint
# several times, but should read its gigabytes once.
_good: dict[pathlib.Path, list] = {}


def write(folder: pathlib.Path) -> None:
    """Writes the list of all files of a finished checkpoint; it marks the checkpoint as complete.

    All files are flushed to the disk first.

    Raises:
        OSError: the manifest cannot be written.
    """
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": digest,
        }
    draft = folder / f"{NAME}.tmp"
    with draft.open("w") as file:
        json.dump({"files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / NAME)
    for renamed in (folder, folder.parent):  # The names must survive a loss of power too.
        descriptor = os.open(renamed, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists(folder: pathlib.Path) -> bool:
    """Whether the checkpoint was written completely."""
    return (folder / NAME).exists()


def digest(folder: pathlib.Path) -> str:
    """A hexadecimal digest of a complete checkpoint's content; OSError if it has no manifest."""
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def problem(folder: pathlib.Path) -> str | None:
    """The first problem of a checkpoint, worded as the end of a sentence; None if it is good.

    It reads all files, but only once in a process as long as no file changes.

    Raises:
        OSError: the file system did not answer; the checkpoint may be good.
    """
    try:
        listed = json_files.parse((folder / NAME).read_bytes(), _FORM)["files"]
        if not any(name.startswith("state/") for name in listed):
            return f"its {NAME} lists no file of the state"
        found = []
        for name, wanted in listed.items():
            path = folder / name
            if ".." in path.parts or not path.is_relative_to(folder):
                return f"its {NAME} lists {shown(name)!r}, which is no file of it"
            if not path.is_file():
                return f"its file {name} is gone"
            status = path.stat()
            if status.st_size != wanted["bytes"]:
                return f"its file {name} has {status.st_size} bytes instead of {wanted['bytes']}"
            found.append((name, wanted["sha256"], status.st_ino, status.st_mtime_ns))
        if _good.get(folder) == found:
            return None
        for name, digest, *_ in found:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"the content of its file {name} is not what was written"
        _good[folder] = found
    except FileNotFoundError:
        return f"it has no {NAME}, which is written last: its save was cut short"
    except IsADirectoryError:
        return f"its {NAME} is a folder"
    except ValueError as error:
        return f"its {NAME} is damaged ({error})"
    return None


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name not in (NAME, f"{NAME}.tmp")
    )
