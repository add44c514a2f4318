"""What a training step costs: counted by compiling it."""

import contextlib
import dataclasses
import importlib.util
import io
import os

from colorize_jax.bench import kernels
from colorize_jax.errors import ConfigError
from colorize_jax.training import compiler, sharding
from colorize_jax.training.setup import Setup, check_settings, set_up


@dataclasses.dataclass(frozen=True)
class Counts:
    """One step of one device, as compiled.

    Attributes:
        rows: photos of this device in a step.
        flops: of this device; a multiply-add is two, taps of convolutions on padding are
            none.
        bytes_accessed: what all fused operations read and write, an upper bound of the traffic of
            the device's memory: what stays in fast memory between two operations is counted too.
        memory: bytes that must fit at once: state, batch, and the temporaries at their peak
            (activations, gradients).
    """

    rows: int
    flops: float
    bytes_accessed: float
    memory: int


# What XLA asks about a GPU that is not there, of an H100 SXM of 80 GB: NVIDIA's published numbers,
# and those that CUDA reports of every GPU of compute capability 9.0.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
}
"""
GPU = "h100"
# No kernel can be tried where there is no GPU.
_UNTRIED = {"xla_gpu_autotune_level": "0"}


def topology_devices(name: str) -> list:
    """Devices that need not exist, to compile for: "v5e:2x4" is eight chips of a TPU slice, "h100"
    one GPU, "h100:8" eight of a node.

    ConfigError unless libtpu (`pip install '.[tpu]'`) is installed and knows the slice, or JAX's
    CUDA plugin of jaxlib's version is installed.
    """
    card, _, count = name.partition(":")
    if card.lower() == GPU:
        return _gpu_devices(name, count or "1")
    return _tpu_devices(name)


def is_gpu(devices) -> bool:
    """Whether a program for these devices consists of GPU kernels."""
    return devices[0].platform in ("gpu", "cuda")


def _gpu_devices(name: str, count: str) -> list:
    import jax
    from jax.experimental import topologies

    if not count.isdecimal() or not 0 < int(count) <= 8:
        raise ConfigError(f"--topology={name}: h100, or h100:N with N from 1 to 8")
    plugins = [cuda for cuda in ("12", "13") if _installed(f"jax_plugins.xla_cuda{cuda}")]
    if not plugins:
        version = jax.lib.__version__
        raise ConfigError(
            f"--topology={name} needs JAX's compiler for CUDA, which works without a GPU: pip "
            f"install --no-deps jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version}"
        )
    # Otherwise JAX looks for a GPU first.
    jax.config.update("jax_platforms", "cpu")
    shape = f"1x{count}x1"
    return list(
        topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=_H100, topology=shape
        ).devices
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _tpu_devices(name: str) -> list:
    from jax.experimental import topologies

    # Otherwise libtpu asks the cloud's metadata server, for minutes, which machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except Exception as error:  # libtpu's absence, a wrong name: each has its own kind
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot compile for the TPU slice {name!r} ({reason}); it needs libtpu, which "
            "pip install '.[tpu]' brings, and a name such as v5e:2x4"
        ) from None


def plan_step(config, rows: int, devices, photos: int = 1) -> Setup:
    """The training step of `config` for `rows` photos on each of some devices.

    Args:
        config: of a run; its batch size is not used.
        rows: photos of one device in a step.
        devices: JAX devices, real ones or those of `topology_devices`.
        photos: of the run, for which a memory bank is made.
    """
    mesh = sharding.make_mesh(devices)
    config = config.copy_and_resolve_references()
    config.data.batch_size = rows * mesh.size
    if "classes" in config.eval:
        config.eval.classes = ()  # names, which only the photos know
    check_settings(config, mesh)
    return set_up(config, mesh, trained_on=photos)


def compile_step(config, rows: int, devices, photos: int = 1):
    """The step of `plan_step`, compiled for these devices, real ones or not."""
    lowered = plan_step(config, rows, devices, photos).lower_step(config.microbatches)
    if not is_gpu(devices):
        return lowered.compile()
    return lowered.compile(compiler.options(devices[0].platform) | _UNTRIED)


def count(compiled, rows: int) -> Counts:
    """What a step costs one device, by XLA's cost and memory analysis.

    With `microbatches` above 1, flops and bytes accessed are not those of the step: XLA counts the
    body of a loop once. Of a GPU that is not there XLA has no analysis of the work: `kernels.count`
    counts it, the flops of convolutions and matrix products alone, taps on padding among them.
    """
    work, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if isinstance(work, list):
        work = work[0]
    if work is None:
        counted = kernels.count(compiled.as_text())
        work = {
            "flops": sum(kernel.flops for kernel in counted),
            "bytes accessed": sum(kernel.moved for kernel in counted),
        }
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Counts(
        rows=rows,
        flops=work["flops"],
        bytes_accessed=work["bytes accessed"],
        memory=held + memory.temp_size_in_bytes,
    )
