"""Prepares a run for its first step: checks, resuming, compiling, and the first parameters."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import pathlib
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from colorize_jax.checkpoints import reading
from colorize_jax.data import fingerprint, pipeline, relabel, sources, splits, storage
from colorize_jax.errors import DataError
from colorize_jax.log import say_once
from colorize_jax.models import norm
from colorize_jax.tasks.task import Batch
from colorize_jax.training import (
    forecast,
    hosts,
    known,
    memory,
    probing,
    results,
    same_run,
    scoring,
    search,
    sharding,
    start,
    weights_and_biases,
)
from colorize_jax.training.progress import Progress
from colorize_jax.training.run import Run
from colorize_jax.training.saving import Checkpoints
from colorize_jax.training.setup import Setup, check_settings, set_up


class Checked(NamedTuple):
    """A checked run, before anything is written.

    Attributes:
        setup: the parts of the run that never change.
        progress: the progress of a run without any step.
        contents: what `fingerprint.contents` returned.
        origin: the checkpoint of `config.init_from`; None without one, or if the run has begun.
        buckets: the file that says how `config.data.relabel` joins classes; empty if it does not.
    """

    setup: Setup
    progress: Progress
    contents: list[tuple[str, str]]
    origin: pathlib.Path | None
    buckets: bytes


def check(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh) -> Checked:
    """Checks the config and opens the photos; compares all hosts. Nothing is written."""
    checked = hosts.together(lambda: _check(config, workdir, mesh))
    setup = checked.setup
    hosts.check_same(
        same_run.photo_facts(config, setup.training, setup.held_out, checked.contents)
        | probing.facts(setup.probes)
        | {
            "steps and drops of the rate": checked.progress.schedule,
            "checkpoint of config.init_from": start.identity(config, checked.origin),
        }
    )
    return checked


def _check(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh) -> Checked:
    """On this host."""
    check_settings(config, mesh)
    weights_and_biases.check(config)
    same_run.check_config(workdir, config)
    opened = _open_photos(config, workdir)
    setup = set_up(config, mesh, opened)
    same_run.check_config(workdir, config)  # The number of classes is now known.
    for warning in (*opened.warnings, *splits.look_at_masks(opened, config)):
        say_once(warning)
    scoring.check(config, setup.task)
    setup = dataclasses.replace(setup, probes=probing.open_probes(config, setup.task))
    stopping = search.begin(config, setup.task.score)
    origin, which = None, results.evaluated(config)
    if not same_run.begun(workdir):
        origin = start.find(config)
        start.check(config, setup.task.model.encoder, origin)
        if origin is not None:
            which = _look_at_start(setup, origin) or which
    if small := forecast.small_settings(config, mesh.devices.flat[0].platform):
        say_once(small)
    contents = fingerprint.contents((setup.training, setup.held_out), config.data.threads)
    progress = Progress(
        config=same_run.plain(config),
        photos=len(setup.training),
        names=setup.training.digest() + setup.held_out.digest(),
        contents=[digest for _, digest in contents],
        classes=list(opened.classes),
        schedule=[setup.schedule.steps, *setup.schedule.drops],
        microbatches=config.microbatches,
        which=which,
        search=stopping,
    )
    buckets = relabel.table(config.data.relabel, config.seed, opened.buckets)
    return Checked(setup, progress, contents, origin, buckets)


def _open_photos(config: ConfigDict, workdir: pathlib.Path) -> splits.Splits:
    """Opens the splits. A run that has begun waits for photos that are missing now."""
    if not same_run.begun(workdir):
        return splits.open_splits(config)
    data = config.data

    def opened():
        try:
            return splits.open_splits(config)
        except (DataError, OSError) as error:
            if gone := storage.missing((*sources.parse(data.source)[0], data.sbd)):
                raise storage.StorageAway(gone) from error
            raise

    return storage.wait_for_storage(opened, data.retry_seconds)


def _look_at_start(setup: Setup, origin: pathlib.Path) -> str:
    """A warning if the checkpoint to start from was trained on held-out photos; "" otherwise."""
    config = setup.config
    saved = reading.saved_note(origin)["config"]
    before, now = saved.get("data", {}), config.data
    if now.labels or before.get("holdout") == now.holdout:
        return ""
    seen = known.trained_on(setup.held_out, config, saved)
    if not seen:
        return ""
    say_once(
        f"{seen:,} of the {len(setup.held_out):,} photos held out were trained on by "
        f"{origin}, which held out {before.get('holdout')}: the scores are too good"
    )
    return f"held out, {seen:,} of them from the start's training too"


def resume(checked: Checked, saved: Checkpoints, wait: Callable) -> int | None:
    """Takes the progress over from the newest usable checkpoint and returns its step, or None.

    Args:
        checked: the checked run; its progress is updated.
        saved: the run's checkpoints.
        wait: `run.wait_for` with the signals of the run.

    Raises:
        CheckpointError: the checkpoint belongs to a run on other photos or with another schedule,
            or no checkpoint can be used.
    """
    setup, progress = checked.setup, checked.progress
    newest = saved.usable(wait(lambda: hosts.together(saved.verify)))
    if newest is None:
        return None
    note = wait(lambda: hosts.together(lambda: saved.note(newest, progress.form)))
    config, workdir = setup.config, saved.directory.parent
    same_run.check_photos(workdir, config, note, progress.photos, progress.names)
    same_run.check_contents(workdir, config, note, checked.contents)
    if progress.search is None:
        now = progress.schedule
        same_run.check_schedule(workdir, config, note.get("schedule", now), now)
    progress.resume(note)
    return newest


def first_batch(run: Run) -> Batch:
    """A batch on the devices, which gives the shapes."""
    setup = run.setup
    batches = pipeline.training_batches(
        setup.training, setup.config, start=0, stop=1, workers=0, **setup.host
    )
    with contextlib.closing(run.bad.note(batches, setup.training)) as batches:
        batch = run.wait_for(lambda: next(batches))
    return sharding.put_batch(batch, setup.mesh)


def compile_step(run: Run, batch: Batch) -> None:
    """Compiles the step.

    The number of microbatches is the config's, or else the run's so far, or else the smallest that
    fits into memory.
    """
    setup, progress = run.setup, run.progress
    config, before = setup.config, progress.microbatches

    def compiled(microbatches: int):
        return setup.lower_step(microbatches, batch).compile()

    say_once("compiling the step")
    began, rows = time.monotonic(), config.data.batch_size // setup.mesh.size
    if config.microbatches or (before and rows % before == 0):
        progress.microbatches = config.microbatches or before
        run.compiled = compiled(progress.microbatches)
    else:
        limit = hosts.first_says(memory.available(jax.local_devices()[0]))
        progress.microbatches, run.compiled = memory.smallest_that_fits(
            compiled, rows, limit, config
        )
        found = f"config.microbatches=0: {progress.microbatches} fit(s) into the memory of a device"
        say_once(found + (f"; the run had {before} so far" if before else ""))
    gib = memory.need(run.compiled) / memory.GIB
    say_once(
        f"compiled in {time.monotonic() - began:.1f} s; it needs {gib:.2f} GiB on every device"
    )


def place_parameters(
    run: Run, batch: Batch, newest: int | None, origin: pathlib.Path | None
) -> None:
    """Sets the state of a run.

    1. If the run has a usable checkpoint, all of the state comes from the newest one.
    2. Otherwise the parameters are random and depend only on the seed.
    3. The task fits its constants to training photos.
    4. The encoder comes from `config.init_from`, if that is given (start.py).

    Args:
        run: the run.
        batch: a batch, which gives the shapes.
        newest: the step of the newest usable checkpoint, or None.
        origin: the checkpoint of `config.init_from`, or None.
    """
    setup, config = run.setup, run.setup.config
    places = setup.places(batch)
    if newest is not None:
        shapes = setup.abstract_state(batch)
        run.take(run.wait_for(lambda: run.saved.restore(newest, shapes, places)))
        say_once(f"going on from step {newest}, checkpoint {run.saved.directory / str(newest)}")
        return
    state = jax.jit(setup.initialize, out_shardings=places)(setup.key, batch=batch)
    state = state.with_variables(run.scoring.fit(state.variables))
    if config.init_from == start.RANDOM:
        say_once("starting from scratch")
        run.take(state)
        return
    origin = origin or start.find(config)
    encoder = run.wait_for(
        lambda: start.load_start(
            config, setup.task.model.encoder, origin, lambda count: _first_photos(run, count)
        )
    )
    run.take(start.place(state, encoder, sharding.replicated(setup.mesh)))
    run.progress.start = str(encoder.folder)
    say_once(start.describe(config, encoder, run.state))


def _first_photos(run: Run, count: int) -> Iterator[jax.Array]:
    """Batches of at least `count` training photos, the same on every host."""
    photos, config = run.setup.training, run.setup.config
    batches = -(-count // config.data.batch_size)
    found = pipeline.training_batches(photos, config, start=0, stop=batches, workers=0)
    with contextlib.closing(run.bad.note(found, photos)) as found:
        for batch in found:
            image = batch["image"]
            yield image if config.data.views == 1 else image[:, 0]


def describe(run: Run) -> None:
    """Prints the network, the photos, the devices, and a guess of the run's duration."""
    setup, progress, config = run.setup, run.progress, run.setup.config
    mesh, size, schedule = setup.mesh, config.data.batch_size, setup.schedule
    count = sum(x.size for x in jax.tree.leaves(run.state.params))
    device = mesh.devices.flat[0].device_kind
    parts = f" in {progress.microbatches} microbatches" if progress.microbatches > 1 else ""
    limit = config.eval.photos or len(setup.held_out)
    scored = f", {limit:,} of them evaluated" if limit < len(setup.held_out) else ""
    say_once(
        f"{config.model.name}, {count:,} parameters, on {mesh.size} x {device}\n"
        f"{progress.photos:,} photos to train on, {len(setup.held_out):,} held out{scored}\n"
        f"{schedule.steps:,} steps of {size} photos, {size // mesh.size} on every device{parts}"
    )
    for line in probing.lines(setup.probes):
        say_once(line)
    if left := run.last - progress.step:
        say_once(forecast.guess(run.compiled, config, progress.microbatches, left))
    running = run.state.collections["batch_stats"] and not config.eval.norm_batches
    if running and (lag := norm.warning(config.model.norm_decay, schedule.steps)):
        say_once(lag)
