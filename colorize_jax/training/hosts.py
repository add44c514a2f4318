"""Starts the processes of one run together, and lets them agree, compare and fail together."""

import collections
from collections.abc import Callable, Mapping, Sequence
import contextlib
import faulthandler
import json
import pathlib
import re
import secrets
import sys
import time
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from colorize_jax import json_files
from colorize_jax.errors import ColorizeError, ConfigError, HostLostError, exit_code
from colorize_jax.files import atomic_write_text
from colorize_jax.training import memory, sharding

Result = TypeVar("Result")
MODES = ("auto", "off", "explicit")
JOINING_SECONDS = 600  # Some processes may still wait for their machine.
WORD_SECONDS = 3.0  # After a loss, a host waits this long for the message of the host that failed.
SEEING_SECONDS = 15.0  # A file in a shared folder must be visible on all hosts after this time.
_SHOWN = 12  # the most differences between hosts in a message
_LAG = 2  # An answer comes this many calls later, so that no host waits for it.
# Words in JAX's errors about the network. Any other error would occur again after a restart.
_LOST = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|[Cc]onnection|Gloo|gloo|NCCL|heartbeat|[Bb]arrier"
)


def start(settings) -> None:
    """Joins the run's other processes. Call it before anything else asks JAX for devices.

    Args:
        settings: `config.distributed`. With mode "auto" JAX looks for a cluster that it knows
            (SLURM, Cloud TPU, Open MPI, Kubernetes); without one the process is alone.

    Raises:
        ConfigError: the settings contradict each other.
        HostLostError: the others were not found.
    """
    mode, coordinator = settings.mode, settings.coordinator
    if mode not in MODES:
        raise ConfigError(f"config.distributed.mode={mode!r}; known: {', '.join(MODES)}")
    if mode != "explicit" and (coordinator or settings.count or settings.id != -1):
        raise ConfigError(
            "config.distributed.coordinator, count and id are for "
            f"config.distributed.mode=explicit; it is {mode}"
        )
    if mode == "off":
        return
    # JAX's service would take SIGTERM away from `signals`, and it ignores SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX aborts if another host is gone. The dump of all threads, which `command_line` enables,
    # does not help then, and it has crashed itself: exit code 139 in place of 134.
    faulthandler.disable()
    try:
        if mode == "explicit":
            if ":" not in coordinator or not 0 <= settings.id < settings.count:
                raise ConfigError(
                    "config.distributed.mode=explicit needs coordinator=HOST:PORT of process 0, "
                    "count of the processes, and id from 0 to count - 1; they are "
                    f"{coordinator!r}, {settings.count} and {settings.id}"
                )
            jax.distributed.initialize(
                coordinator, settings.count, settings.id, initialization_timeout=JOINING_SECONDS
            )
        else:
            jax.distributed.initialize(initialization_timeout=JOINING_SECONDS)
    except ValueError as error:
        if mode == "auto" and "coordinator_address" in str(error):  # JAX found no cluster.
            return
        raise ConfigError(f"jax.distributed could not be started: {error}") from error
    except jax.errors.JaxRuntimeError as error:
        raise HostLostError(
            f"the other processes of the run were not found in {JOINING_SECONDS} seconds: are all "
            "started, with the same coordinator and count, and each with an id of its own? JAX "
            f"said: {error}"
        ) from error
    with loss_explained(joining=True):  # Here all processes exchange their devices.
        print(describe(), file=sys.stderr, flush=True)
    counts = collections.Counter(device.process_index for device in jax.devices())
    check_devices([counts[host] for host in range(jax.process_count())])


def check_devices(counts: Sequence[int]) -> None:
    """ConfigError if the hosts' numbers of devices (in the order of the hosts) differ."""
    if different := differences([{"devices": count} for count in counts]):
        raise ConfigError(f"every host needs the same number of devices: {different[0].strip()}")


def describe() -> str:
    """One line that names this process: its number and its devices."""
    here, everywhere = jax.local_devices(), jax.device_count()
    return (
        f"host {jax.process_index()} of {jax.process_count()}: "
        f"{len(here)} of {everywhere} x {here[0].device_kind}"
    )


def others_wait() -> bool:
    """Whether a process that fails must end at once.

    With several hosts an orderly exit would wait for the others, and they for it. If it ends at
    once, JAX's coordinator notices and ends the others too.
    """
    return jax.distributed.is_initialized() and jax.process_count() > 1


def gather(text: str) -> list[str]:
    """The texts of all hosts, in their order; every host gets the same list."""
    if jax.process_count() == 1:
        return [text]
    said = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(said)))
    # Padded to a power of two, texts of similar length share one compiled program.
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)
    padded[: len(said)] = said
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def first_says(value: int) -> int:
    """The first host's value, on all hosts."""
    return int(gather(str(value))[0])  # Sent as text, because JAX has no 64-bit integers here.


def any_says(flag: bool) -> bool:
    """Whether the flag is set on any host; every host gets the same answer."""
    return any(gather("1" if flag else ""))


def together(function: Callable[[], Result]) -> Result:
    """Calls `function` on this host and returns its result; if it fails on one host, all fail.

    `function` must not wait for the other hosts.

    Raises:
        ColorizeError: it has the message and the exit code of the host that failed. A launcher
            then does not take that host for a lost one and restart a run that would fail again.
    """
    result = error = None
    try:
        result = function()
    except Exception as caught:
        error = caught
    said = gather("" if error is None else json.dumps([exit_code(error), _sentence(error)]))
    if error is not None:
        raise error
    for host, answer in enumerate(said):
        if answer:
            raise _failure(host, *json.loads(answer))
    return result


class _OtherFailed(ColorizeError):
    """Another host has failed and said why, which explains any loss of it."""


def _failure(host: int, code: int, sentence: str) -> ColorizeError:
    failure = _OtherFailed(f"host {host} cannot go on: {sentence}")
    failure.exit_code = code
    return failure


@contextlib.contextmanager
def failing_together(workdir: pathlib.Path):
    """If one host fails, all hosts end with its message and its exit code.

    Otherwise the others would take it for a lost host, and launchers would restart the run again
    and again. The host that fails writes its message into the workdir, and the others look for it
    there. `check_shared` has removed messages of earlier starts.

    Args:
        workdir: the folder that all hosts share.
    """
    try:
        yield
    except HostLostError:
        if word := _last_word(workdir):
            raise _failure(*word) from None
        raise
    except Exception as error:
        if jax.process_count() > 1 and exit_code(error) != HostLostError.exit_code:
            with contextlib.suppress(OSError):
                text = json.dumps([exit_code(error), _sentence(error)])
                atomic_write_text(_word(workdir, jax.process_index()), text)
        raise


def _word(workdir: pathlib.Path, host: int) -> pathlib.Path:
    return workdir / f".host_{host}_failed"


def _last_word(workdir: pathlib.Path) -> tuple[int, int, str] | None:
    """(number, exit code, message) of a host that has failed; None if there is none."""
    last = time.monotonic() + WORD_SECONDS
    while time.monotonic() < last:
        for host in range(jax.process_count()):
            with contextlib.suppress(OSError, ValueError):
                word = _word(workdir, host).read_bytes()
                code, sentence = json_files.parse(word, [int, str])
                return host, code, sentence
        time.sleep(0.1)
    return None


def _sentence(error: Exception) -> str:
    known = isinstance(error, (ColorizeError, OSError))
    return str(error) if known else f"{type(error).__name__}: {error}"


def first_does(function: Callable[[], None]) -> None:
    """Calls the function only on the first host; if it fails there, the others raise too."""
    together(function if jax.process_index() == 0 else lambda: None)


def differences(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for every field that differs between hosts, with the values and their hosts.

    Args:
        records: {field: value} of every host, in their order. A value that is None or missing is
            unknown to that host and equals any other.
    """
    lines = []
    for field in dict.fromkeys(field for record in records for field in record):
        owners: dict[str, list[int]] = {}
        for host, record in enumerate(records):
            if (value := record.get(field)) is not None:
                owners.setdefault(repr(value), []).append(host)
        if len(owners) > 1:
            shown = "; ".join(f"{value} on {_hosts(those)}" for value, those in owners.items())
            lines.append(f"  {field}: {shown}")
    return lines


def _hosts(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"host {numbers[0]}"
    if len(numbers) > 4:
        return f"hosts {numbers[0]}, {numbers[1]} and {len(numbers) - 2} more"
    return f"hosts {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def check_same(record: Mapping[str, Any]) -> None:
    """ConfigError, on all hosts, if their records differ; see `differences`.

    Args:
        record: {name in the message: value}, with values that JSON can hold.
    """
    lines = differences([json.loads(text) for text in gather(json.dumps(record))])
    if lines:
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ConfigError(
            "the hosts are not set up for the same run. Start all of them with the same command, "
            "on the same photos and files:\n" + "\n".join([*lines[:_SHOWN], *more])
        )


def check_shared(folder: pathlib.Path) -> None:
    """ConfigError, on all hosts, if a file that one host writes in the folder is not seen by all.

    Args:
        folder: this host's path of the folder, which is made if absent. Other hosts may have other
            paths.
    """
    if jax.process_count() == 1:
        return
    token = gather(secrets.token_hex(8))[0]
    absent = not folder.exists()
    files = [folder / f".host_{host}_{token}" for host in range(jax.process_count())]
    own = files[jax.process_index()]

    def write():
        folder.mkdir(parents=True, exist_ok=True)
        own.touch()
        _word(folder, jax.process_index()).unlink(missing_ok=True)  # A message of an earlier start.

    missing = None
    try:
        together(write)
        missing = [json.loads(text) for text in gather(json.dumps(_missing(files)))]
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
            if absent and (missing is None or any(missing)):
                folder.rmdir()  # It did not exist before; a folder with content stays.
    if any(missing):
        folders = gather(str(folder))
        blind = next(host for host, unseen in enumerate(missing) if unseen)
        writer = missing[blind][0]
        raise ConfigError(
            "--workdir must be one folder that all hosts share, as on NFS: what host "
            f"{writer} writes in its {folders[writer]} is not in the {folders[blind]} of "
            f"host {blind}"
        )


def _missing(files: Sequence[pathlib.Path]) -> list[int]:
    """The numbers of the files that do not appear in time."""
    last = time.monotonic() + SEEING_SECONDS
    while True:
        absent = [number for number, file in enumerate(files) if not file.exists()]
        if not absent or time.monotonic() > last:
            return absent
        time.sleep(0.1)


@contextlib.contextmanager
def loss_explained(joining: bool = False):
    """Replaces errors that mean the loss of another process by a HostLostError.

    They come in many kinds: a collective raises a JaxRuntimeError, reading an array whose
    computation failed raises a ValueError, and a save raises an error of Orbax.

    Args:
        joining: whether JAX does not know the number of processes yet.
    """
    try:
        yield
    except Exception as error:
        said = None if not joining and jax.process_count() == 1 else _loss(error)
        if isinstance(error, (HostLostError, _OtherFailed)) or said is None:
            raise
        raise HostLostError(
            "another process of the run is gone, or the network between: start all of them again "
            f"with the same command. JAX said: {said.splitlines()[0]}"
        ) from None


def _loss(error: BaseException) -> str | None:
    """The text of the error, or of a cause of it, that reports a lost process; None without one.

    For example, a CheckpointError may be caused by a lost process.
    """
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        error = waiting.pop(0)
        if error is not None and error not in chain:
            chain.append(error)
            waiting += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
    if any(map(memory.exhausted, chain)):
        return None
    for error in chain:
        # Our own messages, and errors of storage (which have a number), may contain the same words.
        other = isinstance(error, ColorizeError) or getattr(error, "errno", None) is not None
        if not other and _LOST.search(str(error)):
            return str(error)
    return None


class Agreement:
    """Tells all hosts at the same call whether any host has raised a flag.

    With several hosts the answer is about the flags of `_LAG` calls ago. The devices have reduced
    them by then, so that no host waits. Every host must call it equally often.

    Attributes:
        lag: how many calls later an answer comes; 0 for a single process.
    """

    def __init__(self, mesh):
        self.lag = _LAG if jax.process_count() > 1 else 0
        self._mesh = mesh
        self._pending: collections.deque[jax.Array] = collections.deque()
        self._any = jax.jit(lambda wishes: wishes.any(0), out_shardings=sharding.replicated(mesh))

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Takes the flags of this host; returns for each whether it is set on any host."""
        if not self.lag:
            return wishes
        rows = {"wishes": np.tile(np.array(wishes), (jax.local_device_count(), 1))}
        self._pending.append(self._any(sharding.put_batch(rows, self._mesh)["wishes"]))
        if len(self._pending) <= self.lag:
            return (False,) * len(wishes)
        return tuple(np.asarray(self._pending.popleft()).tolist())
