"""The memory that a step needs and that a device has, and advice on how to need less."""

from collections.abc import Callable
import contextlib
import os
from typing import Any

import jax

from colorize_jax.errors import ConfigError, OutOfMemoryError

Compiled = Any  # jax.stages.Compiled
GIB = 2**30
# The margin over the compiler's own count, for evaluation and fragmentation.
_MARGIN = 1.1


def need(compiled: Compiled) -> int:
    """Bytes on every device: the state, the batch, and the step's temporary arrays."""
    counted = compiled.memory_analysis()
    return (
        counted.argument_size_in_bytes
        + counted.output_size_in_bytes
        - counted.alias_size_in_bytes
        + counted.temp_size_in_bytes
        + counted.generated_code_size_in_bytes
    )


def available(device: jax.Device) -> int:
    """The memory of the device in bytes; a CPU device has a share of the machine's free memory."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    pages = os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):  # It includes memory of the page cache.
                pages = int(line.split()[1]) * 1024 // os.sysconf("SC_PAGE_SIZE")
    return pages * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


def check_batch(rows: int, crop: int, views: int = 1) -> None:
    """ConfigError if the photos of one batch take more than the machine's memory.

    Args:
        rows: the number of the batch's rows in this process.
        crop: the side of its square crops.
        views: the number of views of every photo.
    """
    size = 3 * rows * views * crop**2
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise ConfigError(
            f"a batch of config.data.batch_size with crops of config.data.crop={crop} pixels takes "
            f"{size / GIB:,.0f} GiB of this machine, which has {memory / GIB:,.0f}: lower one of "
            "the two"
        )


def smallest_that_fits(
    compile_step: Callable[[int], Compiled], rows: int, limit: int, config
) -> tuple[int, Compiled]:
    """The smallest number of microbatches for which the step fits into memory.

    Args:
        compile_step: number of microbatches -> the compiled step.
        rows: the number of the batch's rows on every device; the result divides it.
        limit: the memory of a device, in bytes.
        config: the config of the run, for the message.

    Returns:
        That number, and the step compiled for it.

    Raises:
        OutOfMemoryError: even microbatches of a single row do not fit.
    """
    size = 0
    for microbatches in (m for m in range(1, rows + 1) if rows % m == 0):
        try:
            compiled = compile_step(microbatches)
        except jax.errors.JaxRuntimeError as error:
            if not exhausted(error):
                raise
            continue  # Some backends already fail while they compile.
        size = need(compiled)
        if size * _MARGIN <= limit:
            return microbatches, compiled
    needed = f"needs {size / GIB:.2f} GiB" if size else "was refused by the compiler"
    raise OutOfMemoryError(
        f"even with config.microbatches={rows}, one crop of {config.data.crop} pixels at a time on "
        f"every device, a step {needed}, and a device has {limit / GIB:.2f}. Lower it with "
        + ", ".join([*_advice(config), "a smaller config.data.crop or config.model.width"])
    )


def _advice(config) -> list[str]:
    advice = []
    if config.model.dtype != "bfloat16":
        advice.append("config.model.dtype=bfloat16")
    if not config.model.remat:
        advice.append("config.model.remat=True")
    return advice


def exhausted(error: BaseException) -> bool:
    """Whether an error of JAX means that memory was exhausted."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def explained(config, mesh, needed: Callable[[], tuple[int, int]]):
    """Replaces JAX's error by an OutOfMemoryError with advice.

    Args:
        config: the config of the run.
        mesh: the mesh of its devices.
        needed: returns the number of microbatches and the bytes of the compiled step, 0 while
            unknown.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not exhausted(error):
            raise
        microbatches, size = needed()
        rows = config.data.batch_size // mesh.size
        devices = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        estimate = (
            f" By the compiler's count it needs {size / GIB:.2f} GiB on each." if size else ""
        )
        smaller = [m for m in range(microbatches + 1, rows + 1) if rows % m == 0]
        advice = [
            f"config.microbatches={smaller[0]} (or 0, which finds the smallest number that fits)"
            if smaller
            else "a smaller config.data.batch_size",
            *_advice(config),
        ]
        raise OutOfMemoryError(
            f"out of memory: a step of {config.data.batch_size} crops of {config.data.crop} pixels "
            f"in {microbatches} microbatch(es), {rows} crops a device, does not fit on {devices}."
            f"{estimate} Lower it with {', '.join(advice)}, or a smaller config.data.crop. "
            f"JAX said: {str(error).splitlines()[0]}"
        ) from None
