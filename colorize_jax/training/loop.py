"""A run from config to results, read from top to bottom; `main` and notebooks call `train`."""

from collections.abc import Callable, Collection, Iterator
import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict
import numpy as np

from colorize_jax import log, paths
from colorize_jax.checkpoints import reading
from colorize_jax.config import check_numbers
from colorize_jax.data import arrays, fingerprint, pipeline, sources, splits, storage
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.errors import ConfigError, DataError, Interrupted, NonFiniteError, SaveError, why
from colorize_jax.json_files import COUNT, Number
from colorize_jax.log import say_once
from colorize_jax.models import norm
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Facts, batch_shapes
from colorize_jax.training import (
    early_stopping,
    evaluation,
    forecast,
    hosts,
    known,
    memory,
    nonfinite,
    optimizers,
    results,
    same_run,
    saving,
    schedules,
    sharding,
    start,
)
from colorize_jax.training.meter import Meter, NonFiniteStep
from colorize_jax.training.report import Report
from colorize_jax.training.runner import Runner
from colorize_jax.training.search import STATE, Search
from colorize_jax.training.signals import Signals, Stop
from colorize_jax.training.step import abstract_state, init_state, pass_over

Result = TypeVar("Result")
# What a checkpoint's note tells a run that goes on; older ones lack some of it.
_NOTE = {
    "step": COUNT,
    "photos": COUNT,
    "names": str,
    "contents?": [(str, None)],
    "microbatches?": COUNT,
    "evaluated": Number(int, -1, COUNT.largest),
    "scores": {str: float},
    "best": {str: float},
    "skipped": [COUNT],
    "seconds?": float,
    "start?": str,
    "schedule?": [COUNT],
    "window?": {"steps": COUNT, "sums": {str: float}},
}


@hosts.loss_explained()
def train(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    signals: Signals | None = None,
    *,
    photos: Any = None,
    stated: Collection[str] | None = None,
) -> dict[str, float]:
    """Trains what `config` describes, or goes on with it, and leaves everything in `workdir`.

    What the checkpoint in `config.init_from` knows follows it; see `known.settled`. The config
    itself stays as it is.

    Args:
        config: from a recipe (`load_config`) or `default_config`.
        workdir: for all that the run leaves; one with a run of this config goes on with it.
        signals: entered already, where the caller wants signals caught from the start.
        photos: an array, a sequence or an iterable of photos in the place of `config.data.source`;
            see `data.arrays.ArrayPhotos`. A run goes on only if it is given the same ones.
        stated: settings that were given on a command line, as in "model.width": they do not follow
            the checkpoint. None: those that differ from their defaults.

    Returns:
        The scores of the last evaluation, also in `workdir/results.json`. With early stopping's
        mode "crossval" there are two runs, of which the first is in `workdir/search`.

    Raises:
        ColorizeError: with what is wrong and what to do about it; `Interrupted` after a signal.
    """
    if photos is not None:
        if config.data.labels:
            raise ConfigError(
                f"photos= have no labels: config.data.labels={config.data.labels!r} is for photos "
                "that config.data.source names"
            )
        config = config.copy_and_resolve_references()
        with arrays.held(photos) as config.data.source:
            return train(config, workdir, signals, stated=stated)
    if "://" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir}: only folders of this machine's file system, so far; mount the "
            "bucket (for example with gcsfuse)"
        )
    workdir = pathlib.Path(paths.expand(str(workdir)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(log.outlived())
        if signals is None:
            signals = stack.enter_context(Signals())
        same_run.check_hosts(config, workdir)

        def settle():
            return hosts.together(lambda: known.settled(config, workdir, stated))

        config, taken = settle() if jax.process_count() > 1 else signals.wait_for(settle)
        for line in taken:
            say_once(line)
        if config.early_stopping.mode == "crossval":
            return _train_twice(config, workdir, signals)
        run = _Run(config, workdir, signals)
        with (
            hosts.failing_together(workdir),
            memory.explained(config, run.mesh, run.needs),
            hosts.loss_explained(),
        ):
            run.wait_for(run.check)
            stack.enter_context(run.saved)
            run.prepare()
            return run.train()


def _train_twice(config: ConfigDict, workdir: pathlib.Path, signals: Signals) -> dict[str, float]:
    """Finds the schedule on a part of the training split, and trains on all of it."""
    if config.schedule_from:
        raise ConfigError(
            "config.early_stopping.mode='crossval' finds a schedule: leave out config.schedule_from"
        )
    first, second = (config.copy_and_resolve_references() for _ in range(2))
    first.early_stopping.mode, second.early_stopping.mode = "search", "off"
    first.eval.export = False
    second.schedule_from = str(workdir / "search")

    def check() -> None:
        pipeline.check(second)
        opened = splits.open_splits(second)
        for one in (first, second):
            splits.ask_classes(one, opened)
        same_run.check_config(workdir, second)
        same_run.check_config(workdir / "search", first)

    # What the second run would fail for, before the first has taken its hours.
    hosts.together(check)
    found = workdir / "search" / early_stopping.FILE
    if not hosts.first_says(int(found.exists())):
        say_once("first of two runs: early stopping looks for the schedule")
        train(first, workdir / "search", signals)
    say_once("second of two runs: the whole training split with the schedule that was found")
    return train(second, workdir, signals)


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
        self.seconds = 0.0  # that the run took before this process
        self.evaluation_seconds = 0.0  # of the last one by this process
        self.began = time.monotonic()
        self.search: Search | None = None  # early stopping
        self.start = config.init_from
        self.origin: pathlib.Path | None = None  # the checkpoint behind that
        self.which = results.evaluated(config)  # photos are evaluated
        self.skipped: list[int] = []  # steps passed over because they were not finite
        self.microbatches, self.compiled = config.microbatches, None
        self.report: Report | None = None

    # Before the first step.

    def check(self) -> None:
        """What is asked for and the photos, before anything is written; the same on all hosts."""
        hosts.check_same(hosts.together(self._check))

    def _check(self) -> dict:
        """What this host has found and the others must have found too."""
        config = self.config
        check_numbers(config)
        rows = config.data.batch_size // jax.process_count()
        memory.check_batch(rows, config.data.crop, config.data.views)
        sharding.check_batch(config.data.batch_size, config.microbatches or 1, self.mesh)
        pipeline.check(config)
        same_run.check_config(self.workdir, config)
        opened = self._open_photos()
        for line in splits.ask_classes(config, opened):
            say_once(line)
        same_run.check_config(self.workdir, config)  # with the classes that there are now
        for warning in (*opened.warnings, *splits.look_at_masks(opened, config)):
            say_once(warning)
        self.photos, self.held_out = opened.training, opened.evaluation
        self.classes = opened.classes
        self.task = make_task(config, Facts(len(self.photos), opened.classes))
        evaluation.check(config, self.task)
        if not same_run.begun(self.workdir):
            self.origin = start.find(config)
            start.check(config, self.task.model.encoder, self.origin)
            if self.origin is not None:
                self._ask_the_start()
        if small := forecast.small_settings(config, self.mesh.devices.flat[0].platform):
            say_once(small)
        self.digest = self.photos.digest() + self.held_out.digest()
        self.contents = fingerprint.contents((self.photos, self.held_out), config.data.threads)
        self.schedule = schedules.make_schedule(config, len(self.photos))
        self.saved = saving.Checkpoints(
            self.workdir,
            keep=config.checkpoint.keep,
            snapshots=self.schedule.snapshots,
            say=say_once,
        )
        self.last = self.schedule.steps  # early stopping may end the run before
        self.optimizer = optimizers.make_optimizer(config, self.schedule, self.task.frozen)
        if config.optimizer.groups:  # only the parameters tell whether there are such groups
            abstract_state(self.task, self.optimizer, batch_shapes(self.task, config))
        self.key = jax.random.key(config.seed)
        self.runner = Runner(self.task, self.mesh, config.seed)
        self.meter = Meter(config.data.batch_size)
        self.evaluate_every = config.eval.every
        if config.early_stopping.mode == "search":
            self.search = Search(config, self.task.score, len(self.held_out))
            self.evaluate_every = config.early_stopping.window
        elif config.early_stopping.mode != "off":
            raise ConfigError(
                f"config.early_stopping.mode is {config.early_stopping.mode!r}; known: 'off', "
                "'search', 'crossval'"
            )
        return same_run.photo_facts(config, self.photos, self.held_out, self.contents) | {
            "steps and drops of the rate": [self.schedule.steps, *self.schedule.drops],
            "checkpoint of config.init_from": start.identity(config, self.origin),
        }

    def _open_photos(self):
        """The splits. Where a run has begun the photos were there once: they are waited for."""
        if not same_run.begun(self.workdir):
            return splits.open_splits(self.config)
        data = self.config.data

        def opened():
            try:
                return splits.open_splits(self.config)
            except (DataError, OSError) as error:
                if gone := storage.missing((*sources.parse(data.source)[0], data.sbd)):
                    raise storage.Away(gone) from error
                raise

        return storage.patiently(opened, data.retry_seconds)

    def _ask_the_start(self) -> None:
        """Whether it was trained on photos that are held out here."""
        saved = reading.saved_note(self.origin)["config"]
        before, now = saved.get("data", {}), self.config.data
        if now.labels or before.get("holdout") == now.holdout:
            return
        if seen := known.trained_on(self.held_out, self.config, saved):
            self.which = f"held out, {seen:,} of them from the start's training too"
            say_once(
                f"{seen:,} of the {len(self.held_out):,} photos held out were trained on by "
                f"{self.origin}, which held out {before.get('holdout')}: the scores are too good"
            )

    def prepare(self) -> None:
        """Compiles the step and finds the parameters."""
        config = self.config
        hosts.first_does(lambda: same_run.write_config(self.workdir, config))
        name = "bad_records.jsonl"
        if self.host["host"]:
            name = f"bad_records_{self.host['host']}.jsonl"
        self.bad = BadRecords(
            self.workdir / name, config.data.max_bad_fraction, config.data.max_pixels, say_once
        )
        self.scoring = evaluation.Scoring(
            config, self.task, self.runner, self.photos, self.held_out, self.bad, self._stoppable
        )
        batches = pipeline.training_batches(
            self.photos, config, start=0, stop=1, workers=0, **self.host
        )
        with contextlib.closing(self.bad.note(batches, self.photos)) as batches:
            batch = self.wait_for(lambda: next(batches))
        self.example = sharding.put_batch(batch, self.mesh)
        self.shapes = abstract_state(self.task, self.optimizer, self.example)

        newest = self.saved.usable(self.wait_for(lambda: hosts.together(self.saved.verify)))
        note, form = {}, _NOTE
        if self.search is not None:
            form = form | {"search": STATE}
        if newest is not None:
            note = self.wait_for(lambda: hosts.together(lambda: self.saved.note(newest, form)))
        if note:
            same_run.check_photos(self.workdir, config, note, len(self.photos), self.digest)
            same_run.check_contents(self.workdir, config, note, self.contents)
            if self.search is None:
                now = [self.schedule.steps, *self.schedule.drops]
                same_run.check_schedule(self.workdir, config, note.get("schedule", now), now)
        self._compile(note.get("microbatches", 0))
        self._place_parameters(newest, note)
        if jax.process_count() == 1:
            self.signals.check()  # from while it compiled

    def _compile(self, before: int) -> None:
        """The step for the microbatches of the config, or of the run so far, or as many as it
        takes."""

        def compile_step(microbatches):
            step = sharding.jit_step(self.task, self.optimizer, self.mesh, microbatches)
            return step.lower(self.shapes, self.example, self.key).compile()

        say_once("compiling the step")
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
            say_once(found + changed)
        gib = memory.need(self.compiled) / memory.GIB
        say_once(
            f"compiled in {time.monotonic() - began:.1f} s; it needs {gib:.2f} GiB on every device"
        )

    def _place_parameters(self, newest: int | None, note: dict) -> None:
        """Where the parameters come from:
        1. the newest usable checkpoint of this run, if there is one;
        2. else random, depending on the seed alone, and
        3. the encoder from `config.init_from`, if that is given (start.py).
        """
        same = sharding.replicated(self.mesh)
        if newest is not None:
            restore = functools.partial(self.saved.restore, newest, self.shapes, same)
            self.state = self.wait_for(restore)
            self.step = self.saved_step = note["step"]
            self.evaluated, self.scores = note["evaluated"], note["scores"]
            self.best, self.skipped = note["best"], note["skipped"]
            # What older notes lack.
            self.seconds = note.get("seconds", 0.0)
            self.start = note.get("start", start.RANDOM)
            self.which = note.get("which", self.which)
            if "window" in note:
                self.meter.take_up(note["window"])
            if self.search is not None:
                self._take_up(note["search"])
            say_once(
                f"going on from step {newest}, checkpoint {self.saved.directory / str(newest)}"
            )
            return
        initialize = functools.partial(init_state, task=self.task, optimizer=self.optimizer)
        self.state = jax.jit(initialize, out_shardings=same)(self.key, batch=self.example)
        self.state = self.state.with_variables(self.scoring.fit(self.state.variables))
        if self.config.init_from == start.RANDOM:
            say_once("starting from scratch")
            return
        model = self.task.model.encoder
        origin = self.origin or start.find(self.config)
        encoder = self.wait_for(
            lambda: start.load_start(self.config, model, origin, self._first_photos)
        )
        self.state = start.place(self.state, encoder, same)
        self.start = str(encoder.folder)
        say_once(start.describe(self.config, encoder, self.state))

    def _first_photos(self, count: int) -> Iterator[jax.Array]:
        """Batches of at least so many training photos, the same on every host."""
        batches = -(-count // self.config.data.batch_size)
        found = pipeline.training_batches(
            self.photos, self.config, start=0, stop=batches, workers=0
        )
        with contextlib.closing(self.bad.note(found, self.photos)) as found:
            for batch in found:
                image = batch["image"]
                yield image if self.config.data.views == 1 else image[:, 0]

    def _take_up(self, search: dict) -> None:
        """Where early stopping was."""
        self.search.restore(search)
        self.schedule = dataclasses.replace(self.schedule, drops=self.search.drops)
        if self.search.ended:
            self.last = self.step

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
            say_once(self._description())
            if left := self.last - self.step:
                say_once(forecast.guess(self.compiled, self.config, self.microbatches, left))
            model, steps = self.config.model, self.schedule.steps
            running = model.norm == "batch" and not self.config.eval.norm_batches
            if running and (lag := norm.warning(model.norm_decay, steps)):
                say_once(lag)
            try:
                self.scoring.find_statistics()
                while True:
                    try:
                        self._go_on()
                        break
                    except NonFiniteStep as found:
                        self._pass_over(found)
            except Stop:
                self._leave()
            except BaseException as error:
                self._rescue(error)
                raise
        if not self._saved_well():
            raise SaveError(
                f"all {self.last} steps are done, but the last state could not be saved: "
                f"{self.saved.failure}. {self._newest()}; the same command goes on from there"
            )
        try:
            self._show_results()
        except Stop:
            self._leave()
        except OSError as error:
            raise SaveError(f"the results could not be written: {why(error)}") from error
        say_once(f"done: {self.last} steps, everything is in {self.workdir}")
        return self.scores

    def _show_results(self) -> None:
        """The table, pictures, and results.json, which says that all the rest is there."""
        if not self.scoring.rows:  # an earlier process made the last evaluation
            self._score()
        found = results.Results(
            config=self.config, step=self.last, scores=self.scores, best=self.best,
            score=self.task.score, checkpoint=self.saved.directory / str(self.last),
            which=self.which, trained_on=len(self.photos), evaluated_on=self.scoring.photos,
            digest=self.digest,
            seconds=self._elapsed(), start=self.start, unreadable=self.scoring.unreadable,
            steps=self.schedule.steps, drops=self.schedule.drops,
        )  # fmt: skip
        say_once(results.table(found))
        self.scoring.leave_pictures(self.workdir, self.state.variables)
        if self.search is not None:
            if not self.search.ended:
                say_once(
                    f"the search was ended by its longest allowed length, {self.last} steps, "
                    "before the last plateau: more of config.steps may find a better schedule"
                )
            hosts.first_does(lambda: self.search.write(self.workdir, self.last, len(self.photos)))
        hosts.first_does(lambda: results.write(self.workdir / results.FILE, found))

    def _elapsed(self) -> float:
        """Seconds of the run so far, those of earlier processes included."""
        return self.seconds + time.monotonic() - self.began

    def _make_report(self) -> Report:
        return Report(self.workdir, step=self.step, steps=self.last, evaluated=self.evaluated)

    def _open_report(self) -> None:
        self.report = self._make_report()

    def _go_on(self) -> None:
        """From the step that the run is at to the last one."""
        if self.meter.window()["steps"] and self.step % self.config.log.every == 0:
            self._log()  # what ended the run came before its row
        self._settle()
        batches = pipeline.training_batches(
            self.photos, self.config, start=self.step, stop=self.schedule.steps, **self.host
        )
        self.last_save = time.monotonic()
        first, pace = time.monotonic(), None
        with contextlib.closing(self.bad.watch(batches, self.photos)) as batches:
            while self.step < self.last:
                self._advance(batches)
                row = self.step % self.config.log.every == 0 or self.step == self.last
                if pace is None:
                    self.meter.restart()
                    self.report.started(self.step)
                    pace = self._pace()
                    if not row:
                        took = time.monotonic() - first
                        self.report.first(self.step, self.meter.newest(), took)
                elif not row and (line := pace.line(self.step)):
                    say_once(line)
                if row:
                    pace.told = True  # rows hold the time left
                    self._log()
                stop, late = self.agreement.any(
                    self.signals.received is not None, self._save_is_late()
                )
                if stop:
                    raise Stop
                # Not for a wish from before the last save.
                self._settle(late and self.step > self.saved_step + self.agreement.lag)

    def _log(self) -> None:
        """A row of the means since the last one."""
        self.meter.check()
        window = self.meter.window()
        values = self.meter.finish()
        values |= optimizers.rates(self.config, self.schedule, self.step - 1)
        try:
            self.report.progress(self.step, values)
        except BaseException:
            self.meter.take_up(window)  # the next start writes the row
            raise

    def _pace(self) -> forecast.Pace:
        """For the estimate by the first steps of this process."""
        every = self.evaluate_every
        evaluations = self.last // every - self.step // every + (self.last % every > 0)
        seconds = evaluations * self.evaluation_seconds
        return forecast.Pace(self.step, self.last, seconds)

    def _advance(self, batches: Iterator[dict]) -> None:
        """One step; with the metrics of an earlier one, NonFiniteStep if that was not finite."""
        began = time.monotonic()
        batch = self.wait_for(lambda: next(batches))
        waited = time.monotonic() - began
        placed = sharding.put_batch(batch, self.mesh)
        self.state, metrics = self.compiled(self.state, placed, self.key)
        self.step += 1
        self.meter.add(self.step, metrics, waited=waited)

    def _settle(self, late: bool = False) -> None:
        """What is due after this step and was not done yet: evaluation, then a checkpoint."""
        step, last = self.step, self.step == self.last
        if (step % self.evaluate_every == 0 or last) and self.evaluated < step:
            self.meter.check()
            with self.meter.paused():
                self._evaluate()
            if self.search is not None and step and step % self.evaluate_every == 0:
                self._judge()
            last = self.step == self.last
        due = step % self.config.checkpoint.every == 0 or step in self.schedule.snapshots or last
        if (due or late) and self.saved_step < step:
            with self.meter.paused():
                self._save()

    def _save_is_late(self) -> bool:
        seconds = self.config.checkpoint.seconds
        return bool(seconds) and time.monotonic() - self.last_save > seconds

    def _score(self) -> np.ndarray | None:
        variables = self.scoring.with_fresh_norm(self.state.variables)
        self.state = self.state.with_variables(variables)
        picture = self.scoring.score(variables)
        self.scores = self.scoring.scores
        return picture

    def _evaluate(self) -> None:
        began = time.monotonic()
        picture = self._score()
        self.evaluation_seconds = time.monotonic() - began
        self.evaluated = self.step
        name = f"eval/{self.task.score.name}"
        if self.task.score.better(self.scores[name], self.best.get(name)):
            self.best = {"step": self.step, name: self.scores[name]}
        self.report.evaluation(self.step, self.scores, picture)

    def _judge(self) -> None:
        """Early stopping at the end of a window: goes on, drops the rate, or ends the run."""
        verdict = self.search.judge(self.step, self.scores)
        say_once(f"step {self.step}: {self.search.described()}")
        if verdict == "drop":
            self.schedule = dataclasses.replace(self.schedule, drops=self.search.drops)
            same = sharding.replicated(self.mesh)
            drop = functools.partial(schedules.drop_from, steps=self.search.drops)
            opt_state = jax.jit(drop, out_shardings=same)(self.state.opt_state)
            self.state = self.state.replace(opt_state=opt_state)
        elif verdict == "stop":
            self.last = self.step

    def _save(self) -> None:
        self.meter.check()  # a checkpoint holds finite parameters or is not written
        note = {
            "config": same_run.plain(self.config),
            "step": self.step,
            "position": self.step * self.config.data.batch_size,
            "photos": len(self.photos),
            "names": self.digest,
            "contents": [digest for _, digest in self.contents],
            "microbatches": self.microbatches,
            "evaluated": self.evaluated,
            "scores": self.scores,
            "best": self.best,
            "skipped": self.skipped,
            "seconds": self._elapsed(),
            "start": self.start,
            "which": self.which,
            "classes": list(self.classes),
            "schedule": [self.schedule.steps, *self.schedule.drops],
            "window": self.meter.window(),
        }
        if self.search is not None:
            note["search"] = self.search.to_json()
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

    def wait_for(self, function: Callable[[], Result]) -> Result:
        """What `function()` gives, which may take long and only reads: a signal ends the wait. With
        several hosts it does not: the others have begun what needs this one."""
        if jax.process_count() > 1:
            return function()
        return self.signals.wait_for(function)

    def _stoppable(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Batches of an evaluation, which a signal ends between two of them."""
        while True:
            batch = self.wait_for(lambda: next(batches, None))
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
                try:
                    self._pass_over(found)
                except NonFiniteError as error:
                    self._rescue(error)
                    raise
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
            f"{what} {self.step} of {self.last}, which is saved; the same command goes "
            "on from there"
        )

    def _rescue(self, error: BaseException) -> None:
        """Saves what was trained since the last save, whatever has ended the loop.

        Not with several hosts: the others know nothing of it, and all must save together. Not if
        the step itself has failed and has taken its state with it.
        """
        insisted = isinstance(error, KeyboardInterrupt) and self.signals.received
        if jax.process_count() > 1 or self.step <= self.saved_step or insisted:
            return
        try:
            try:
                self._save()
            except NonFiniteStep as found:  # the latch has kept the state before that step
                self.step = found.step - 1
                self._save()
            if not self._saved_well():
                raise SaveError(self.saved.failure)
        except Exception as failure:
            say_once(f"step {self.step} could not be saved: {why(failure)}. {self._newest()}")
            return
        say_once(f"stopped after step {self.step}, which is saved, for the reason that follows")

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
        say_once(f"{said}; going on without it ({len(self.skipped)} so far)")
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
        limit = config.eval.photos or len(self.held_out)
        scored = f", {limit:,} of them evaluated" if limit < len(self.held_out) else ""
        return (
            f"{config.model.name}, {count:,} parameters, on {self.mesh.size} x {device}\n"
            f"{len(self.photos):,} photos to train on, {len(self.held_out):,} held out{scored}\n"
            f"{self.schedule.steps:,} steps of {size} photos, {rows} on every device{parts}"
        )
