"""The state of a run on one process, and the actions that the loop repeats."""

from collections.abc import Callable, Collection, Iterator
import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any, TypeVar

import jax
import numpy as np

from colorize_jax.data import pipeline
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.log import say_once
from colorize_jax.training import (
    forecast,
    hosts,
    memory,
    optimizers,
    schedules,
    scoring,
    search,
    sharding,
    weights_and_biases,
)
from colorize_jax.training.meter import Meter
from colorize_jax.training.progress import Progress
from colorize_jax.training.report import Report
from colorize_jax.training.saving import Checkpoints
from colorize_jax.training.schedules import Schedule
from colorize_jax.training.setup import Setup
from colorize_jax.training.signals import Signals, Stop
from colorize_jax.training.step import TrainState

Result = TypeVar("Result")


def wait_for(signals: Signals, function: Callable[[], Result]) -> Result:
    """Calls a slow function that only reads, and returns its result; a signal ends the wait.

    With several hosts a signal does not end it, because the other hosts wait for this one.
    """
    return function() if jax.process_count() > 1 else signals.wait_for(function)


class Run:
    """One process's part of a run.

    Args:
        setup: the parts of the run that never change.
        progress: what the run remembers; a resumed run has taken it from its checkpoint.
        workdir: the folder for all outputs.
        signals: the signals that may stop the run.
        saved: the run's checkpoints.
        began: the start of this process, by `time.monotonic`.

    Attributes:
        setup, progress, workdir, signals, saved: the arguments.
        state: the arrays; set before the first step.
        compiled: the compiled step; None before.
        report: metrics.jsonl and the lines on the terminal; None before it is opened.
        meter: the metrics and the speed since the last row.
        scoring: scores the network on held-out photos.
        bad: notes photos that cannot be read.
        agreement: lets the hosts agree on when to stop and when to save.
        saved_step: the last step whose save was started.
        last_save: the time when that save was started.
    """

    state: TrainState
    report: Report

    def __init__(
        self,
        setup: Setup,
        progress: Progress,
        workdir: pathlib.Path,
        signals: Signals,
        saved: Checkpoints,
        began: float,
    ):
        config = setup.config
        self.setup, self.progress = setup, progress
        self.workdir, self.signals, self.saved = workdir, signals, saved
        self.compiled: Any = None
        self.meter = Meter(config.data.batch_size, progress.window)
        host = setup.host["host"]
        name = f"bad_records_{host}.jsonl" if host else "bad_records.jsonl"
        self.bad = BadRecords(
            workdir / name, config.data.max_bad_fraction, config.data.max_pixels, say_once
        )
        self.scoring = scoring.Scoring(
            config, setup.task, setup.runner, setup.training, setup.held_out, self.bad,
            self._stoppable, setup.probes,
        )  # fmt: skip
        self.agreement = hosts.Agreement(setup.mesh)
        self.saved_step, self.last_save = progress.step, time.monotonic()
        self._ticked, self._evaluation_seconds = began, 0.0

    # Values that follow from the attributes.

    @property
    def schedule(self) -> Schedule:
        """The schedule, with the drops that a search has found so far."""
        return dataclasses.replace(self.setup.schedule, drops=tuple(self.progress.schedule[1:]))

    @property
    def last(self) -> int:
        """The last step: that of the schedule, or the one at which a search has ended."""
        stopping = self.progress.search
        if stopping is not None and stopping.stopped is not None:
            return stopping.stopped
        return self.setup.schedule.steps

    @property
    def evaluate_every(self) -> int:
        """The number of steps between two evaluations."""
        config, searching = self.setup.config, self.progress.search is not None
        return config.early_stopping.window if searching else config.eval.every

    def needs(self) -> tuple[int, int]:
        """The number of microbatches, and the step's bytes on a device, 0 before it is compiled."""
        size = memory.need(self.compiled) if self.compiled is not None else 0
        return self.progress.microbatches or 1, size

    def save_is_late(self) -> bool:
        """Whether config.checkpoint.seconds have passed since the last save."""
        seconds = self.setup.config.checkpoint.seconds
        return bool(seconds) and time.monotonic() - self.last_save > seconds

    def take(self, state: TrainState) -> None:
        """Goes on with a state that did not come out of the compiled step."""
        self.state = sharding.laid_out(state, self.compiled)

    def newest_checkpoint(self) -> str:
        """A sentence that names the newest checkpoint."""
        newest = self.saved.latest
        if newest is None:
            return "No checkpoint was written yet"
        return f"The last good checkpoint is {self.saved.directory / str(newest)}"

    # Batches. A signal ends the wait for them.

    def wait_for(self, function: Callable[[], Result]) -> Result:
        """Calls `wait_for` with this run's signals."""
        return wait_for(self.signals, function)

    @contextlib.contextmanager
    def batches(self):
        """The training batches from the current step to the end of the schedule."""
        found = pipeline.training_batches(
            self.setup.training, self.setup.config, start=self.progress.step,
            stop=self.setup.schedule.steps, **self.setup.host,
        )  # fmt: skip
        with contextlib.closing(self.bad.watch(found, self.setup.training)) as found:
            yield found

    def _stoppable(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches of an evaluation; a signal ends it between two of them."""
        while True:
            batch = self.wait_for(lambda: next(batches, None))
            if batch is None:
                return
            if self.agreement.any(self.signals.received is not None, False)[0]:
                raise Stop
            yield batch

    # The log.

    def open_report(self) -> Report:
        """Opens metrics.jsonl and cuts off later rows; it fails on all hosts or on none."""

        def report() -> Report:
            step, evaluated = self.progress.step, self.progress.evaluated
            tracker = None
            if jax.process_index() == 0:
                tracker = weights_and_biases.start(self.setup.config, self.workdir)
            return Report(
                self.workdir, step=step, steps=self.last, evaluated=evaluated,
                evaluators=self.scoring.evaluators, tracker=tracker,
            )  # fmt: skip

        opened: list[Report] = []
        hosts.first_does(lambda: opened.append(report()))
        self.report = opened[0] if opened else report()
        return self.report

    def log(self) -> None:
        """Writes a row of means since the last row.

        If that fails, the next start writes it, because the sums are in the checkpoint's note.
        """
        step = self.progress.step
        values = self.meter.means()
        values |= optimizers.rates(self.setup.config, self.schedule, step - 1)
        self.report.progress(step, values)
        self.meter.clear()

    def pace(self) -> forecast.Pace:
        """An estimate of the time left from the first steps of this process."""
        step, last, every = self.progress.step, self.last, self.evaluate_every
        evaluations = last // every - step // every + (last % every > 0)
        return forecast.Pace(step, last, evaluations * self._evaluation_seconds)

    # Evaluation.

    def due(self) -> frozenset[str]:
        """The evaluators that are due at this step and have not run yet; "" is the task's own."""
        step = self.progress.step
        if self.progress.evaluated >= step:
            return frozenset()
        return self.scoring.due(step, self.evaluate_every, step == self.last)

    def score(self, evaluators: Collection[str]) -> np.ndarray | None:
        """Scores the network by these evaluators; returns a picture of held-out photos."""
        variables, kept = self.scoring.with_fresh_norm(self.state.variables), self.progress.scores
        if "" in evaluators:  # Probes do not change the run.
            self.take(self.state.with_variables(variables))
            kept = {}
        picture = self.scoring.score(variables, evaluators)
        self.progress.scores = kept | self.scoring.scores
        return picture

    def evaluate(self, evaluators: Collection[str]) -> None:
        """Scores the network by these evaluators and reports the scores."""
        progress, score = self.progress, self.setup.task.score
        began = time.monotonic()
        picture = self.score(evaluators)
        progress.evaluated = progress.step
        if "" in evaluators:
            self._evaluation_seconds = time.monotonic() - began
            name = f"eval/{score.name}"
            if score.better(progress.scores[name], progress.best.get(name)):
                progress.best = {"step": progress.step, name: progress.scores[name]}
        self.report.evaluation(progress.step, self.scoring.scores, picture)

    def judge(self) -> None:
        """Early stopping at the end of a window: continues, drops the rate, or ends the run."""
        progress, name = self.progress, self.setup.task.score.name
        verdict = progress.search.update(progress.step, progress.scores[f"eval/{name}"])
        say_once(search.described(progress.search))
        if verdict == "drop":
            progress.schedule.append(progress.step)
            same = sharding.replicated(self.setup.mesh)
            drop = functools.partial(schedules.drop_from, steps=progress.search.dropped)
            opt_state = jax.jit(drop, out_shardings=same)(self.state.opt_state)
            self.take(self.state.replace(opt_state=opt_state))

    # Saving.

    def save(self) -> None:
        """Starts to write a checkpoint."""
        self.meter.check()  # It raises if a step was not finite: no such state is saved.
        self.tick()
        with self.spending("checkpoints"):
            self.saved.save(self.progress.step, self.state, self.progress.to_json())
        self.saved_step, self.last_save = self.progress.step, time.monotonic()

    def last_state_is_saved(self) -> bool:
        """Whether the last state is on disk, on all hosts; tries once more if it is not."""
        for again in (True, False):
            with self.spending("checkpoints"):
                self.saved.wait()
            if not hosts.any_says(self.saved.failure is not None):
                return True
            if again:
                self.save()
        return False

    def tick(self) -> None:
        """Adds the time until now to the seconds of the run."""
        now = time.monotonic()
        self.progress.seconds += now - self._ticked
        self._ticked = now

    @contextlib.contextmanager
    def spending(self, part: str, since: float | None = None):
        """Adds the time of the `with` block to that of a part of the run.

        Args:
            part: "start", "evaluation" or "checkpoints".
            since: the beginning, by `time.monotonic`, if it was before the block.
        """
        began, spent = time.monotonic() if since is None else since, self.progress.spent
        try:
            yield
        finally:
            spent[part] = spent.get(part, 0.0) + time.monotonic() - began
