"""How fast training steps are on this machine, and what share of its arithmetic they use."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import math
import resource
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from colorize_jax.bench import cost
from colorize_jax.data import pipeline
from colorize_jax.errors import ConfigError
from colorize_jax.training import hardware, memory, sharding
from colorize_jax.training.results import markdown_table
from colorize_jax.training.setup import Setup

_WORTH = 1.03  # a batch twice as large must be so much faster for the sweep to go on


@dataclasses.dataclass(frozen=True)
class Speed:
    """One batch size in one dtype.

    Attributes:
        dtype: of the computation.
        rows: photos of one device in a step.
        devices: their number.
        compile_seconds: of the step.
        step_seconds: median of one step on photos that lie on the devices.
        flops: of one device in a step: all multiply-adds of the model, none computed twice.
        counted: bytes that the compiled step needs on a device.
        seen: most bytes that this process has held so far, of a device or, on CPU, in all.
        fed: photos a second through the real pipeline, or None.
    """

    dtype: str
    rows: int
    devices: int
    compile_seconds: float
    step_seconds: float
    flops: float
    counted: int
    seen: int
    fed: float | None = None

    @property
    def photos(self) -> float:
        """A second, on all devices."""
        return self.rows * self.devices / self.step_seconds


def sweep(
    config: ConfigDict,
    rows: Iterable[int],
    *,
    seconds: float,
    say: Callable[[str], None] = print,
) -> Iterator[Speed]:
    """The speed at every batch size until memory ends or a larger batch is no longer worth it.

    Args:
        config: of the recipe; its batch size is not used.
        rows: photos a device, growing.
        seconds: of measuring at each.
        say: is told about each.

    Raises:
        The first batch's want of memory; later ones end the sweep.
    """
    before = 0.0
    for size in rows:
        try:
            speed = measure(config, size, seconds=seconds)
        except jax.errors.JaxRuntimeError as error:
            if not before or not memory.exhausted(error):
                raise
            say(f"{size} photos a device: out of memory")
            return
        say(f"{size} photos a device: {speed.photos:.4g} photos/s")
        yield speed
        if speed.photos < before * _WORTH:
            return
        before = speed.photos


def fastest(speeds: Iterable[Speed]) -> Speed:
    """The one of most photos a second."""
    return max(speeds, key=lambda speed: speed.photos)


class Loaded:
    """A compiled step with its state and a batch of random pixels on the devices.

    Attributes:
        plan: what never changes.
        compiled: the step.
        compile_seconds: that it took.
    """

    def __init__(self, config: ConfigDict, rows: int):
        self.plan = cost.plan_step(config, rows, jax.devices())
        lowered = self.plan.lower_step(config.microbatches or 1)
        began = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        plan = self.plan
        self._batch = sharding.put_batch(noise(plan.batch_shapes), plan.mesh)
        self._state = sharding.laid_out(_any_state(plan), self.compiled)
        self._key = plan.key

    def step(self, batch: dict[str, jax.Array] | None = None) -> dict[str, jax.Array]:
        """One update, on random pixels if no batch is given; its metrics, not waited for."""
        batch = self._batch if batch is None else batch
        self._state, metrics = self.compiled(self._state, batch, self._key)
        return metrics

    @property
    def flops(self) -> float:
        """Of one device in a step, of the module as written: what the compiler computes twice does
        not count."""
        plan = self.plan
        return plan.config.data.batch_size / plan.mesh.size * _flops_of_a_photo(plan.config)


_COUNTED = 16  # photos of a step that is only counted; the update is then a thousandth at most
_flops: dict[str, float] = {}  # by config: what was counted before


def _flops_of_a_photo(config: ConfigDict) -> float:
    """Counted by the CPU's client, since others count no module before it is compiled, and once:
    tracing a step again for every number of photos would take as long as measuring it."""
    config = config.copy_and_resolve_references()
    config.data.batch_size = _COUNTED
    if (key := str(config)) not in _flops:
        try:
            cpu = jax.local_devices(backend="cpu")[:1]
        except RuntimeError:
            raise ConfigError(
                "FLOPs are counted by JAX for the CPU: JAX_PLATFORMS must name it, too (cuda,cpu)"
            ) from None
        plan = cost.plan_step(config, _COUNTED, cpu)
        _flops[key] = as_written(plan) / _COUNTED
    return _flops[key]


def as_written(plan: Setup) -> float:
    """FLOPs of a step on all devices, without multiplications with padding.

    They are those for a TPU, where everything is a convolution that the network has as one. On CPUs
    and GPUs products of matrices take the place of some, and multiply the zeros of padding too.
    """
    lowered = plan.lower_step(plan.config.microbatches or 1, platform="tpu")
    return lowered.cost_analysis()["flops"]


def measure(config: ConfigDict, rows: int, *, seconds: float, photos=None) -> Speed:
    """Compiles the step for so many photos a device and runs it.

    Args:
        config: of the recipe.
        rows: photos of one device in a step.
        seconds: to measure for.
        photos: if given, the step is also run on batches of them.
    """
    loaded = Loaded(config, rows)
    plan = loaded.plan
    speed = Speed(
        dtype=plan.config.model.dtype,
        rows=rows,
        devices=plan.mesh.size,
        compile_seconds=loaded.compile_seconds,
        step_seconds=hardware.median_seconds(loaded.step, seconds),
        flops=loaded.flops,
        counted=memory.need(loaded.compiled),
        seen=_peak(),
    )
    if photos is None:
        return speed
    fed = _fed(plan, loaded.step, photos, speed.step_seconds, seconds)
    return dataclasses.replace(speed, fed=fed)


def noise(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """A batch of random pixels, all valid, of class 0."""
    rng = np.random.default_rng(0)
    batch = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    image = batch["image"]
    return batch | {
        "image": rng.integers(0, 256, image.shape, image.dtype),
        "valid": np.ones_like(batch["valid"]),
    }


def _any_state(plan: Setup):
    """A state of numbers from this host, since a program that draws the real ones would have to be
    compiled first: parameters that let signals through, zeros for all else."""
    rng = np.random.default_rng(0)

    def numbers(x: jax.ShapeDtypeStruct) -> np.ndarray:
        if x.ndim < 2:
            return np.full(x.shape, 0.5, x.dtype)
        inputs = math.prod(x.shape[:-1])
        return (rng.standard_normal(x.shape, np.float32) * inputs**-0.5).astype(x.dtype)

    state = plan.abstract_state()
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    return zeros.replace(params=jax.tree.map(numbers, state.params))


def _fed(plan: Setup, step: Callable, photos, step_seconds: float, seconds: float) -> float:
    """Photos a second if every batch is read, decoded, cropped and sent first."""
    settle = 3  # batches, while the pipeline fills
    count = settle + max(5, round(seconds / step_seconds))
    batches = pipeline.training_batches(photos, plan.config, start=0, stop=count)
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            batch.pop("bad", None)
            metrics = step(sharding.put_batch(batch, plan.mesh))
            if number + 1 == settle:
                jax.block_until_ready(metrics)
                began = time.perf_counter()
        jax.block_until_ready(metrics)
    return (count - settle) * plan.config.data.batch_size / (time.perf_counter() - began)


def _peak() -> int:
    """Most bytes held so far: of the first device, or on CPU of this process."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)


def report(config: ConfigDict, speeds: dict[str, list[Speed]], rates: dict[str, float]) -> str:
    """A Markdown table; the fastest batch size of each dtype is marked.

    Args:
        config: of the recipe.
        speeds: by dtype.
        rates: of matrix products, FLOP/s of one device, by dtype.
    """
    name, crop = config.model.name, config.data.crop
    rows = []
    for dtype, found in speeds.items():
        best = fastest(found)
        for speed in found:
            reached = speed.flops / speed.step_seconds
            fed = "-" if speed.fed is None else f"{speed.fed:,.4g} ({speed.fed / speed.photos:.0%})"
            rows.append([
                dtype, f"{speed.rows}{' (best)' if speed is best else ''}",
                f"{speed.compile_seconds:.1f}", f"{1000 * speed.step_seconds:,.1f}",
                f"{speed.photos:,.4g}", f"{reached / 1e12:,.3g}",
                f"{reached / rates[dtype]:.0%}", f"{speed.counted / memory.GIB:.2f}",
                f"{speed.seen / memory.GIB:.2f}", fed,
            ])  # fmt: skip
    header = (
        "dtype|photos a device|s to compile|ms a step|photos/s|TFLOP/s|of the matrix rate|"
        "GiB counted|GiB seen so far|photos/s from the source"
    )
    measured = ", ".join(f"{dtype} {rate / 1e12:,.3g} TFLOP/s" for dtype, rate in rates.items())
    return (
        f"**{name} at {crop}, {config.task.name}, on {hardware.describe()}, jax {jax.__version__}**"
        f"\n\n{markdown_table(header, rows)}\n\n"
        f"Products of large matrices on one device: {measured}."
    )
