"""Checksums of a checkpoint's files: what Orbax would load although it is damaged is found out."""

import hashlib
import json
import os
import pathlib

NAME = "manifest.json"


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


def problem(folder: pathlib.Path) -> str | None:
    """The first thing wrong with a checkpoint, as a sentence's end; None if there is none.

    Raises:
        OSError: the file system did not answer; the checkpoint may be good.
    """
    try:
        listed = json.loads((folder / NAME).read_text())["files"]
        for name, wanted in listed.items():
            path = folder / name
            if not path.exists():
                return f"its file {name} is gone"
            size = path.stat().st_size
            if size != wanted["bytes"]:
                return f"its file {name} has {size} bytes instead of {wanted['bytes']}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != wanted["sha256"]:
                    return f"the content of its file {name} is not what was written"
    except FileNotFoundError:
        return f"it has no {NAME}: the run was killed before the checkpoint was complete"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {NAME} cannot be read"
    return None


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name not in (NAME, f"{NAME}.tmp")
    )
