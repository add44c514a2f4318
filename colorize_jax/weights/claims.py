"""What a file of weights may claim to hold, by what it is."""

from collections.abc import Sequence
import math
import pathlib

from colorize_jax.errors import WeightsError

# Compressed weights are half as large as plain ones at best, but a bias may be all zeros.
_FACTOR, _FREE = 16, 64 << 20


class Claims:
    """Adds up the memory that the arrays of one file ask for."""

    def __init__(self, path: pathlib.Path):
        self._path, self._size = path, path.stat().st_size
        self._left = _FACTOR * self._size + _FREE

    def add(self, name: str, shape: Sequence[int], itemsize: int) -> None:
        """WeightsError if an array is more than is left of what the file may ask for."""
        size = math.prod(shape) * itemsize
        self.check(f"{name} {tuple(shape)}", size)
        self._left -= size

    def check(self, name: str, size: int) -> None:
        """As `add` for so many bytes, which are given back."""
        if size > self._left:
            raise WeightsError(
                f"{self._path} has {self._size:,} bytes and declares {size:,} for {name}: it is "
                "damaged, or made to fill the memory"
            )
