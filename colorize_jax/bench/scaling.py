"""A model of how a training step scales over chips that are not there: docs/scaling.md."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.bench.cost import Counts
from colorize_jax.errors import ConfigError
from colorize_jax.training.results import markdown_table

GB = 1e9
MODELLED = (1, 8, 64, 512)  # chips
# What no data sheet tells: the reached shares of the published peaks.
COMPUTE, MEMORY, LINKS = 0.5, 0.8, 0.8


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What the devices of a run exchange in a step.

    Attributes:
        gradients: bytes. Kernels are converted to the dtype of the computation inside the step, so
            XLA sums their gradients over the devices in that dtype, and converts back afterwards.
        norm: bytes of batch norm over the global batch: two float32 sums per channel on the way
            forward, and two on the way back, which is twice the running averages.
        norm_reductions: how often: once forward and once back for each pair of averages. Each waits
            for the layer before it, so they cannot be joined or hidden.
    """

    gradients: int
    norm: int
    norm_reductions: int


def exchanged(params: Any, batch_stats: Any, dtype: str) -> Exchanged:
    """Of arrays, or their shapes, and the dtype of the computation."""
    # The counts of steps are scalars, and not exchanged.
    averages = [x for x in jax.tree.leaves(batch_stats) if x.ndim]
    return Exchanged(
        gradients=sum(x.size for x in jax.tree.leaves(params)) * jnp.dtype(dtype).itemsize,
        norm=2 * sum(x.size * 4 for x in averages),
        norm_reductions=len(averages),
    )


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


def ring_seconds(size: float, chip: Chip, chips: int) -> tuple[float, float]:
    """Time of one all-reduce of `size` bytes: (of moving the bytes, of latency).

    A ring all-reduce makes every device send 2 (n - 1) / n of the bytes (Patarasuk and Yuan 2009).
    Over several levels: reduce-scatter inside, all-reduce of the n-th part outside, all-gather
    inside. The latency is that of a tree up and down, 2 log2 n hops, at every level.

    Args:
        size: bytes to sum, on every device.
        chip: whose links are used.
        chips: how many take part.
    """
    fitting = [levels for most, levels in chip.networks if chips <= most]
    if not fitting:
        raise ConfigError(f"{chips} chips of {chip.name} cannot be joined as far as is known here")
    moving = latency = 0.0
    for most, speed in fitting[0]:
        here = min(chips, most)
        if here > 1:
            moving += 2 * (here - 1) / here * size / (speed * LINKS)
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


def step_seconds(counts: Counts, moved: Exchanged, chip: Chip, chips: int, dtype: str) -> Step:
    """Modelled time of a step of plain data parallelism over so many chips."""
    moving, latency = ring_seconds(moved.norm, chip, chips)
    return Step(
        compute=counts.flops / (chip.flops[dtype] * COMPUTE),
        memory=counts.bytes_accessed / (chip.bandwidth * MEMORY),
        gradients=sum(ring_seconds(moved.gradients, chip, chips)),
        norm=moving + latency * moved.norm_reductions,
    )


def photos_needed(low: tuple[int, Step], high: tuple[int, Step]) -> int:
    """Photos a chip from which on the efficiency is 90 %: one chip alone needs nine times as long
    as all exchanges take.

    Args:
        low, high: (photos a chip, its step) on the same chips. Arithmetic and memory are taken to
            lie on the lines through these two; the exchanges do not depend on the photos.
    """
    (few, small), (many, large) = low, high
    wanted = 9 * (small.norm + small.gradients)
    lines = ((small.compute, large.compute), (small.memory, large.memory))
    reached = min(few + (wanted - a) * (many - few) / (b - a) for a, b in lines)
    return max(1, math.ceil(reached))


def report(name: str, state: Any, counts: Sequence[Counts], dtype: str, devices: str) -> str:
    """What was counted, and the model of time, as two tables in Markdown.

    Args:
        name: of the network.
        state: of the run, as shapes.
        counts: of two numbers of photos.
        dtype: of the computation.
        devices: that the step was compiled for, in words.
    """
    moved = exchanged(state.params, state.collections["batch_stats"], dtype)
    return "\n\n".join([
        f"**{name} in {dtype}, compiled for {devices}**",
        _sizes(state.params, moved),
        _counted(counts),
        "**The model: the same photos on every chip**",
        _modelled(counts, moved, dtype),
    ])  # fmt: skip


def _sizes(params, moved: Exchanged) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    path, leaf = max(leaves, key=lambda item: item[1].size)
    count = sum(x.size for _, x in leaves)
    name = "/".join(part.key for part in path)
    return (
        f"{count:,} parameters, {leaf.size / count:.1%} of them in {name}. Exchanged in a step: "
        f"{moved.gradients / GB:.3f} GB of gradients, and {moved.norm / 1e6:.3f} MB of batch norm "
        f"in {moved.norm_reductions} reductions."
    )


def _counted(counts: Sequence[Counts]) -> str:
    rows = [
        [
            each.rows, f"{each.flops / each.rows / 1e9:.1f}", f"{each.bytes_accessed / GB:.1f}",
            f"{each.bytes_accessed / each.rows / GB:.2f}", f"{each.memory / GB:.2f}",
        ]
        for each in counts
    ]  # fmt: skip
    header = "photos a device | GFLOP a photo | GB accessed | GB a photo | GB of memory"
    return markdown_table(header, rows)


def _modelled(counts: Sequence[Counts], moved: Exchanged, dtype: str) -> str:
    rows = []
    for chip in CHIPS:
        for chips in MODELLED:
            steps = [step_seconds(each, moved, chip, chips, dtype) for each in counts]
            ends = [(each.rows, step) for each, step in zip(counts, steps, strict=True)]
            needed = photos_needed(*ends) if chips > 1 else "-"
            for each, step in ends:
                rows.append([
                    chip.name, chips, each,
                    *(f"{seconds * 1e3:.1f}" for seconds in
                      (step.compute, step.memory, step.gradients, step.norm, step.total)),
                    f"{each * chips / step.total:,.0f}", f"{step.alone / step.total:.0%}",
                    f"{step.alone / step.overlapped:.0%}", needed,
                ])  # fmt: skip
    header = (
        "chip | chips | photos a chip | ms arithmetic | ms memory | ms gradients | ms batch norm "
        "| ms step | photos/s | efficiency | if overlapped | photos a chip for 90 %"
    )
    return markdown_table(header, rows)
