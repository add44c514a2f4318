"""Caffe's HDF5 files: /data/<layer>/<blob> and nothing else that matters."""

from collections.abc import Mapping
import io
import pathlib

import h5py
import numpy as np

from colorize_jax.errors import WeightsError

MAGIC = b"\x89HDF\r\n\x1a\n"
_DATA, _OURS = "data", "colorize_jax"  # groups of the root; the second is read by nobody else


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays and our own metadata, if the file is ours.

    Names are "conv1_1/0", below the group /data, and "colorize_jax/..." as they stand; of a file
    without /data all names as they stand. Empty groups, attributes and /diff are passed over.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: it is damaged.
        WeightsError: it has links to other files.
    """
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        if _DATA in file and isinstance(file[_DATA], h5py.Group):
            _collect(file[_DATA], "", arrays, path)
            if _OURS in file:
                _collect(file[_OURS], f"{_OURS}/", arrays, path)
        else:
            _collect(file, "", arrays, path)
        ours = file[_OURS].attrs if _OURS in file else {}
        return arrays, {name: str(value) for name, value in ours.items()}


def write(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """The file that `read` gives back; OSError if it cannot be written."""
    # In memory first: of a full disk HDF5 tells in stack traces and leaves what it has written.
    whole = io.BytesIO()
    with h5py.File(whole, "w", track_order=True) as file:
        group = file.create_group(_DATA, track_order=True)
        ours = file.create_group(_OURS)
        for name, array in arrays.items():
            (ours if name.startswith(f"{_OURS}/") else group).create_dataset(
                name.removeprefix(f"{_OURS}/"), data=array
            )
        ours.attrs.update(metadata)
    path.write_bytes(whole.getbuffer())


def _collect(group: h5py.Group, prefix: str, arrays: dict, path: pathlib.Path) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise WeightsError(f"{path} has a link at {prefix}{name}, which is not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            _collect(item, f"{prefix}{name}/", arrays, path)
        elif item.external or item.is_virtual:
            raise WeightsError(f"{path} keeps {prefix}{name} in another file")
        else:
            arrays[f"{prefix}{name}"] = np.asarray(item)
