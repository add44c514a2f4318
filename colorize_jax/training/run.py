"""What a run holds while it goes on, and what it does more than once."""

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
    evaluation,
    forecast,
    hosts,
    memory,
    optimizers,
    schedules,
    search,
    sharding,
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
    """What `function()` gives, which may take long and only reads: a signal ends the wait. With
    several hosts it does not: the others have begun what needs this one."""
    return function() if jax.process_count() > 1 else signals.wait_for(function)


class Run:
    """One process's part of a run.

    Args:
        setup: what never changes.
        progress: what it remembers, of its checkpoint already where it goes on.
        workdir: for all that it leaves.
        signals: that may stop it.
        saved: its checkpoints.
        began: when this process did, by `time.monotonic`.

    Attributes:
        setup, progress, workdir, signals, saved: as they were given.
        state: the arrays; set before the first step.
        compiled: the step, once it is compiled.
        report: metrics.jsonl and the lines on the terminal, once it is open.
        meter: metrics and speed since the last row.
        scoring: the held-out photos.
        bad: is told of photos that cannot be read.
        agreement: of the hosts, on when to stop and when to save.
        saved_step: the last one whose save was begun.
        last_save: when that was.
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
        self.scoring = evaluation.Scoring(
            config, setup.task, setup.runner, setup.training, setup.held_out, self.bad,
            self._stoppable, setup.probes,
        )  # fmt: skip
        self.agreement = hosts.Agreement(setup.mesh)
        self.saved_step, self.last_save = progress.step, time.monotonic()
        self._ticked, self._evaluation_seconds = began, 0.0

    # What follows from what it holds.

    @property
    def schedule(self) -> Schedule:
        """With the drops that a search has found so far."""
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
        """Steps between two evaluations."""
        config, searching = self.setup.config, self.progress.search is not None
        return config.early_stopping.window if searching else config.eval.every

    def needs(self) -> tuple[int, int]:
        """Microbatches, and bytes of a device that the compiled step takes; 0 before it is."""
        size = memory.need(self.compiled) if self.compiled is not None else 0
        return self.progress.microbatches or 1, size

    def save_is_late(self) -> bool:
        """Whether config.checkpoint.seconds have gone by since the last save."""
        seconds = self.setup.config.checkpoint.seconds
        return bool(seconds) and time.monotonic() - self.last_save > seconds

    def newest_checkpoint(self) -> str:
        """Which one is left, as a sentence."""
        newest = self.saved.latest
        if newest is None:
            return "No checkpoint was written yet"
        return f"The last good checkpoint is {self.saved.directory / str(newest)}"

    # Batches, which a signal does not wait for.

    def wait_for(self, function: Callable[[], Result]) -> Result:
        """See the function of that name."""
        return wait_for(self.signals, function)

    @contextlib.contextmanager
    def batches(self):
        """Training batches from the step that the run is at to the end of its schedule."""
        found = pipeline.training_batches(
            self.setup.training, self.setup.config, start=self.progress.step,
            stop=self.setup.schedule.steps, **self.setup.host,
        )  # fmt: skip
        with contextlib.closing(self.bad.watch(found, self.setup.training)) as found:
            yield found

    def _stoppable(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Batches of an evaluation, which a signal ends between two of them."""
        while True:
            batch = self.wait_for(lambda: next(batches, None))
            if batch is None:
                return
            if self.agreement.any(self.signals.received is not None, False)[0]:
                raise Stop
            yield batch

    # The log.

    def open_report(self) -> Report:
        """Opens metrics.jsonl behind the rows that count; it fails on all hosts or on none."""

        def report() -> Report:
            step, evaluated = self.progress.step, self.progress.evaluated
            return Report(
                self.workdir, step=step, steps=self.last, evaluated=evaluated,
                evaluators=self.scoring.evaluators,
            )  # fmt: skip

        opened: list[Report] = []
        hosts.first_does(lambda: opened.append(report()))
        self.report = opened[0] if opened else report()
        return self.report

    def log(self) -> None:
        """A row of the means since the last one; if it cannot be written the next start does so."""
        step = self.progress.step
        values = self.meter.means()
        values |= optimizers.rates(self.setup.config, self.schedule, step - 1)
        self.report.progress(step, values)
        self.meter.clear()

    def pace(self) -> forecast.Pace:
        """For the estimate by the first steps of this process."""
        step, last, every = self.progress.step, self.last, self.evaluate_every
        evaluations = last // every - step // every + (last % every > 0)
        return forecast.Pace(step, last, evaluations * self._evaluation_seconds)

    # Evaluation.

    def due(self) -> frozenset[str]:
        """The evaluators that are due at this step and were not run; "" is the task's own."""
        step = self.progress.step
        if self.progress.evaluated >= step:
            return frozenset()
        return self.scoring.due(step, self.evaluate_every, step == self.last)

    def score(self, evaluators: Collection[str]) -> np.ndarray | None:
        """Scores the network by these evaluators; gives a picture of the first held-out photos."""
        variables, kept = self.scoring.with_fresh_norm(self.state.variables), self.progress.scores
        if "" in evaluators:  # `config.evals` alone changes nothing of the run
            self.state, kept = self.state.with_variables(variables), {}
        picture = self.scoring.score(variables, evaluators)
        self.progress.scores = kept | self.scoring.scores
        return picture

    def evaluate(self, evaluators: Collection[str]) -> None:
        """Scores the network by these evaluators and reports it."""
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
        """Early stopping at the end of a window: goes on, drops the rate, or ends the run."""
        progress, name = self.progress, self.setup.task.score.name
        verdict = progress.search.update(progress.step, progress.scores[f"eval/{name}"])
        say_once(search.described(progress.search))
        if verdict == "drop":
            progress.schedule.append(progress.step)
            same = sharding.replicated(self.setup.mesh)
            drop = functools.partial(schedules.drop_from, steps=progress.search.dropped)
            opt_state = jax.jit(drop, out_shardings=same)(self.state.opt_state)
            self.state = self.state.replace(opt_state=opt_state)

    # Saving.

    def save(self) -> None:
        """Begins to write a checkpoint."""
        self.meter.check()  # a checkpoint holds finite parameters or is not written
        self.tick()
        self.saved.save(self.progress.step, self.state, self.progress.to_json())
        self.saved_step, self.last_save = self.progress.step, time.monotonic()

    def saved_well(self) -> bool:
        """Whether the last state is on the disk, on all hosts; tries once more if it is not."""
        for again in (True, False):
            self.saved.wait()
            if not hosts.any_says(self.saved.failure is not None):
                return True
            if again:
                self.save()
        return False

    def tick(self) -> None:
        """Counts the seconds until now."""
        now = time.monotonic()
        self.progress.seconds += now - self._ticked
        self._ticked = now
