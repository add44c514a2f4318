"""Several processes of one run: starting them together, and what they agree upon."""

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
JOINING_SECONDS = 600  # some may still wait for their machine
WORD_SECONDS = 3.0  # in which a host that fails tells the others
SEEING_SECONDS = 15.0  # in which a shared folder shows on one host what another one wrote
_SHOWN = 12  # differences between hosts that are spelled out
_LAG = 2  # calls that an answer comes later, so that nobody waits for it
# How JAX's errors name the network; any other error would come again after a restart.
_LOST = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|[Cc]onnection|Gloo|gloo|NCCL|heartbeat|[Bb]arrier"
)


def start(settings) -> None:
    """Joins the run's other processes, before anything else asks JAX for devices.

    Args:
        settings: `config.distributed`. With mode "auto" JAX looks for a cluster that it knows
            (SLURM, Cloud TPU, Open MPI, Kubernetes) and without one the process is alone.

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
    # It would take SIGTERM away from `signals`, and knows nothing of SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX aborts where another host is gone. The dump of all threads that `command_line` asks for
    # tells nothing about that, and has crashed itself: 139 in the place of 134.
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
        if mode == "auto" and "coordinator_address" in str(error):  # JAX found no cluster
            return
        raise ConfigError(f"jax.distributed could not be started: {error}") from error
    except jax.errors.JaxRuntimeError as error:
        raise HostLostError(
            f"the other processes of the run were not found in {JOINING_SECONDS} seconds: are all "
            "started, with the same coordinator and count, and each with an id of its own? JAX "
            f"said: {error}"
        ) from error
    with loss_explained(joining=True):  # each of them tells its devices to all
        print(describe(), file=sys.stderr, flush=True)
    counts = collections.Counter(device.process_index for device in jax.devices())
    check_devices([counts[host] for host in range(jax.process_count())])


def check_devices(counts: Sequence[int]) -> None:
    """ConfigError unless all hosts have the same number of devices, given in their order."""
    if different := differences([{"devices": count} for count in counts]):
        raise ConfigError(f"every host needs the same number of devices: {different[0].strip()}")


def describe() -> str:
    """Who this process is, in one line."""
    here, everywhere = jax.local_devices(), jax.device_count()
    return (
        f"host {jax.process_index()} of {jax.process_count()}: "
        f"{len(here)} of {everywhere} x {here[0].device_kind}"
    )


def others_wait() -> bool:
    """Whether a process that fails must end at once: leaving in good order would wait for the
    others, and they for it. So JAX's coordinator sees it gone, and ends them too."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def gather(text: str) -> list[str]:
    """What every host says, in their order; the same on all of them."""
    if jax.process_count() == 1:
        return [text]
    said = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(said)))
    # Texts of about the same length share one compiled program.
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)
    padded[: len(said)] = said
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def first_says(value: int) -> int:
    """What the first host says, on all of them."""
    return int(gather(str(value))[0])  # as text: JAX has no integers of 64 bits


def any_says(flag: bool) -> bool:
    """Whether it holds on any host, on all of them."""
    return any(gather("1" if flag else ""))


def together(function: Callable[[], Result]) -> Result:
    """What `function()` gives on this host; where it fails on one, it fails on all.

    It must not itself wait for the other hosts.

    Raises:
        ColorizeError: with the sentence and the exit code of the host where it failed, so that no
            launcher takes that host for a lost one and starts again what fails again.
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


def _failure(host: int, code: int, sentence: str) -> ColorizeError:
    failure = ColorizeError(f"host {host} cannot go on: {sentence}")
    failure.exit_code = code
    return failure


@contextlib.contextmanager
def failing_together(workdir: pathlib.Path):
    """Where one host fails, those that miss it then end with its sentence and its exit code.

    They would take it for a lost one, and launchers would start all of them again, and again. A
    host that fails leaves word in the workdir, whose last word `check_shared` has cleared away.

    Args:
        workdir: shared by all hosts.
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
    """Of a host that has failed: its number, exit code and sentence; None if all are silent."""
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
    """Calls it on the first host alone; if it fails there, the others raise too."""
    together(function if jax.process_index() == 0 else lambda: None)


def differences(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for every field that is not the same on all hosts, with who has what.

    Args:
        records: {field: value} of every host, in their order. None, or a field that is missing,
            stands for what that host does not know: it is the same as anything.
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
    """ConfigError, on all hosts, unless all bring the same; see `differences`.

    Args:
        record: {what it is called in the message: its value}, as JSON has it.
    """
    lines = differences([json.loads(text) for text in gather(json.dumps(record))])
    if lines:
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ConfigError(
            "the hosts are not set up for the same run. Start all of them with the same command, "
            "on the same photos and files:\n" + "\n".join([*lines[:_SHOWN], *more])
        )


def check_shared(folder: pathlib.Path) -> None:
    """ConfigError, on all hosts, unless what each of them writes in the folder is seen by all.

    Args:
        folder: of this host; it is made if it is absent. The paths of the others may be other ones.
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
        _word(folder, jax.process_index()).unlink(missing_ok=True)  # of an earlier start

    missing = None
    try:
        together(write)
        missing = [json.loads(text) for text in gather(json.dumps(_missing(files)))]
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
            if absent and (missing is None or any(missing)):
                folder.rmdir()  # as it was; never one with something in it
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
    """The numbers of those that do not turn up."""
    last = time.monotonic() + SEEING_SECONDS
    while True:
        absent = [number for number, file in enumerate(files) if not file.exists()]
        if not absent or time.monotonic() > last:
            return absent
        time.sleep(0.1)


@contextlib.contextmanager
def loss_explained(joining: bool = False):
    """HostLostError in place of whatever JAX and what rests on it say when another process is gone.

    It comes in many kinds: a collective fails as a JaxRuntimeError, an array whose computation has
    failed is a ValueError for whoever reads it, and in a save it is an error of Orbax.

    Args:
        joining: JAX does not know yet how many processes there are.
    """
    try:
        yield
    except Exception as error:
        said = None if not joining and jax.process_count() == 1 else _loss(error)
        if isinstance(error, HostLostError) or said is None:
            raise
        raise HostLostError(
            "another process of the run is gone, or the network between: start all of them again "
            f"with the same command. JAX said: {said.splitlines()[0]}"
        ) from None


def _loss(error: BaseException) -> str | None:
    """How an error, or one that it comes from, says that a process does not answer; None if none
    says so. What the user is told of a checkpoint, say, may come from that."""
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
        # Storage has its connections too, and then a number; our own sentences tell of much.
        other = isinstance(error, ColorizeError) or getattr(error, "errno", None) is not None
        if not other and _LOST.search(str(error)):
            return str(error)
    return None


class Agreement:
    """Whether any host wishes something: all get the same answer at the same call.

    With several hosts the answer is that to the wishes of `_LAG` calls ago, which the devices have
    reduced by then; nobody waits. Every host must ask equally often.

    Attributes:
        lag: calls that answers come later; 0 for a process that is alone.
    """

    def __init__(self, mesh):
        self.lag = _LAG if jax.process_count() > 1 else 0
        self._mesh = mesh
        self._pending: collections.deque[jax.Array] = collections.deque()
        self._any = jax.jit(lambda wishes: wishes.any(0), out_shardings=sharding.replicated(mesh))

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """The wishes of this host -> those that at least one has."""
        if not self.lag:
            return wishes
        rows = {"wishes": np.tile(np.array(wishes), (jax.local_device_count(), 1))}
        self._pending.append(self._any(sharding.put_batch(rows, self._mesh)["wishes"]))
        if len(self._pending) <= self.lag:
            return (False,) * len(wishes)
        return tuple(np.asarray(self._pending.popleft()).tolist())
