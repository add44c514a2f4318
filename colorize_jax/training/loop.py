"""Trains: one run from its config to its results. `main` and notebooks call `train`."""

from collections.abc import Collection
import contextlib
import functools
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from colorize_jax import log, paths
from colorize_jax.data import arrays, pipeline, splits
from colorize_jax.errors import ConfigError, SaveError, why
from colorize_jax.files import atomic_write_bytes
from colorize_jax.log import say_once
from colorize_jax.training import (
    beginning,
    compiler,
    early_stopping,
    ending,
    hosts,
    known,
    memory,
    same_run,
    saving,
    sharding,
)
from colorize_jax.training.meter import NonFiniteStep
from colorize_jax.training.run import Run, wait_for
from colorize_jax.training.signals import Signals, Stop


@hosts.loss_explained()
def train(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    signals: Signals | None = None,
    *,
    photos: Any = None,
    stated: Collection[str] | None = None,
) -> dict[str, float]:
    """Trains the run that `config` describes, or resumes it, and writes everything to `workdir`.

    Settings that are not stated follow the checkpoint in `config.init_from`; see `known.settled`.
    The caller's config is not changed.

    Args:
        config: a config from a recipe (`load_config`) or from `default_config`.
        workdir: the folder for all outputs. If it holds a run of this config, that run is resumed.
        signals: entered already, if the caller wants signals caught from the start.
        photos: an array, a sequence or an iterable of photos, in place of `config.data.source`; see
            `data.arrays.ArrayPhotos`. A run resumes only with the same photos.
        stated: the settings that were given on a command line, such as "model.width"; they do not
            follow the checkpoint. None takes those that differ from their defaults.

    Returns:
        The scores of the last evaluation, which are also in `workdir/results.json`. With early
        stopping's mode "crossval" there are two runs; the first one is in `workdir/search`.

    Raises:
        ColorizeError: the message says what is wrong and what to do; `Interrupted` after a signal.
    """
    if photos is not None:
        if config.data.labels:
            raise ConfigError(
                f"photos= have no labels: config.data.labels={config.data.labels!r} is for photos "
                "that config.data.source names"
            )
        config = config.copy_and_resolve_references()
        with arrays.as_source(photos) as config.data.source:
            return train(config, workdir, signals, stated=stated)
    if "://" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir}: only folders of this machine's file system, so far; mount the "
            "bucket (for example with gcsfuse)"
        )
    workdir = pathlib.Path(paths.expand(str(workdir)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(log.surviving_output())
        if signals is None:
            signals = stack.enter_context(Signals())
        compiler.keep_programs()
        same_run.check_hosts(config, workdir)

        def settle():
            return hosts.together(lambda: known.settled(config, workdir, stated))

        config, taken = wait_for(signals, settle)
        for line in taken:
            say_once(line)
        if config.early_stopping.mode == "crossval":
            return _train_twice(config, workdir, signals)
        with hosts.failing_together(workdir), hosts.loss_explained():
            return _train(config, workdir, signals, stack)


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

    # The second run's errors should come now, and not after the hours of the first run.
    hosts.together(check)
    found = workdir / "search" / early_stopping.FILE
    if not hosts.first_says(int(found.exists())):
        say_once("first of two runs: early stopping looks for the schedule")
        train(first, workdir / "search", signals)
    say_once("second of two runs: the whole training split with the schedule that was found")
    return train(second, workdir, signals)


def _train(
    config: ConfigDict, workdir: pathlib.Path, signals: Signals, stack: contextlib.ExitStack
) -> dict[str, float]:
    """One run from its settings to its results, in chronological order."""
    began, mesh = time.monotonic(), sharding.make_mesh()
    wait = functools.partial(wait_for, signals)

    # ---------------- Settings and photos. Nothing is written before they are checked. ------------
    checked = wait(lambda: beginning.check(config, workdir, mesh))
    setup, progress = checked.setup, checked.progress

    # ---------------- The workdir, and the checkpoint to resume from. -----------------------------
    saved = stack.enter_context(
        saving.Checkpoints(
            workdir,
            keep=config.checkpoint.keep,
            snapshots=setup.schedule.snapshots,
            say=say_once,
        )
    )
    hosts.first_does(lambda: same_run.write_config(workdir, config))
    if checked.buckets:
        hosts.first_does(lambda: atomic_write_bytes(workdir / "buckets.tsv", checked.buckets))
    newest = beginning.resume(checked, saved, wait)
    run = Run(setup, progress, workdir, signals, saved, began)

    with memory.explained(config, mesh, run.needs):
        # ---------------- The step and the parameters. --------------------------------------------
        batch = beginning.first_batch(run)
        beginning.compile_step(run, batch)
        beginning.place_parameters(run, batch, newest, checked.origin)
        if jax.process_count() == 1:
            signals.check()  # A signal may have come while it compiled.

        # ---------------- Training. Whatever ends it, the state is saved. -------------------------
        with run.open_report():
            with run.spending("start", since=began):
                beginning.describe(run)
            try:
                if run.due():  # It compiles the evaluation, which takes as long as many steps.
                    say_once("compiling the evaluation, and scoring the network before it learns")
                with run.spending("evaluation"):
                    run.scoring.find_statistics()
                while True:
                    try:
                        _loop(run)
                        break
                    except NonFiniteStep as found:
                        ending.skip_step(run, found)
            except Stop:
                ending.save_and_stop(run)
            except BaseException as error:
                ending.save_after_error(run, error)
                raise

        # ---------------- Results. ----------------------------------------------------------------
        if not run.last_state_is_saved():
            raise SaveError(
                f"all {run.last} steps are done, but the last state could not be saved: "
                f"{saved.failure}. {run.newest_checkpoint()}; the same command goes on from there"
            )
        try:
            ending.write_results(run)
        except Stop:
            ending.save_and_stop(run)
        except OSError as error:
            raise SaveError(f"the results could not be written: {why(error)}") from error
        say_once(f"done: {run.last} steps, everything is in {workdir}")
        return progress.scores


def _loop(run: Run) -> None:
    """Trains from the current step to the last one.

    Raises:
        NonFiniteStep: a step was not finite; the run may continue after it.
        Stop: a signal came to any host.
    """
    setup, progress, meter, report = run.setup, run.progress, run.meter, run.report
    config, key = setup.config, setup.key
    next_batch, pace, late = None, None, False
    if meter.window.steps and progress.step % config.log.every == 0:
        run.log()  # The run ended before the row of its last steps was written.
    with contextlib.ExitStack() as stack:
        while True:
            # ---------------- Evaluation ----------------------------------------------------------
            step = progress.step
            if evaluators := run.due():
                meter.check()
                with meter.paused(), run.spending("evaluation"):
                    run.evaluate(evaluators)
                at_window = step % run.evaluate_every == 0
                if progress.search is not None and step and at_window:
                    run.judge()

            # ---------------- Save ----------------------------------------------------------------
            due = step % config.checkpoint.every == 0 or step in setup.schedule.snapshots
            if (due or late or step == run.last) and run.saved_step < step:
                with meter.paused():
                    run.save()
            if step >= run.last:
                return

            # ---------------- Step ----------------------------------------------------------------
            # Reading starts processes, so it begins only after the first evaluation.
            if next_batch is None:
                next_batch = functools.partial(next, stack.enter_context(run.batches()))
                run.last_save = first = time.monotonic()
            began = time.monotonic()
            batch = run.wait_for(next_batch)
            waited = time.monotonic() - began
            placed = sharding.put_batch(batch, setup.mesh)
            run.state, metrics = run.compiled(run.state, placed, key)
            progress.step = step = step + 1
            meter.add(step, metrics, waited=waited)

            # ---------------- Log -----------------------------------------------------------------
            row = step % config.log.every == 0 or step == run.last
            if pace is None:  # This was the first step of this process.
                meter.restart()
                report.started(step)
                pace = run.pace()
                if not row:
                    report.first(step, meter.newest(), time.monotonic() - first)
            elif not row and (line := pace.line(step)):
                say_once(line)
            report.stepped(step)
            if row:
                pace.told = True  # Rows contain the time left.
                run.log()

            # ---------------- Stop ----------------------------------------------------------------
            stop, late = run.agreement.any(run.signals.received is not None, run.save_is_late())
            if stop:
                raise Stop
            # A host may have asked for it before the last save.
            late = late and step > run.saved_step + run.agreement.lag
