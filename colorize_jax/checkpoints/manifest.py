"""Checksums of a checkpoint's files: what Orbax would load although it is damaged is found out."""

import hashlib
import json
import os
import pathlib

from colorize_jax import json_files
from colorize_jax.errors import shown

NAME = "manifest.json"
_FORM = {"files": {str: {"bytes": json_files.COUNT, "sha256": str}}}
# {folder: what the file system said of its files when they were read and found good}. A command
# looks at one checkpoint several times, and its gigabytes are read once.
_good: dict[pathlib.Path, list] = {}


def write(folder: pathlib.Path) -> None:
    """Lists all files of a finished checkpoint, flushed to the disk; its presence says "complete".

    Raises:
        OSError: it cannot be written.
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
    for renamed in (folder, folder.parent):  # the names too must outlive a loss of power
        descriptor = os.open(renamed, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists(folder: pathlib.Path) -> bool:
    """Whether the checkpoint was written to its end."""
    return (folder / NAME).exists()


def digest(folder: pathlib.Path) -> str:
    """Of all that a complete checkpoint holds; hexadecimal. OSError if it has no manifest."""
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def problem(folder: pathlib.Path) -> str | None:
    """The first thing wrong with a checkpoint, as a sentence's end; None if there is none.

    Reads all of it, once in a process as long as no file changes.

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
