"""Our step against the same step in PyTorch, in turns in one process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import importlib.util
import os
import statistics
import time

import jax
from ml_collections import ConfigDict

from colorize_jax.bench import step_speed
from colorize_jax.config.recipe import load_config
from colorize_jax.errors import ConfigError
from colorize_jax.models import registry
from colorize_jax.training import hardware, memory
from colorize_jax.training.results import markdown_table

# The recipe and the settings of each network.
NETWORKS = {
    "small": ("vgg16_col", {
        "model.width": 0.25, "model.fc6_kernel": 3, "model.hidden": 256, "data.crop": 64,
        "data.scale": (64, 96), "task.points": 64, "task.edge_buffer": 8,
    }),
    "alexnet": ("alexnet_col", {"data.crop": 224, "data.scale": (224, 382)}),
    "resnet50": ("resnet152_col", {"model.name": "resnet50"}),
    "resnet152": ("resnet152_col", {}),
    "vgg16": ("vgg16_col", {}),
}  # fmt: skip
OURS = "ours"
# How PyTorch is run: arguments of `torch_step.Step`.
MODES = {
    "PyTorch": {},
    "PyTorch, channels_last": {"channels_last": True},
    "PyTorch, channels_last, compiled": {"channels_last": True, "compiled": True},
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A step of one of those compared, medians over the rounds.

    Attributes:
        seconds: on the clock.
        cpu_seconds: of all threads of this process.
    """

    seconds: float
    cpu_seconds: float


def settings(network: str, dtype: str = "float32", **changes) -> ConfigDict:
    """The config of one of `NETWORKS`; changes as in data__crop=64."""
    recipe, fixed = NETWORKS[network]
    all_ = fixed | {name.replace("__", "."): value for name, value in changes.items()}
    config = load_config(recipe, [f"{name}={value}" for name, value in all_.items()])
    config.model.dtype = dtype
    config.model.update(registry.by_depth(config.model))
    return config


def check_torch() -> None:
    """ConfigError unless PyTorch is there and computes on what JAX computes on."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("PyTorch is not installed: pip install torch")
    from colorize_jax.bench import torch_step

    here = "cpu" if jax.default_backend() == "cpu" else "cuda"
    if torch_step.device_name() != here:
        raise ConfigError(
            f"JAX computes on {jax.default_backend()} and PyTorch on {torch_step.device_name()}: "
            "there is nothing to compare"
        )


def compare(
    config: ConfigDict, rows: int, modes: Sequence[str], *, seconds: float, rounds: int
) -> dict[str, Measured]:
    """One network at one batch size: ours, and PyTorch in some modes.

    Args:
        config: from `settings`.
        rows: photos of a step.
        modes: of `MODES`.
        seconds: of one turn of each.
        rounds: turns of each.
    """
    from colorize_jax.bench import torch_step

    loaded = step_speed.Loaded(config, rows)

    def ours(steps: int) -> None:
        for _ in range(steps):
            metrics = loaded.step()
        jax.block_until_ready(metrics)

    half = config.model.dtype == "bfloat16"
    runs = {OURS: ours}
    for mode in modes:
        runs[mode] = torch_step.Step(config, rows, half=half, **MODES[mode]).run
    return in_turns(runs, seconds=seconds, rounds=rounds)


def in_turns(
    runs: Mapping[str, Callable[[int], None]], *, seconds: float, rounds: int
) -> dict[str, Measured]:
    """How long a step of each takes.

    Args:
        runs: {name: does so many steps and waits for them}.
        seconds: of one turn.
        rounds: so often each has its turn; the order is turned around every time.
    """
    steps, found = {}, {name: [] for name in runs}
    for name, run in runs.items():
        run(2)  # compiles, chooses algorithms
        began = time.perf_counter()
        run(1)
        steps[name] = max(1, round(seconds / (time.perf_counter() - began)))
    for turn in range(rounds):
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            runs[name](1)  # The first step after another's takes memory that the other gave back.
            began, cpu = time.perf_counter(), time.process_time()
            runs[name](steps[name])
            taken = time.perf_counter() - began, time.process_time() - cpu
            found[name].append([each / steps[name] for each in taken])
    return {
        name: Measured(*map(statistics.median, zip(*some, strict=True)))
        for name, some in found.items()
    }


def sweep(
    networks: Sequence[str],
    rows: Sequence[int],
    dtype: str,
    *,
    seconds: float,
    rounds: int,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[str, int, dict[str, Measured]]]:
    """(network, photos, what was measured) of all, one after the other."""  # fmt: skip
    gpu = jax.default_backend() != "cpu"
    modes = [mode for mode in MODES if gpu or "compiled" not in mode]
    for network in networks:
        config = settings(network, dtype)
        for size in rows:
            found = compare(config, size, modes, seconds=seconds, rounds=rounds)
            ratios = ", ".join(f"{ratio(found, mode):.2f} of {mode}'s speed" for mode in modes)
            say(f"{network}, {size} photos: {ratios}")
            yield network, size, found


def ratio(found: Mapping[str, Measured], mode: str) -> float:
    """Our speed over that of PyTorch in a mode: by CPU time on CPU, which other work disturbs less,
    by the clock elsewhere."""
    if jax.default_backend() == "cpu":
        return found[mode].cpu_seconds / found[OURS].cpu_seconds
    return found[mode].seconds / found[OURS].seconds


def report(
    measured: Sequence[tuple[str, int, Mapping[str, Measured]]], dtype: str, load: float
) -> str:
    """A Markdown table.

    Args:
        measured: from `sweep`.
        dtype: of the computation.
        load: of the machine before, `os.getloadavg()[0]`.
    """
    import torch

    modes = [mode for mode in (measured[0][2] if measured else {}) if mode != OURS]
    lines = []
    for network, size, found in measured:
        cells = [f"{1e3 * found[name].seconds:,.1f}" for name in (OURS, *modes)]
        ratios = [f"{ratio(found, mode):.2f}" for mode in modes]
        lines.append([network, size, *cells, *ratios])
    header = ["network", "photos a step", *(f"{name}, ms" for name in (OURS, *modes))]
    header += [f"our speed, of {mode}'s" for mode in modes]
    by = "CPU time" if jax.default_backend() == "cpu" else "the clock"
    return (
        f"**{dtype}, on {hardware.describe()}, jax {jax.__version__}, PyTorch "
        f"{torch.__version__}, in turns; ratios by {by}; load {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after**\n\n{markdown_table('|'.join(header), lines)}"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether JAX or PyTorch gave up for want of memory."""
    from colorize_jax.bench import torch_step

    return memory.exhausted(error) or torch_step.out_of_memory(error)
