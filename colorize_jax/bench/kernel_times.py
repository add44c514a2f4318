"""How long every kernel of a step takes on this device, by JAX's own profiler."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
import pathlib
import re
import tempfile
import time

import jax

from colorize_jax.bench.kernels import Kernel
from colorize_jax.training.results import markdown_table

_LONGEST = 60  # letters of a name in a table
# XLA calls the kernel of the instruction fusion.12 fusion_12.
_NUMBER = re.compile(r"_(\d+)$")
_TICK = 1e-6  # seconds that the profiler's clock may be wrong by


@dataclasses.dataclass(frozen=True)
class Timed:
    """A kernel, or several of one instruction, in the mean of some steps.

    Attributes:
        name: of the kernel that takes longest, as the device's library calls it.
        instruction: of the compiled program; "" where the profiler does not know it.
        calls: a step.
        seconds: a step, all calls together.
    """

    name: str
    instruction: str
    calls: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """Some steps.

    Attributes:
        kernels: the longest first.
        step_seconds: from the start to the end of one, while the profiler looks on.
        busy_seconds: of that the device was computing; what is left are gaps between kernels.
    """

    kernels: list[Timed]
    step_seconds: float
    busy_seconds: float


def record(step: Callable, steps: int = 5) -> Profile:
    """Profiles some calls of a step, after two to warm up.

    Args:
        step: starts one; gives something to wait for.
        steps: to take the mean of.
    """
    for _ in range(2):
        jax.block_until_ready(step())
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the calls of Python would be most of the file
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            for _ in range(steps):
                done = step()
            jax.block_until_ready(done)
            seconds = time.perf_counter() - began
        (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
        return condense(list(_events(path)), steps, seconds)


def _events(path: pathlib.Path) -> Iterator[tuple[str, str, float, float]]:
    """(name, instruction, start, seconds) of all that the first device, or the CPU, computed."""
    planes = {plane.name: plane for plane in jax.profiler.ProfileData.from_file(str(path)).planes}
    devices = sorted(
        name for name in planes if name.startswith("/device:") and ":CUSTOM" not in name
    )
    lines = list(planes[devices[0] if devices else "/host:CPU"].lines)
    # A GPU's kernels are on its streams, a TPU's operations on a line of that name; beside them
    # there may be lines with whole programs.
    for wanted in ("Stream", "XLA Ops") if devices else ():
        if some := [line for line in lines if line.name.startswith(wanted)]:
            lines = some
            break
    first = None
    for line in lines:
        events = []
        for event in line.events:
            instruction = str(dict(event.stats).get("hlo_op", ""))
            if instruction.startswith("command_buffer"):  # many kernels, launched as one graph
                instruction = _NUMBER.sub(r".\1", event.name)
            if (devices or instruction) and not event.name.startswith("end: "):
                first = event.start_ns if first is None else first
                start, seconds = (event.start_ns - first) / 1e9, event.duration_ns / 1e9
                events.append((event.name, instruction, start, seconds))
        events.sort(key=lambda event: event[2])
        for event, after in itertools.zip_longest(events, events[1:]):
            # A loop holds its body: what begins well within an event counts, not the event. On a
            # stream there are kernels alone, and one may begin while the one before it ends.
            kernel = line.name.startswith("Stream")
            if kernel or after is None or after[2] >= event[2] + event[3] - _TICK:
                yield event


def condense(
    events: Sequence[tuple[str, str, float, float]], steps: int, seconds: float
) -> Profile:
    """The kernels of some steps.

    Args:
        events: (name, instruction or "", start, seconds).
        steps: that they are of.
        seconds: that these took together.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    calls: dict[tuple[str, str], int] = {}
    for name, instruction, _, taken in events:
        key = (instruction, "") if instruction else ("", name)
        names = found.setdefault(key, {})
        names[name] = names.get(name, 0.0) + taken
        calls[key] = calls.get(key, 0) + 1
    kernels = [
        Timed(max(names, key=names.get), key[0], calls[key] / steps, sum(names.values()) / steps)
        for key, names in found.items()
    ]
    busy, end = 0.0, float("-inf")  # streams overlap
    for _, _, start, taken in sorted(events, key=lambda event: event[2]):
        busy += max(0.0, start + taken - max(start, end))
        end = max(end, start + taken)
    kernels.sort(key=lambda kernel: -kernel.seconds)
    return Profile(kernels, seconds / steps, busy / steps)


def table(profile: Profile, counted: Sequence[Kernel], most: int = 20) -> str:
    """The most expensive kernels, and all by kind, in Markdown.

    Args:
        profile: of the step.
        counted: what its kernels move, by `kernels.count`.
        most: kernels to show.
    """
    known = {kernel.name: kernel for kernel in counted}
    total = sum(kernel.seconds for kernel in profile.kernels)
    lines = []
    for timed in profile.kernels[:most]:
        kernel = known.get(timed.instruction)
        lines.append([
            _short(timed.name),
            _short(kernel.source.rpartition("encoder/")[2] or kernel.name, True) if kernel else "",
            kernel.kind if kernel else "", f"{timed.calls:.3g}", f"{1e3 * timed.seconds:.3f}",
            f"{timed.seconds / total:.1%}",
            f"{kernel.moved / timed.seconds / 1e12:.3g}" if kernel else "",
            f"{kernel.flops / timed.seconds / 1e12:.3g}" if kernel and kernel.flops else "",
        ])  # fmt: skip
    header = "kernel | for | kind | calls | ms a step | share | TB/s by the count | TFLOP/s"
    kinds: dict[str, list[float]] = {}
    for timed in profile.kernels:
        kernel = known.get(timed.instruction)
        kind = kinds.setdefault(kernel.kind if kernel else "unknown to the program", [0, 0, 0])
        kind[0] += timed.calls
        kind[1] += timed.seconds
        kind[2] += kernel.moved if kernel else 0
    rows = [
        [kind, f"{calls:.4g}", f"{moved / 1e9:.2f}", f"{1e3 * taken:.2f}", f"{taken / total:.1%}"]
        for kind, (calls, taken, moved) in sorted(kinds.items(), key=lambda item: -item[1][1])
    ]
    return "\n\n".join([
        f"{1e3 * profile.step_seconds:.2f} ms a step under the profiler, of which the device "
        f"computed {1e3 * profile.busy_seconds:.2f} ms.",
        markdown_table(header, lines),
        markdown_table("kind | kernels a step | GB counted | ms a step | share", rows),
    ])  # fmt: skip


def _short(text: str, end: bool = False) -> str:
    """A cell of a table: not too long, without bars."""
    text = " ".join(text.replace("|", "/").split())
    if len(text) > _LONGEST:
        text = f"...{text[3 - _LONGEST :]}" if end else f"{text[: _LONGEST - 3]}..."
    return f"`{text}`" if text else ""
