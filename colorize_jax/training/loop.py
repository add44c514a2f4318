"""A run from config to results, read from top to bottom; `main` and notebooks call `train`."""

from collections.abc import Iterator
import contextlib
import functools
import json
import math
import pathlib
import time

import jax
from ml_collections import ConfigDict

from colorize_jax.config import check_numbers
from colorize_jax.data import pipeline, sources
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.errors import ConfigError, Interrupted, NonFiniteError, SaveError, why
from colorize_jax.evaluation.runner import Runner
from colorize_jax.tasks.task import make_task
from colorize_jax.training import (
    checkpoint,
    hosts,
    memory,
    nonfinite,
    optimizers,
    same_run,
    sharding,
)
from colorize_jax.training.meter import Meter, NonFiniteStep
from colorize_jax.training.report import Report, say
from colorize_jax.training.signals import Signals, Stop
from colorize_jax.training.step import abstract_state, init_state, pass_over

SCORE = "eval/loss"  # of which the best is remembered


def train(config: ConfigDict, workdir: str, signals: Signals | None = None) -> dict[str, float]:
    """Trains what `config` describes, or goes on with it, and leaves everything in `workdir`.

    Args:
        signals: entered already, where the caller wants signals caught from the start.

    Returns:
        The scores of the last evaluation, also in `workdir/results.json`.

    Raises:
        ColorizeError: with what is wrong and what to do about it; `Interrupted` after a signal.
    """
    if "://" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir}: only folders of this machine's file system, so far; mount the "
            "bucket (for example with gcsfuse)"
        )
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        if signals is None:
            signals = stack.enter_context(Signals())
        run = _Run(config, workdir, signals)
        with memory.explained(config, run.mesh, run.needs), hosts.loss_explained():
            with run.waiting():  # nothing can be lost yet
                run.check()
            stack.enter_context(run.saved)
            with run.waiting():
                run.prepare()
            return run.train()


class _Run:
    """One process's part of a run: what it holds, then its life in order of time."""

    def __init__(self, config, workdir, signals):
        self.config, self.workdir, self.signals = config, workdir, signals
        self.mesh = sharding.make_mesh()
        self.agreement = hosts.Agreement(self.mesh)
        self.host = {"host": jax.process_index(), "hosts": jax.process_count()}
        self.step = 0  # steps done
        self.saved_step = 0  # the last one whose save was begun
        self.evaluated = -1  # the last one that was evaluated
        self.scores: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.skipped: list[int] = []  # steps passed over because they were not finite
        self.microbatches, self.compiled = config.microbatches, None
        self.report: Report | None = None

    # Before the first step.

    def check(self) -> None:
        """What is asked for and the photos, before anything is written."""
        config = self.config
        check_numbers(config)
        sharding.check_batch(config.data.batch_size, config.microbatches or 1, self.mesh)
        pipeline.check(config)
        same_run.check_config(self.workdir, config)
        self.task = make_task(config)
        self.photos, self.held_out = sources.open_splits(config.data.source, config.data.holdout)
        self.digest = self.photos.digest() + self.held_out.digest()
        hosts.check_same(self.digest, "photos")
        self.schedule = optimizers.make_schedule(config, len(self.photos))
        self.saved = checkpoint.Checkpoints(
            self.workdir, keep=config.checkpoint.keep, snapshots=self.schedule.snapshots, say=say
        )
        self.rate = self.schedule.rate(optimizers.initial_rate(config))
        self.optimizer = optimizers.make_optimizer(config, self.schedule)
        self.key = jax.random.key(config.seed)
        self.runner = Runner(self.task, self.mesh, config.seed)
        self.meter = Meter(config.data.batch_size)

    def prepare(self) -> None:
        """Compiles the step and finds the parameters."""
        config = self.config
        hosts.first_does(lambda: same_run.write_config(self.workdir, config))
        name = "bad_records.jsonl"
        if self.host["host"]:
            name = f"bad_records_{self.host['host']}.jsonl"
        self.bad = BadRecords(self.workdir / name, config.data.max_bad_fraction)
        batches = pipeline.training_batches(
            self.photos, config, start=0, stop=1, workers=0, **self.host
        )
        with contextlib.closing(self.bad.note(batches, self.photos)) as batches:
            self.example = sharding.put_batch(next(batches), self.mesh)
        self.shapes = abstract_state(self.task, self.optimizer, self.example)

        start = self.saved.usable()
        note = {} if start is None else self.saved.note(start)
        if note:
            same_run.check_photos(self.workdir, config, note, len(self.photos), self.digest)
        self._compile(note.get("microbatches", 0))
        self._place_parameters(start, note)

    def _compile(self, before: int) -> None:
        """The step for the microbatches of the config, or of the run so far, or as many as it
        takes."""

        def compile_step(microbatches):
            step = sharding.jit_step(self.task, self.optimizer, self.mesh, microbatches)
            return step.lower(self.shapes, self.example, self.key).compile()

        say("compiling the step")
        began, rows = time.monotonic(), self.config.data.batch_size // self.mesh.size
        if not self.microbatches and before and rows % before == 0:
            self.microbatches = before
        if self.microbatches:
            self.compiled = compile_step(self.microbatches)
        else:
            limit = hosts.first_says(memory.available(jax.local_devices()[0]))
            self.microbatches, self.compiled = memory.smallest_that_fits(
                compile_step, rows, limit, self.config
            )
            found = f"config.microbatches=0: {self.microbatches} fit(s) into the memory of a device"
            changed = f"; the run had {before} so far" if before else ""
            say(found + changed)
        gib = memory.need(self.compiled) / memory.GIB
        say(f"compiled in {time.monotonic() - began:.1f} s; it needs {gib:.2f} GiB on every device")

    def _place_parameters(self, start: int | None, note: dict) -> None:
        """Where the parameters come from:
        1. the newest usable checkpoint of this run, if there is one;
        2. else from scratch: random, depending on the seed alone.
        """
        same = sharding.replicated(self.mesh)
        if start is None:
            initialize = functools.partial(init_state, task=self.task, optimizer=self.optimizer)
            self.state = jax.jit(initialize, out_shardings=same)(self.key, batch=self.example)
            say("starting from scratch")
            return
        self.state = self.saved.restore(start, self.shapes, same)
        self.step = self.saved_step = note["step"]
        self.evaluated, self.scores = note["evaluated"], note["scores"]
        self.best, self.skipped = note["best"], note["skipped"]
        say(f"going on from step {start}, checkpoint {self.saved.directory / str(start)}")

    def needs(self) -> tuple[int, int]:
        """Microbatches, and bytes of a device that the compiled step takes; 0 before it is."""
        size = memory.need(self.compiled) if self.compiled is not None else 0
        return self.microbatches or 1, size

    # Training.

    def train(self) -> dict[str, float]:
        """Until the last step, a signal, or a loss that is not finite."""
        with contextlib.ExitStack() as stack:
            hosts.first_does(self._open_report)
            self.report = stack.enter_context(self.report or self._make_report())
            say(self._description())
            try:
                batches = pipeline.training_batches(
                    self.photos, self.config, start=0, stop=self.config.eval.statistics_batches,
                    workers=0, **self.host,
                )  # fmt: skip
                with contextlib.closing(self.bad.note(batches, self.photos)) as batches:
                    self.statistics = self.runner.statistics(self._stoppable(batches))
                while True:
                    try:
                        self._go_on()
                        break
                    except NonFiniteStep as found:
                        self._pass_over(found)
            except Stop:
                self._leave()
        if not self._saved_well():
            raise SaveError(
                f"all {self.schedule.steps} steps are done, but the last state could not be saved: "
                f"{self.saved.failure}. {self._newest()}; the same command goes on from there"
            )
        results = {"step": self.schedule.steps} | self.scores | {"best": self.best}
        if jax.process_index() == 0:
            try:
                text = json.dumps(results, indent=2)
                (self.workdir / "results.json").write_text(text + "\n")
            except OSError as error:
                raise SaveError(f"results.json could not be written: {why(error)}") from error
        say(f"done: {self.schedule.steps} steps, everything is in {self.workdir}")
        return self.scores

    def _make_report(self) -> Report:
        return Report(
            self.workdir, step=self.step, steps=self.schedule.steps, evaluated=self.evaluated
        )

    def _open_report(self) -> None:
        self.report = self._make_report()

    def _go_on(self) -> None:
        """From the step that the run is at to the last one."""
        self._settle()
        batches = pipeline.training_batches(
            self.photos, self.config, start=self.step, stop=self.schedule.steps, **self.host
        )
        self.last_save = time.monotonic()
        first = True
        with contextlib.closing(self.bad.watch(batches, self.photos)) as batches:
            while self.step < self.schedule.steps:
                self._advance(batches)
                if first:
                    self.meter.restart()
                    self.report.started(self.step)
                    first = False
                if self.step % self.config.log.every == 0 or self.step == self.schedule.steps:
                    values = self.meter.finish()
                    values["train/rate"] = float(self.rate(self.step - 1))
                    self.report.progress(self.step, values)
                stop, late = self.agreement.any(
                    self.signals.received is not None, self._save_is_late()
                )
                if stop:
                    raise Stop
                # Not for a wish from before the last save.
                self._settle(late and self.step > self.saved_step + self.agreement.lag)

    def _advance(self, batches: Iterator[dict]) -> None:
        """One step; with the metrics of an earlier one, NonFiniteStep if that was not finite."""
        began = time.monotonic()
        with self.waiting():
            batch = next(batches)
        waited = time.monotonic() - began
        placed = sharding.put_batch(batch, self.mesh)
        self.state, metrics = self.compiled(self.state, placed, self.key)
        self.step += 1
        self.meter.add(self.step, metrics, waited=waited)

    def _settle(self, late: bool = False) -> None:
        """What is due after this step and was not done yet: evaluation, then a checkpoint."""
        step, last = self.step, self.step == self.schedule.steps
        if (step % self.config.eval.every == 0 or last) and self.evaluated < step:
            self.meter.check()
            with self.meter.paused():
                self._evaluate()
        due = step % self.config.checkpoint.every == 0 or step in self.schedule.snapshots or last
        if (due or late) and self.saved_step < step:
            with self.meter.paused():
                self._save()

    def _save_is_late(self) -> bool:
        seconds = self.config.checkpoint.seconds
        return bool(seconds) and time.monotonic() - self.last_save > seconds

    def _evaluate(self) -> None:
        batches = pipeline.evaluation_batches(
            self.held_out, self.config, limit=self.config.eval.photos, **self.host
        )
        with contextlib.closing(self.bad.note(batches, self.held_out)) as batches:
            scores, strips = self.runner.evaluate(
                self.state.variables, self.statistics, self._stoppable(batches),
                self.config.eval.pictures,
            )  # fmt: skip
        self.scores = {f"eval/{name}": value for name, value in scores.items()}
        self.evaluated = self.step
        score = self.scores[SCORE]
        if score < self.best.get(SCORE, math.inf):  # never so if it is NaN
            self.best = {"step": self.step, SCORE: score}
        self.report.evaluation(self.step, self.scores, strips)

    def _save(self) -> None:
        self.meter.check()  # a checkpoint holds finite parameters or is not written
        note = {
            "config": same_run.plain(self.config),
            "step": self.step,
            "position": self.step * self.config.data.batch_size,
            "photos": len(self.photos),
            "names": self.digest,
            "microbatches": self.microbatches,
            "evaluated": self.evaluated,
            "scores": self.scores,
            "best": self.best,
            "skipped": self.skipped,
        }
        self.saved.save(self.step, self.state, note)
        self.saved_step, self.last_save = self.step, time.monotonic()

    def _saved_well(self) -> bool:
        """Whether the last state is on the disk, on all hosts; tries once more if it is not."""
        for again in (True, False):
            self.saved.wait()
            if not hosts.any_says(self.saved.failure is not None):
                return True
            if again:
                self._save()
        return False

    # What comes between.

    def waiting(self):
        """Where a signal may end the wait for something. With several hosts it may not: the others
        have begun what needs this one."""
        if jax.process_count() > 1:
            return contextlib.nullcontext()
        return self.signals.interruptible()

    def _stoppable(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Batches of an evaluation, which a signal ends between two of them."""
        while True:
            with self.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            if self.agreement.any(self.signals.received is not None, False)[0]:
                raise Stop
            yield batch

    def _leave(self) -> None:
        """Saves what was trained since the last save, after a signal; always raises."""
        if self.step > self.saved_step:
            try:
                self._save()
            except NonFiniteStep as found:
                self._pass_over(found)
                self._save()
        what = f"{self.signals.received or 'a signal to another host'}: stopped after step"
        if not self._saved_well():
            raise SaveError(
                f"{what} {self.step}, which could not be saved: {self.saved.failure}. "
                f"{self._newest()}"
            )
        self.signals.leave_soon()
        if not self.step:
            raise Interrupted(f"{what} 0: nothing is lost; the same command starts again")
        raise Interrupted(
            f"{what} {self.step} of {self.schedule.steps}, which is saved; the same command goes "
            "on from there"
        )

    def _pass_over(self, found: NonFiniteStep) -> None:
        """Reports a step that was not finite; goes on behind it, or raises NonFiniteError.

        The latch has kept the state as it was before that step, whatever was started since.
        """
        self.step = found.step - 1
        shown = ", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items())
        if all(map(math.isfinite, found.metrics.values())):
            shown += ", but its update overflows"
        said = f"step {found.step} is not finite ({shown}); "
        try:
            path = nonfinite.write_report(
                self.workdir, self.config, found, self.state, self.photos, self.microbatches
            )
            said += f"{path} names its batch, and --config.replay={path} shows where it begins"
        except Exception as error:  # a full disk: the report is a help, not a condition
            said += f"its report could not be written: {why(error)}"
        if len(self.skipped) >= self.config.nonfinite_skips:
            self.saved.wait()
            raise NonFiniteError(
                f"{said}. {self._newest()}. A run with a lower config.optimizer.rate, in another "
                f"--workdir, may get through; config.nonfinite_skips={len(self.skipped) + 1} would "
                "go on without the batch"
            )
        self.skipped.append(found.step)
        say(f"{said}; going on without it ({len(self.skipped)} so far)")
        same = sharding.replicated(self.mesh)
        self.state = jax.jit(pass_over, out_shardings=same)(self.state, found.step)
        self.step = found.step

    def _newest(self) -> str:
        newest = self.saved.latest
        if newest is None:
            return "No checkpoint was written yet"
        return f"The last good checkpoint is {self.saved.directory / str(newest)}"

    def _description(self) -> str:
        config, device = self.config, self.mesh.devices.flat[0].device_kind
        count = sum(x.size for x in jax.tree.leaves(self.state.params))
        size, rows = config.data.batch_size, config.data.batch_size // self.mesh.size
        parts = f" in {self.microbatches} microbatches" if self.microbatches > 1 else ""
        return (
            f"{config.model.name}, {count:,} parameters, on {self.mesh.size} x {device}\n"
            f"{len(self.photos):,} photos to train on, {len(self.held_out):,} held out\n"
            f"{self.schedule.steps:,} steps of {size} photos, {rows} on every device{parts}"
        )
