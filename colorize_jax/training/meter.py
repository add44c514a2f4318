"""The metrics and the speed of the steps since the last log."""

import collections
import contextlib
import math
import time

import jax

from colorize_jax.errors import NonFiniteError

_RUN_AHEAD = 2  # steps that the host may be ahead of the devices


class Meter:
    """Leaves metrics on the devices until they are asked for, so that the host never waits for a
    step that it does not have to wait for.

    Args:
        batch_size: photos of a step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._values: list[dict[str, float]] = []
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._start, self._excluded = time.monotonic(), 0.0
        self._steps, self._waited = 0, 0.0

    def add(self, step: int, metrics: dict[str, jax.Array], *, waited: float) -> None:
        """A step was started, after waiting so many seconds for its data."""
        self._pending.append((step, metrics))
        self._steps += 1
        self._waited += waited
        if len(self._pending) > _RUN_AHEAD:
            jax.block_until_ready(self._pending[-1 - _RUN_AHEAD][1])

    def compiled(self) -> None:
        """Waits for the first step, whose time does not count: most of it was compilation."""
        jax.block_until_ready(self._pending[-1][1])
        self._restart_clock()

    @contextlib.contextmanager
    def paused(self):
        """What happens inside does not count: evaluation, saving."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        began = time.monotonic()
        yield
        self._excluded += time.monotonic() - began

    def check(self) -> None:
        """Waits for all steps; NonFiniteError if one since the last log was not finite."""
        while self._pending:
            step, metrics = self._pending.popleft()
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not all(map(math.isfinite, values.values())):
                first = (step - 1) * self._batch_size
                shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                raise NonFiniteError(
                    f"step {step} is not finite ({shown}); its batch holds the positions {first} "
                    f"to {first + self._batch_size - 1} of the data"
                )
            self._values.append(values)

    def finish(self) -> dict[str, float]:
        """{"train/...": mean since the last log}, and the speed unless no step was timed."""
        self.check()
        seconds = time.monotonic() - self._start - self._excluded
        values = {
            f"train/{name}": sum(v[name] for v in self._values) / len(self._values)
            for name in self._values[0]
        }
        if self._steps:
            values["train/images_per_second"] = self._steps * self._batch_size / seconds
            values["train/data_wait"] = self._waited / seconds
        self._values = []
        self._restart_clock()
        return values
