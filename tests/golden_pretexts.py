"""Vectors of the pretext tasks, computed from their papers' formulas without this library's code.

Every test that uses them has "golden" and the group's prefix in its name, as in
`test_golden_lars_two_steps`, and calls the very function that training calls. Another file of the
same layout can be named in COLORIZE_GOLDEN_PRETEXTS.
"""

import functools
import os
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_suffix(".npz")


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(os.environ.get("COLORIZE_GOLDEN_PRETEXTS", FILE)) as file:
        return dict(file)


def group(prefix: str) -> dict[str, np.ndarray]:
    """The arrays of one group, without the prefix in their names: "kernel" for "lars_kernel"."""
    start = f"{prefix}_"
    return {
        name.removeprefix(start): array
        for name, array in _arrays().items()
        if name.startswith(start)
    }
