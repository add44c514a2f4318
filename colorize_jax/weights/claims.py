"""Limits the memory that a file of weights can ask for, in proportion to its size."""

from collections.abc import Sequence
import math
import pathlib

from colorize_jax.errors import WeightsError

# The arrays of a file may take this factor times its size, and this many bytes more. Compression
# at best halves weights, but biases that are all zeros compress very well.
_FACTOR, _FREE = 16, 64 << 20


class Claims:
    """Adds up the memory that the arrays of one file declare."""

    def __init__(self, path: pathlib.Path):
        self._path, self._size = path, path.stat().st_size
        self._left = _FACTOR * self._size + _FREE

    def add(self, name: str, shape: Sequence[int], itemsize: int) -> None:
        """Adds an array; WeightsError if the sum is more than the file may ask for."""
        size = math.prod(shape) * itemsize
        self.check(f"{name} {tuple(shape)}", size)
        self._left -= size

    def check(self, name: str, size: int) -> None:
        """Like `add`, for `size` bytes that are freed again."""
        if size > self._left:
            raise WeightsError(
                f"{self._path} has {self._size:,} bytes and declares {size:,} for {name}: it is "
                "damaged, or made to fill the memory"
            )
