"""The metrics and the speed of the steps since the last log."""

import collections
import contextlib
import dataclasses
import time

import jax

RUN_AHEAD = 2  # steps that the host may be ahead of the devices


class NonFiniteStep(Exception):
    """The latch of the state has caught a step; the state is as it was before that one.

    Attributes:
        step: its number, from 1.
        metrics: what it gave, some of it not finite.
    """

    def __init__(self, step: int, metrics: dict[str, float]):
        super().__init__(f"step {step} is not finite")
        self.step, self.metrics = step, metrics


@dataclasses.dataclass
class Window:
    """The steps since the last row of metrics.jsonl, as far as their metrics were read.

    Attributes:
        steps: how many.
        sums: {name: sum over them}.
    """

    steps: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)


class Meter:
    """Reads the metrics of a step once the devices are `RUN_AHEAD` steps further, so that the host
    never waits for a step that it does not have to wait for.

    Args:
        batch_size: photos of a step.
        window: to go on with, as that of a checkpoint's note: the next row then is that of a run
            that was left alone.

    Attributes:
        window: holds what was read since the last row.
    """

    def __init__(self, batch_size: int, window: Window | None = None):
        self._batch_size, self.window = batch_size, window or Window()
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._start, self._excluded = time.monotonic(), 0.0
        self._steps, self._waited = 0, 0.0

    def add(self, step: int, metrics: dict[str, jax.Array], *, waited: float) -> None:
        """A step was started, after waiting so many seconds for its data.

        Raises:
            NonFiniteStep: one of those before it was not finite.
        """
        self._pending.append((step, metrics))
        self._steps += 1
        self._waited += waited
        while len(self._pending) > RUN_AHEAD:
            self._read_oldest()

    def restart(self) -> None:
        """Waits for the steps so far, whose time does not count: the first loads the program."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        self._restart_clock()

    def newest(self) -> dict[str, float]:
        """The metrics of the last step that was started; waits for it."""
        return {k: float(v) for k, v in jax.device_get(self._pending[-1][1]).items()}

    @contextlib.contextmanager
    def paused(self):
        """What happens inside does not count: evaluation, saving."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        began = time.monotonic()
        yield
        self._excluded += time.monotonic() - began

    def check(self) -> None:
        """Waits for all steps; NonFiniteStep if one of them was not finite."""
        while self._pending:
            self._read_oldest()

    def _read_oldest(self) -> None:
        step, metrics = self._pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if values.pop("nonfinite"):
            self._steps -= 1 + len(self._pending)  # the latch has held them back
            self._pending.clear()
            raise NonFiniteStep(step, values)
        # One after the other, so that a sum that goes on from a note comes out the same.
        sums = self.window.sums
        self.window.sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        self.window.steps += 1

    def means(self) -> dict[str, float]:
        """{"train/...": mean over the window}, and the speed unless no step was timed."""
        self.check()
        seconds = time.monotonic() - self._start - self._excluded
        steps, sums = self.window.steps, self.window.sums
        values = {f"train/{name}": value / steps for name, value in sums.items()}
        if self._steps:
            values["train/images_per_second"] = self._steps * self._batch_size / seconds
            values["train/data_wait"] = self._waited / seconds
        return values

    def clear(self) -> None:
        """Begins the next window, once the row of this one is written."""
        self.window.steps, self.window.sums = 0, {}
        self._restart_clock()
