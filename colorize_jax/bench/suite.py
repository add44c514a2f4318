"""All that is to be known of the speed on a device, as far as the minutes reach: `bench suite`."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import fnmatch
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import tempfile
import time
from typing import Any

from colorize_jax import json_files
from colorize_jax.bench.suite_rows import ROWS, Order, photos_a_second, work
from colorize_jax.errors import ConfigError
from colorize_jax.files import atomic_write_text
from colorize_jax.training.results import markdown_table

DONE, FAILED, CUT = "done", "failed", "cut off"
_JSON, _PAGE = "suite.json", "suite.md"
_FORM = {
    "hardware": str, "jax": str, "rows": {str: {"state": str, "seconds": float, "found": object}},
}  # fmt: skip
# Beyond its share a row may take this part of what the rows behind it have, to end in order.
_GRACE = 0.25
_START = 120.0  # seconds that a process may take until its device answers
_LEAST = 2.0  # seconds that are worth beginning a row


@dataclasses.dataclass
class Suite:
    """What was measured so far.

    Attributes:
        folder: of the page and the JSON.
        say: is told about every row.
        hardware, jax: what the rows were measured on.
        rows: {name: {"state", "why", "seconds", "found"}}.
    """

    folder: pathlib.Path
    say: Callable[[str], None] = print
    hardware: str = ""
    jax: str = ""
    rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def read(self) -> None:
        """Takes up what an earlier call has left in the folder; ConfigError if it is damaged."""
        with contextlib.suppress(FileNotFoundError):
            before = json_files.read(
                self.folder / _JSON, _FORM, ConfigError, "delete it, or give another folder"
            )
            self.hardware, self.jax, self.rows = before["hardware"], before["jax"], before["rows"]

    def done(self) -> set[str]:
        """Names of the rows that need not be measured again."""
        return {name for name, row in self.rows.items() if row["state"] == DONE}

    def found(self) -> dict[str, Any]:
        """Results by row."""
        return {name: row["found"] for name, row in self.rows.items() if row["found"]}

    def write(self) -> None:
        """The page and the JSON, each whole or not at all."""
        whole = {"hardware": self.hardware, "jax": self.jax, "rows": self.rows}
        atomic_write_text(self.folder / _JSON, json.dumps(whole, indent=1))
        atomic_write_text(self.folder / _PAGE, page(self))


def run(
    folder: pathlib.Path,
    minutes: float,
    *,
    only: Sequence[str] = (),
    source: str = "",
    dry: bool = False,
    say: Callable[[str], None] = print,
) -> Suite:
    """Measures row by row until all are done or the minutes are up.

    Every row has its share of the time that is left, and what one does not use is for those behind
    it. Rows run in another process: one that crashes or does not end is cut off, keeps what it has
    found, and the next begins in a new process. Page and JSON are written anew after every result.
    What is done in the folder already, on the same device, is not measured again.

    Args:
        folder: of the page and the JSON; made if it is not there.
        minutes: in all.
        only: names of rows, or patterns of them; (): all.
        source: photos for the pipeline; "": some are written.
        dry: tiny networks: tries the suite, and measures nothing.
        say: is told about every row.
    """
    until = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    suite = Suite(folder, say)
    suite.read()
    wanted = [n for n in ROWS if not only or any(fnmatch.fnmatchcase(n, p) for p in only)]
    if not wanted:
        raise ConfigError(f"--only: no such row; known: {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
        worker = None
        for number, name in enumerate(wanted):
            if name in suite.done():
                continue
            left = until - time.monotonic()
            if left < _LEAST:
                break
            if worker is not None and (ROWS[name].alone or worker.dead):
                worker = worker.close()
            if worker is None:
                worker = stack.enter_context(_Worker(cache, ROWS[name].alone, dry))
                device, why = worker.device(min(left, _START))
                if device is None:
                    say(f"the process that measures did not come up: {why}")
                    break
                if dry:
                    device = device | {"hardware": f"{device['hardware']} (a dry run)"}
                suite_of(suite, device)
                if name in suite.done():  # of another device they are not
                    continue
                left = until - time.monotonic()
            later = sum(ROWS[n].weight for n in wanted[number:] if n not in suite.done())
            share = left * ROWS[name].weight / later
            order = Order(share, suite.found(), source, dry)
            _measure(suite, worker, name, order, share + _GRACE * (left - share))
    suite.write()
    return suite


def suite_of(suite: Suite, device: Mapping[str, str]) -> None:
    """Forgets what was measured on another device."""
    if (suite.hardware, suite.jax) != (device["hardware"], device["jax"]):
        if suite.rows:
            suite.say(f"measured anew: the rows here are of {suite.hardware}, jax {suite.jax}")
        suite.hardware, suite.jax, suite.rows = device["hardware"], device["jax"], {}


def _measure(suite: Suite, worker: "_Worker", name: str, order: Order, limit: float) -> None:
    """One row, which is cut off after so many seconds."""
    began = time.monotonic()
    before = suite.rows.pop(name, {}).get("found")  # stays until there is something new
    row = suite.rows[name] = {"state": CUT, "why": "", "seconds": 0.0, "found": before}
    suite.say(f"{name}: about {order.seconds:.0f} s")
    worker.ask(name, order)
    while True:
        kind, content = worker.answer(began + limit - time.monotonic())
        row["seconds"] = time.monotonic() - began
        if kind == "part":
            row["found"] = content
        elif kind == "done":
            row["state"] = DONE
        else:
            row["state"], row["why"] = {"failed": FAILED}.get(kind, CUT), content
        suite.write()
        if kind != "part":
            break
    suite.say(f"{name}: {row['state']} after {row['seconds']:.0f} s {row['why']}".rstrip())


class _Worker(contextlib.AbstractContextManager):
    """A process that measures rows.

    Args:
        cache: folder of compiled programs.
        shared: whether another library takes memory of the device beside JAX.
        dry: whether only the suite itself is tried.

    Attributes:
        dead: whether it has ended or was ended.
    """

    def __init__(self, cache: str, shared: bool, dry: bool):
        # JAX takes most of a GPU's memory at once, unless it is told not to.
        changes = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        if shared:
            changes = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if dry:  # nothing is measured: what takes the compiler long is left out
            changes["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, cache))
        with _environment(changes):
            self._process.start()
        theirs.close()
        self.dead = False

    def device(self, seconds: float) -> tuple[dict[str, str] | None, str]:
        """What it measures on; or None and why not, if it does not say so in time."""
        kind, content = self.answer(seconds)
        return (content, "") if kind == "device" else (None, content)

    def ask(self, name: str, order: Order) -> None:
        """Lets it begin with a row."""
        with contextlib.suppress(OSError):  # it has died, as `answer` will tell
            self._connection.send((name, order))

    def answer(self, seconds: float) -> tuple[str, Any]:
        """What it says next; ("cut", why) if it ends, or is ended because the seconds are over."""
        try:
            if self._connection.poll(max(seconds, 0)):
                return self._connection.recv()
            why = "its time was over"
        except (EOFError, OSError):
            self._process.join(5)
            why = f"its process ended with code {self._process.exitcode}"
        self.close()
        return "cut", why

    def close(self) -> None:
        """Ends it and all that it has started."""
        if self.dead:
            return
        self.dead = True
        self._connection.close()
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.join(10)

    def __exit__(self, *error):
        self.close()


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]):
    """Environment variables that are not set, as long as it is entered."""
    new = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name)


def page(suite: Suite) -> str:
    """All rows in Markdown."""
    rates = suite.found().get("device", {}).get("matrix_rates", {})
    parts = [
        f"# Speed on {suite.hardware}",
        f"`python -m colorize_jax.bench suite`, jax {suite.jax}, Python "
        f"{platform.python_version()}, {datetime.date.today().isoformat()}.",
    ]
    for name in ROWS:
        if name not in suite.rows:
            continue
        row = suite.rows[name]
        state = f"{row['state']} after {row['seconds']:.0f} s"
        if row.get("why"):
            state += f": {row['why']}"
        parts += [f"## {ROWS[name].title}", f"`{name}`: {state}."]
        if row["found"]:
            parts.append(_shown(name, row["found"], rates))
    waiting = [f"`{name}`" for name in ROWS if name not in suite.rows]
    if waiting:
        parts.append(f"Not measured: {', '.join(waiting)}.")
    return "\n\n".join(parts) + "\n"


def _shown(name: str, found: Mapping[str, Any], rates: Mapping[str, float]) -> str:
    if name == "device":
        lines = [[f"products of large {d} matrices", f"{r / 1e12:.4g} TFLOP/s"] for d, r in
                 found["matrix_rates"].items()]  # fmt: skip
        if found["copy_rate"]:
            lines.append(["a copy, bytes read and written", f"{found['copy_rate'] / 1e9:.4g} GB/s"])
        return markdown_table("what|rate", lines)
    if name == "profile":
        return f"{found['dtype']}, {found['rows']} photos a device.\n\n{found['table']}"
    if name == "pipeline":
        by = f"{found['workers']} processes" if found["workers"] else f"{found['threads']} threads"
        lines = [
            f"The pipeline alone gives {rate:,.4g} photos/s of {side} pixels, by {by} on "
            f"{found['cores']} cores."
            for side, rate in found["host"].items()
        ]
        if found["fed"]:
            lines.append(
                f"With the step: {found['fed']:,.4g} photos/s at {found['crop']} pixels from "
                f"{found['source']}; on photos that lie on the device {found['synthetic']:,.4g}: "
                f"{found['fed'] / found['synthetic']:.0%}."
            )
        return " ".join(lines)
    if name.startswith("torch-"):
        names = dict.fromkeys(name for turn in found["turns"] for name in turn)
        lines = [
            [who, *(_per_second(found["rows"], turn.get(who)) for turn in found["turns"]),
             f"{turn[who] / turn['ours']:.2f}" if who in turn else "-"]
            for who in names
            for turn in [next(t for t in reversed(found["turns"]) if who in t)]
        ]  # fmt: skip
        turns = "|".join(f"photos/s, run {i + 1}" for i in range(len(found["turns"])))
        table = markdown_table(f"step|{turns}|its time over ours", lines)
        return f"{found['dtype']}, {found['rows']} photos a step.\n\n{table}"
    return _speeds(found, rates)


def _per_second(rows: int, seconds: float | None) -> str:
    return f"{rows / seconds:,.4g}" if seconds else "-"


def _speeds(found: Mapping[str, Any], rates: Mapping[str, float]) -> str:
    best = max(found["speeds"], key=photos_a_second) if found["speeds"] else None
    lines = []
    for speed in found["speeds"]:
        reached, rate = speed["flops"] / speed["step_seconds"], rates.get(speed["dtype"])
        lines.append([
            f"{speed['rows']}{' (best)' if speed is best else ''}",
            f"{speed['compile_seconds']:.1f}", f"{1e3 * speed['step_seconds']:,.2f}",
            f"{photos_a_second(speed):,.4g}", f"{reached / 1e12:,.3g}",
            f"{reached / rate:.0%}" if rate else "-",
            f"{speed['counted'] / 2**30:.2f}", f"{speed['seen'] / 2**30:.2f}",
        ])  # fmt: skip
    header = (
        "photos a device|s to compile|ms a step|photos/s|TFLOP/s|of the matrix rate|GiB counted|"
        "GiB seen so far"
    )
    ended = f"\n\nEnded: {found['ended']}." if found["ended"] else ""
    return markdown_table(header, lines) + ended
