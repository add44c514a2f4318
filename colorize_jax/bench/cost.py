"""What a training step costs: counted by compiling it."""

import contextlib
import dataclasses
import io
import os

import jax
from ml_collections import ConfigDict
import optax

from colorize_jax.config import check_numbers
from colorize_jax.errors import ConfigError
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Task, batch_shapes
from colorize_jax.training import optimizers, schedules, sharding
from colorize_jax.training.step import TrainState, abstract_state


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


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training step that is not lowered yet.

    Attributes:
        config: with the batch size of all devices.
        task, optimizer, mesh: what to learn, how and where.
        batch, state: their shapes.
    """

    config: ConfigDict
    task: Task
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    batch: dict[str, jax.ShapeDtypeStruct]
    state: TrainState

    def lower(self) -> jax.stages.Lowered:
        """The step, lowered for the devices of the mesh."""
        key = jax.eval_shape(lambda: jax.random.key(self.config.seed))
        step = sharding.jit_step(self.task, self.optimizer, self.mesh, self.config.microbatches)
        return step.lower(self.state, self.batch, key)


def plan_step(config, rows: int, devices) -> Plan:
    """The training step of `config` for `rows` photos on each of some devices.

    Args:
        config: of a run; its batch size is not used.
        rows: photos of one device in a step.
        devices: JAX devices, real ones or those of `topology_devices`.
    """
    mesh = sharding.make_mesh(devices)
    config = config.copy_and_resolve_references()
    config.data.batch_size = size = rows * mesh.size
    if "classes" in config.eval:
        config.eval.classes = ()  # names, which only the photos know
    check_numbers(config)
    sharding.check_batch(size, config.microbatches, mesh)
    task = make_task(config)
    # The number of photos moves the drops of the rate and nothing that is counted here.
    schedule = schedules.make_schedule(config, 1_000_000)
    optimizer = optimizers.make_optimizer(config, schedule, task.frozen)
    batch = batch_shapes(task, config)
    return Plan(config, task, optimizer, mesh, batch, abstract_state(task, optimizer, batch))


def count_step(config, rows: int, devices) -> Counts:
    """Compiles the step (`plan_step`) and reads XLA's cost and memory analysis of one device.

    With `microbatches` above 1, flops and bytes accessed are not those of the step: XLA counts the
    body of a loop once.
    """
    compiled = plan_step(config, rows, devices).lower().compile()
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
