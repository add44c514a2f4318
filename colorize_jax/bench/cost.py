"""What a training step costs: counted by compiling it."""

import contextlib
import dataclasses
import io
import os

from colorize_jax.errors import ConfigError
from colorize_jax.training import sharding
from colorize_jax.training.setup import Setup, check_settings, set_up


@dataclasses.dataclass(frozen=True)
class Counts:
    """One step of one device, as compiled.

    Attributes:
        rows: photos of this device in a step.
        flops: of this device; a multiply-add is two, taps on padding are none.
        bytes_accessed: what all fused operations read and write, an upper bound of the traffic of
            the device's memory: what stays in fast memory between two operations is counted too.
        memory: bytes that must fit at once: state, batch, and the temporaries at their peak
            (activations, gradients).
    """

    rows: int
    flops: float
    bytes_accessed: float
    memory: int


def topology_devices(name: str) -> list:
    """Devices of a TPU slice that need not exist, to compile for: "v5e:2x4" is eight chips.

    ConfigError unless libtpu (`pip install '.[tpu]'`) is installed and knows the slice.
    """
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


def plan_step(config, rows: int, devices) -> Setup:
    """The training step of `config` for `rows` photos on each of some devices.

    Args:
        config: of a run; its batch size is not used.
        rows: photos of one device in a step.
        devices: JAX devices, real ones or those of `topology_devices`.
    """
    mesh = sharding.make_mesh(devices)
    config = config.copy_and_resolve_references()
    config.data.batch_size = rows * mesh.size
    if "classes" in config.eval:
        config.eval.classes = ()  # names, which only the photos know
    check_settings(config, mesh)
    return set_up(config, mesh)


def count_step(config, rows: int, devices) -> Counts:
    """Compiles the step (`plan_step`) and reads XLA's cost and memory analysis of one device.

    With `microbatches` above 1, flops and bytes accessed are not those of the step: XLA counts the
    body of a loop once.
    """
    compiled = plan_step(config, rows, devices).lower_step(config.microbatches).compile()
    work, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if isinstance(work, list):
        work = work[0]
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Counts(
        rows=rows,
        flops=work["flops"],
        bytes_accessed=work["bytes accessed"],
        memory=held + memory.temp_size_in_bytes,
    )
