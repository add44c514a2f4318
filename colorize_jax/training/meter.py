"""Collects the metrics and the speed of the steps since the last row of the log."""

import collections
import contextlib
import dataclasses
import time

import jax

RUN_AHEAD = 2  # The host may be this many steps ahead of the devices.


class NonFiniteStep(Exception):
    """A step was not finite; the latch has kept the state before it.

    Attributes:
        step: the number of the step, from 1.
        metrics: its metrics; some are not finite.
    """

    def __init__(self, step: int, metrics: dict[str, float]):
        super().__init__(f"step {step} is not finite")
        self.step, self.metrics = step, metrics


@dataclasses.dataclass
class Window:
    """The sums of metrics since the last row of metrics.jsonl.

    Attributes:
        steps: the number of steps whose metrics were read.
        sums: {name: sum over these steps}.
    """

    steps: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)


class Meter:
    """Reads the metrics of a step only when the devices are `RUN_AHEAD` steps further.

    So the host does not wait for the devices after every step.

    Args:
        batch_size: the number of photos in a step.
        window: the window of a checkpoint's note, if the run resumes. The next row then equals that
            of an uninterrupted run.

    Attributes:
        window: the sums since the last row.
    """

    def __init__(self, batch_size: int, window: Window | None = None):
        self._batch_size, self.window = batch_size, window or Window()
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._start, self._excluded = time.monotonic(), 0.0
        self._steps, self._waited = 0, 0.0

    def add(self, step: int, metrics: dict[str, jax.Array], *, waited: float) -> None:
        """Adds a step that was started after waiting `waited` seconds for its data.

        Raises:
            NonFiniteStep: a step before it was not finite.
        """
        self._pending.append((step, metrics))
        self._steps += 1
        self._waited += waited
        while len(self._pending) > RUN_AHEAD:
            self._read_oldest()

    def restart(self) -> None:
        """Waits for the steps so far and restarts the clock: the first step loads the program."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        self._restart_clock()

    def newest(self) -> dict[str, float]:
        """Waits for the last step that was started and returns its metrics."""
        return {k: float(v) for k, v in jax.device_get(self._pending[-1][1]).items()}

    @contextlib.contextmanager
    def paused(self):
        """Time inside the `with` block, such as evaluation and saving, is not counted."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        began = time.monotonic()
        yield
        self._excluded += time.monotonic() - began

    def check(self) -> None:
        """Waits for all steps; raises NonFiniteStep if one was not finite."""
        while self._pending:
            self._read_oldest()

    def _read_oldest(self) -> None:
        step, metrics = self._pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if values.pop("nonfinite"):
            self._steps -= 1 + len(self._pending)  # The latch has undone them.
            self._pending.clear()
            raise NonFiniteStep(step, values)
        # The order of additions is fixed, so that a resumed run gets the same sums.
        sums = self.window.sums
        self.window.sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        self.window.steps += 1

    def means(self) -> dict[str, float]:
        """{"train/...": mean over the window}, and the speed if any step was timed."""
        self.check()
        seconds = time.monotonic() - self._start - self._excluded
        steps, sums = self.window.steps, self.window.sums
        values = {f"train/{name}": value / steps for name, value in sums.items()}
        if self._steps:
            values["train/images_per_second"] = self._steps * self._batch_size / seconds
            values["train/data_wait"] = self._waited / seconds
        return values

    def clear(self) -> None:
        """Begins the next window, after the row of this one is written."""
        self.window.steps, self.window.sums = 0, {}
        self._restart_clock()
