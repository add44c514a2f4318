"""Writes files atomically: after a crash a file is complete, or absent or as it was before."""

import contextlib
import pathlib


def atomic_write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a file atomically; OSError if it cannot be written."""
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Like `atomic_write_text`, for bytes."""
    draft = path.with_name(f"{path.name}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
