"""Caffe's HDF5 files: the arrays /data/<layer>/<blob>.

A file is not trusted. Its declared sizes are checked against its content before memory is
allocated, no other file is opened for it, and every group and array is read only once.
"""

from collections.abc import Iterator, Mapping
import io
import math
import pathlib
import zlib

import h5py
import numpy as np

from colorize_jax.errors import WeightsError
from colorize_jax.weights import claims

MAGIC = b"\x89HDF\r\n\x1a\n"
_DATA, _OURS = "data", "colorize_jax"  # groups of the root; only we read the second one
_DEPTH = 16  # the deepest nesting of groups
# The filters of h5py and deepdish. Shuffling and checksums keep the size.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays, and our own metadata if we wrote the file.

    Names are relative to the group /data, such as "conv1_1/0"; names "colorize_jax/..." are full.
    In a file without /data all names are full. Empty groups, attributes and /diff are skipped.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: the file is damaged.
        WeightsError: it has links, or declares more than it can hold.
    """
    found = _Reader(path)
    with h5py.File(path, "r") as file:
        if isinstance(data := found.item(file, _DATA), h5py.Group):
            ours = found.item(file, _OURS)
            found.collect(data, "")
            if isinstance(ours, h5py.Group):
                found.collect(ours, f"{_OURS}/")
                return found.arrays, {name: str(value) for name, value in ours.attrs.items()}
        else:
            found.collect(file, "")
        return found.arrays, {}


def write(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a file for `read`; OSError if that fails."""
    # The file is made in memory first: on a full disk HDF5 prints stack traces and leaves a part.
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


class _Reader:
    """Collects the arrays of one file into `arrays`, and refuses unsafe content."""

    def __init__(self, path: pathlib.Path):
        self.path, self.size = path, path.stat().st_size
        self.arrays: dict[str, np.ndarray] = {}
        self._claims = claims.Claims(path)
        self._seen: set[int] = set()

    def item(self, group: h5py.Group, name: str, shown: str = ""):
        """The group or array with a name, or None; links are never followed."""
        link = group.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise WeightsError(f"{self.path} has a link at {shown or name}, which is not followed")
        return group[name]

    def collect(self, group: h5py.Group, prefix: str) -> None:
        """Collects all arrays of a group and of its subgroups."""
        self._once(group, prefix)
        if prefix.count("/") > _DEPTH:
            raise WeightsError(f"{self.path} has more than {_DEPTH} groups within each other")
        for name in group:
            item = self.item(group, name, f"{prefix}{name}")
            if isinstance(item, h5py.Group):
                self.collect(item, f"{prefix}{name}/")
            elif isinstance(item, h5py.Dataset):
                self._once(item, f"{prefix}{name}")
                self._check(item, f"{prefix}{name}")
                self.arrays[f"{prefix}{name}"] = np.asarray(item[()])
            else:
                raise WeightsError(f"{self.path} holds no array at {prefix}{name}, but a type")

    def _once(self, item: h5py.Group | h5py.Dataset, name: str) -> None:
        # Groups that contain themselves, or one another many times, could be read forever.
        address = h5py.h5o.get_info(item.id).addr
        if address in self._seen:
            raise WeightsError(f"{self.path} has the same content at {name or '/'} and elsewhere")
        self._seen.add(address)

    def _check(self, item: h5py.Dataset, name: str) -> None:
        """WeightsError if an array is not in this file with all the numbers that it declares."""
        # This comes before its shape is read, because then HDF5 may open another file.
        if item.external or item.is_virtual:
            raise WeightsError(f"{self.path} keeps {name} in another file")
        if item.dtype.kind not in "fiub" or item.shape is None:
            raise WeightsError(f"{self.path}: {name} holds no numbers but {item.dtype}")
        self._claims.add(name, item.shape, item.dtype.itemsize)
        if item.chunks is None:
            whole = item.id.get_storage_size() == item.nbytes
        else:
            chunk = math.prod(item.chunks) * item.dtype.itemsize
            self._claims.check(f"a chunk of {name}", chunk)
            wanted = math.prod(-(-n // m) for n, m in zip(item.shape, item.chunks, strict=True))
            whole = sum(1 for _ in self._chunks(item, name, chunk)) == wanted
        if not whole:
            raise WeightsError(
                f"{self.path} does not hold all of {name} {item.shape}: it is damaged"
            )

    def _chunks(self, item: h5py.Dataset, name: str, size: int) -> Iterator[None]:
        """Yields for every chunk, after a check that it does not decompress to more than `size`."""
        plist = item.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if set(filters) - _FILTERS or len(set(filters)) < len(filters):
            raise WeightsError(
                f"{self.path}: {name} is compressed, but not with gzip: save it again with gzip, "
                "or without compression"
            )
        found: list = []
        item.id.chunk_iter(found.append)
        for chunk in found:
            if chunk.size > self.size:
                raise WeightsError(f"{self.path} ends before {name} does: it is damaged")
            if h5py.h5z.FILTER_DEFLATE in filters:
                skipped, packed = item.id.read_direct_chunk(chunk.chunk_offset)
                is_packed = not skipped >> filters.index(h5py.h5z.FILTER_DEFLATE) & 1
                # HDF5 itself would decompress without a limit.
                if is_packed and len(zlib.decompressobj().decompress(packed, size + 1)) > size:
                    raise WeightsError(f"{self.path}: a chunk of {name} unpacks to too much")
            yield
