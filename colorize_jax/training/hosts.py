"""Several processes of one run: starting them together, and what they agree upon."""

import collections
from collections.abc import Callable
import contextlib
import re
import sys

import jax
from jax.experimental import multihost_utils
import numpy as np

from colorize_jax.errors import ColorizeError, ConfigError, DataError, HostLostError
from colorize_jax.training import memory, sharding

MODES = ("auto", "off", "explicit")
JOINING_SECONDS = 600  # some may still wait for their machine
_LAG = 2  # calls that an answer comes later, so that nobody waits for it
# How JAX's errors name the network; any other error would come again after a restart.
_LOST = re.compile(r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|[Cc]onnection|Gloo|NCCL|heartbeat")


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
            f"the other processes of the run were not found in {JOINING_SECONDS} seconds: {error}"
        ) from error
    print(describe(), file=sys.stderr, flush=True)


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


def first_says(value: int) -> int:
    """What the first host says, on all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def any_says(flag: bool) -> bool:
    """Whether it holds on any host, on all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def first_does(function: Callable[[], None]) -> None:
    """Calls it on the first host alone; if it fails there, the others raise too."""
    error = None
    if jax.process_index() == 0:
        try:
            function()
        except (ColorizeError, OSError) as caught:
            error = caught
    if first_says(error is not None):
        raise error or ColorizeError("the first host could not go on; its message says why")


def check_same(digest: str, what: str) -> None:
    """DataError, on all hosts, unless they bring the same hexadecimal digest."""
    if jax.process_count() == 1:
        return
    number = np.frombuffer(bytes.fromhex(digest), np.uint8)
    if len(np.unique(multihost_utils.process_allgather(number), axis=0)) > 1:
        raise DataError(f"the hosts do not see the same {what}")


@contextlib.contextmanager
def loss_explained():
    """HostLostError in place of what JAX says when another process is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or memory.exhausted(error) or not _LOST.search(str(error)):
            raise
        raise HostLostError(
            "another process of the run is gone, or the network between: start all of them again "
            f"with the same command. JAX said: {str(error).splitlines()[0]}"
        ) from None


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
