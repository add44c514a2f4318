"""What XLA is told when it compiles a training step, and where its programs are kept on disk."""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import pathlib
import platform

import jax
import jax.numpy as jnp

from colorize_jax.data import index

# XLA's CPU backend hands convolutions to YNNPACK. For the gradient of a kernel over large maps
# that takes up to ten times as long as XLA's own convolution; products of matrices may stay there.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_SETTINGS = {
    "jax_compilation_cache_max_size": 2 << 30,  # bytes; the programs that were used last stay
    "jax_persistent_cache_min_compile_time_secs": 0.3,  # what is compiled faster is not kept
}


def options(platform: str) -> dict[str, str]:
    """`compiler_options` of jax.jit for a platform; none that this version of XLA does not know."""
    return _CPU if platform == "cpu" and known(tuple(_CPU.items())) else {}


@functools.cache
def known(settings: tuple[tuple[str, str], ...]) -> bool:
    """Whether the CPU backend compiles with (name, value) of these settings."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        empty = jax.jit(lambda: jnp.zeros(()), compiler_options=dict(settings))
        try:
            empty.lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
    return True


def keep_programs() -> None:
    """Lets JAX keep on disk what it compiles, so that a restarted run begins without compiling.

    The programs are in `programs_folder()`, the same for all runs of a user. JAX finds a program by
    a hash of its code, of the versions and of the devices, so that it is the one that would be
    compiled. A lock makes the folder safe for several processes. JAX_COMPILATION_CACHE_DIR names
    another folder, and the empty string keeps nothing; then this function changes nothing. Without
    a place to write, nothing is kept either.
    """
    chosen = jax.config.jax_compilation_cache_dir is not None
    if chosen or importlib.util.find_spec("filelock") is None:
        return
    folder = programs_folder()
    try:
        _remove_torn(folder)
    except (OSError, NotImplementedError) as error:
        logging.info("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def programs_folder() -> pathlib.Path:
    """The folder of compiled programs of this machine, below `index.cache_folder()`.

    Machines with another processor have another folder, as a home may be on several machines: a
    program may use instructions that others lack.
    """
    processor = platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kinds = ("model name", "flags", "Features", "CPU part")
        processor += "".join(sorted({line for line in lines if line.startswith(kinds)}))
    digest = hashlib.blake2b(processor.encode(), digest_size=6).hexdigest()
    return index.cache_folder() / f"programs-{digest}"


def _remove_torn(folder: pathlib.Path) -> None:
    """Makes the folder; removes programs that a killed process has not written to their end.

    JAX writes a program, and after it a small file with the time of its last use.

    Raises:
        OSError, NotImplementedError: nothing can be written there, or locked.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with filelock.FileLock(folder / ".lockfile", timeout=10):
        for program in folder.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not used.exists():
                program.unlink()
