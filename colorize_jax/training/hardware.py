"""Describes the hardware of a run and measures its speed in matrix products."""

from collections.abc import Callable, Sequence
import os
import platform
import re
import statistics
import time

import jax
import jax.numpy as jnp

from colorize_jax.models.registry import DTYPES

_MATRICES = {"cpu": (1024, 2048)}  # the sides of the matrices; other platforms get larger ones
_LARGE_MATRICES = (4096, 8192, 16384)


def describe() -> str:
    """The hardware as text, such as "8 x NVIDIA H200" or "2 cores of AMD EPYC 9B14"."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = jax.process_count()
    there = f"{processes} x {cores}" if processes > 1 else f"{cores}"
    return f"{there} core{'' if cores == 1 else 's'} of {_processor()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = re.search(r"^model name\s*:\s*(.+)$", lines.read(), re.MULTILINE)
    except OSError:  # The file exists only on Linux.
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return re.sub(r"\s*\d+-Core Processor$", "", name.strip())


def matrix_rate(dtype: str, seconds: float = 1.0, sides: Sequence[int] = ()) -> float:
    """The best FLOP/s of one device in products of square matrices of some sizes."""
    sides = sides or _MATRICES.get(jax.devices()[0].platform, _LARGE_MATRICES)
    return max(_matrix_rate(DTYPES[dtype], side, seconds) for side in sides)


def _matrix_rate(dtype, side: int, seconds: float) -> float:
    # The numbers are random because GPUs multiply equal numbers with less power, and faster. With
    # this variance the chain of products neither grows nor vanishes.
    matrix = (jax.random.normal(jax.random.key(0), (side, side)) / side**0.5).astype(dtype)
    products = 8

    @jax.jit
    def chain(x, matrix):  # A constant matrix would become a part of the program.
        for _ in range(products):  # and a loop would copy its state every time
            x = x @ matrix
        return x

    return products * 2 * side**3 / median_seconds(lambda: chain(matrix, matrix), seconds)


def copy_rate(seconds: float = 1.0, size: int = 0) -> float:
    """Bytes a second that one device reads and writes while it copies a large array.

    Args:
        seconds: how long to measure.
        size: the size of the array in bytes; 0 means 2 GiB, or 256 MiB on CPU.
    """
    size = size or (2**28 if jax.devices()[0].platform == "cpu" else 2**31)
    array = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)  # XLA could leave out a plain copy.
    return 2 * array.nbytes / median_seconds(lambda: copy(array), seconds)


def median_seconds(work: Callable, seconds: float) -> float:
    """The median time of one call, over three series that take `seconds` together.

    One call before them warms up.
    """
    jax.block_until_ready(work())
    began = time.perf_counter()
    jax.block_until_ready(work())
    calls = max(1, round(seconds / 3 / (time.perf_counter() - began)))
    stretches = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            done = work()
        jax.block_until_ready(done)
        stretches.append((time.perf_counter() - began) / calls)
    return statistics.median(stretches)
