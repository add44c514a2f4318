"""What a training step costs: counted by compiling it; and a model of its time on other chips."""

import contextlib
import dataclasses
import io
import math
import os
import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from colorize_jax.config.settings import check_numbers
from colorize_jax.errors import ConfigError
from colorize_jax.tasks.task import Task, batch_shapes, make_task
from colorize_jax.training import optimizers, sharding
from colorize_jax.training.step import TrainState, abstract_state

DTYPES = ("float32", "bfloat16")


# What is counted.


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
        temporaries: the last of these alone.
        reduced: bytes of the operands of all all-reduces.
        reductions: number of all-reduces.
    """

    rows: float
    flops: float
    bytes_accessed: float
    memory: float
    temporaries: float
    reduced: float
    reductions: float


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
    config.eval.classes = ()  # names, which only the photos know
    check_numbers(config)
    sharding.check_batch(size, config.microbatches, mesh)
    task = make_task(config)
    # The number of photos moves the drops of the rate and nothing that is counted here.
    schedule = optimizers.make_schedule(config, 1_000_000)
    optimizer = optimizers.make_optimizer(config, schedule, task.frozen)
    batch = batch_shapes(task, config)
    return Plan(config, task, optimizer, mesh, batch, abstract_state(task, optimizer, batch))


def count_step(config, rows: int, devices) -> Counts:
    """Compiles the step (`plan_step`) and reads XLA's cost and memory analysis of one device.

    With `microbatches` above 1, flops, bytes accessed and reductions are not those of the step: XLA
    counts the body of a loop once. The memory is right.
    """
    compiled = plan_step(config, rows, devices).lower().compile()
    work, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if isinstance(work, list):
        work = work[0]
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    sizes = reductions(compiled.as_text())
    return Counts(
        rows=rows,
        flops=work["flops"],
        bytes_accessed=work["bytes accessed"],
        memory=held + memory.temp_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        reduced=sum(sizes),
        reductions=len(sizes),
    )


_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


def reductions(text: str) -> list[int]:
    """Bytes of every all-reduce in a compiled program's text, in the order of the text."""
    found = []
    # "%x = (f32[3,4]{1,0:T(8,128)}, f32[]) all-reduce(%y, ...": the types of the results.
    for match in re.finditer(r"= (.*?) all-reduce(?:-start)?\(", text):
        types = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        found.append(
            sum(
                _BYTES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n)
                for kind, shape in types
            )
        )
    return found


def interpolate(counts: list[Counts], rows: float) -> Counts:
    """Counts for another number of photos: on the line through the two nearest that were counted.

    Args:
        counts: at least one; one alone is taken to be proportional in flops, bytes and temporaries.
        rows: photos of one device.
    """
    counts = sorted(counts, key=lambda c: c.rows)
    if len(counts) == 1:
        low = dataclasses.replace(
            counts[0], rows=0, flops=0, bytes_accessed=0, temporaries=0,
            memory=counts[0].memory - counts[0].temporaries,
        )  # fmt: skip
        counts = [low, *counts]
    at = int(np.clip(np.searchsorted([c.rows for c in counts], rows), 1, len(counts) - 1))
    low, high = counts[at - 1], counts[at]
    share = (rows - low.rows) / (high.rows - low.rows)
    return Counts(*(
        a + share * (b - a)
        for a, b in zip(dataclasses.astuple(low), dataclasses.astuple(high), strict=True)
    ))  # fmt: skip


# What is known without compiling.


def tree_bytes(tree) -> int:
    """Bytes of all arrays (or shapes) of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def gradient_bytes(params, dtype: str) -> int:
    """Bytes of the gradients that devices exchange.

    Kernels are converted to the dtype of the computation inside the step, so XLA sums their
    gradients over the devices in that dtype, and converts back afterwards.
    """
    return sum(x.size for x in jax.tree.leaves(params)) * jnp.dtype(dtype).itemsize


def norm_bytes(batch_stats) -> int:
    """Bytes that batch norm over the global batch exchanges in one step.

    Two float32 sums per channel on the way forward, and two on the way back: twice the running
    averages. Scalars (the count of steps) are not exchanged.
    """
    return 2 * sum(x.size * 4 for x in jax.tree.leaves(batch_stats) if x.ndim)


def norm_reductions(batch_stats) -> int:
    """Number of those exchanges: one forward and one back for each pair of averages.

    Each waits for the layer before it, so they cannot be joined or hidden.
    """
    return sum(1 for x in jax.tree.leaves(batch_stats) if x.ndim)


def largest(params) -> tuple[str, int, float]:
    """Name, number of values and share of the parameters of the largest array."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    path, leaf = max(leaves, key=lambda item: item[1].size)
    name = "/".join(part.key for part in path)
    return name, leaf.size, leaf.size / sum(x.size for _, x in leaves)


# A model of time.


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published numbers of one accelerator; docs/scaling.md names the sources.

    Attributes:
        flops: {dtype: dense peak a second}; for float32 what JAX multiplies in by default.
        memory: bytes.
        bandwidth: of the memory, bytes a second.
        networks: ((most chips, levels), ...): the first that holds all chips is used. Levels go
            from the inside out, each (chips joined by it, bytes a second that a chip can send).
        latency: seconds of one hop; assumed, not published.
    """

    name: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    networks: tuple
    latency: float


_ANY = 1 << 30
CHIPS = (
    # Slices smaller than a pod have no links around, and a chip in the corner has half of them.
    # Between pods: 6.4 Tbit/s for 256 chips.
    Chip("TPU v5e", {"float32": 197e12, "bfloat16": 197e12}, 16e9, 819e9, (
        (255, ((_ANY, 100e9),)),
        (256, ((_ANY, 200e9),)),
        (_ANY, ((256, 200e9), (_ANY, 6.4e12 / 8 / 256))),
    ), 1e-6),
    # A cube of 64 chips closes all its rings; a smaller slice has half of the links at every chip.
    Chip("TPU v5p", {"float32": 459e12, "bfloat16": 459e12}, 95e9, 2765e9, (
        (63, ((_ANY, 300e9),)),
        (6144, ((_ANY, 600e9),)),
    ), 1e-6),
    # Nodes of eight on NVLink; between nodes 400 Gbit/s of InfiniBand for each GPU.
    Chip("H200", {"float32": 494e12, "bfloat16": 989e12}, 141e9, 4800e9, (
        (_ANY, ((8, 450e9), (_ANY, 50e9))),
    ), 2e-6),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What no data sheet tells: the reached shares of the published peaks."""

    compute: float = 0.5
    memory: float = 0.8
    links: float = 0.8


def ring_seconds(size: float, chip: Chip, chips: int, links: float = 1.0) -> tuple[float, float]:
    """Time of one all-reduce of `size` bytes: (of moving the bytes, of latency).

    A ring all-reduce makes every device send 2 (n - 1) / n of the bytes (Patarasuk and Yuan 2009).
    Over several levels: reduce-scatter inside, all-reduce of the n-th part outside, all-gather
    inside. The latency is that of a tree up and down, 2 log2 n hops, at every level.

    Args:
        size: bytes to sum, on every device.
        chip: whose links are used.
        chips: how many take part.
        links: reached share of the links' speed.
    """
    fitting = [levels for most, levels in chip.networks if chips <= most]
    if not fitting:
        raise ConfigError(f"{chips} chips of {chip.name} cannot be joined as far as is known here")
    moving = latency = 0.0
    for most, speed in fitting[0]:
        here = min(chips, most)
        if here > 1:
            moving += 2 * (here - 1) / here * size / (speed * links)
            latency += 2 * math.ceil(math.log2(here)) * chip.latency
        size, chips = size / here, -(-chips // here)
    return moving, latency


@dataclasses.dataclass(frozen=True)
class Step:
    """Modelled times of a step, in seconds.

    Attributes:
        compute: arithmetic alone.
        memory: the device's memory alone.
        gradients: the all-reduce of the gradients.
        norm: those of batch norm, mostly latency.
    """

    compute: float
    memory: float
    gradients: float
    norm: float

    @property
    def alone(self) -> float:
        """Of one device that waits for no other."""
        return max(self.compute, self.memory)

    @property
    def total(self) -> float:
        """With the gradients exchanged after they are computed."""
        return self.alone + self.norm + self.gradients

    @property
    def overlapped(self) -> float:
        """With the gradients exchanged while others are computed, wholly: the best case."""
        return max(self.alone + self.norm, self.gradients)


def step_seconds(
    counts: Counts,
    chip: Chip,
    chips: int,
    *,
    dtype: str,
    gradient: float,
    norm: float,
    exchanges: int,
    assumed: Assumptions,
) -> Step:
    """Modelled time of a step.

    Args:
        counts: of one device.
        chip, chips: which, and how many in plain data parallelism.
        dtype: of the computation.
        gradient, norm: bytes of `gradient_bytes` and `norm_bytes`.
        exchanges: of `norm_reductions`.
        assumed: reached shares of the peaks.
    """
    gradient_time = sum(ring_seconds(gradient, chip, chips, assumed.links))
    moving, latency = ring_seconds(norm, chip, chips, assumed.links)
    return Step(
        compute=counts.flops / (chip.flops[dtype] * assumed.compute),
        memory=counts.bytes_accessed / (chip.bandwidth * assumed.memory),
        gradients=gradient_time,
        norm=moving + latency * exchanges,
    )
