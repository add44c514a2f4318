"""Caches on disk what was found in a folder or an archive, so that the next start is fast."""

from collections.abc import Mapping, Sequence
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import threading

import numpy as np

from colorize_jax import json_files


def cache_folder() -> pathlib.Path:
    """$COLORIZE_CACHE, else $XDG_CACHE_HOME/colorize_jax, else ~/.cache/colorize_jax."""
    named = os.environ.get("COLORIZE_CACHE")
    if named:
        return pathlib.Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "colorize_jax"


def _file(kind: str, path: str) -> pathlib.Path:
    digest = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=12).hexdigest()
    return cache_folder() / f"{kind}-{digest}.npz"


def load(kind: str, path: str, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of these names stored for a path, or None if there are none.

    The caller must check that they are still valid.
    """
    try:
        with _file(kind, path).open("rb") as file, np.load(file) as arrays:
            found = {name: arrays[name] for name in names}
        if "left_out" in found:
            counts(found["left_out"])
        return found if all(array.dtype.kind in "iu" for array in found.values()) else None
    except (OSError, ValueError, EOFError, KeyError):
        return None
    except Exception as error:  # A torn file raises many kinds of errors; it is only a cache.
        logging.info("index of %s is unreadable: %s", path, error)
        return None


def store(kind: str, path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays atomically. Without a place to write, the next start searches again."""
    target = _file(kind, path)
    draft = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.replace(target)
    except OSError as error:
        logging.info("the index of %s is not kept: %s", path, error)
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def encode_counts(counts: Mapping[str, int]) -> np.ndarray:
    """{word: number} as an array for `store`."""
    return np.frombuffer(json.dumps(dict(counts)).encode(), np.uint8)


def counts(array: np.ndarray) -> dict[str, int]:
    """The counts that `encode_counts` was given."""
    return json_files.parse(array.tobytes(), {str: json_files.COUNT})
