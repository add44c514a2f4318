"""A run from config to results, read from top to bottom; `main` and notebooks call `train`."""

import contextlib
import json
import pathlib
import time

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from colorize_jax.config import check_numbers
from colorize_jax.data import pipeline, sources
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.errors import CheckpointError, ConfigError, NonFiniteError
from colorize_jax.evaluation.runner import Runner
from colorize_jax.tasks.task import make_task
from colorize_jax.training import checkpoint, optimizers, sharding
from colorize_jax.training.meter import Meter
from colorize_jax.training.report import Report
from colorize_jax.training.step import init_state


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains what `config` describes, or goes on with it, and leaves everything in `workdir`.

    Returns:
        The scores of the last evaluation, also in `workdir/results.json`.

    Raises:
        ColorizeError: with what is wrong and what to do about it.
    """
    # What is asked for, checked before anything is written.
    if "://" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir}: only folders of this machine's file system, so far"
        )
    check_numbers(config)
    workdir = pathlib.Path(workdir)
    mesh = sharding.make_mesh()
    batch_size = config.data.batch_size
    sharding.check_batch(batch_size, config.microbatches, mesh)
    pipeline.check(config.data)
    task = make_task(config)
    photos, held_out = sources.open_splits(config.data.source, config.data.holdout)
    digest = photos.digest() + held_out.digest()
    if jax.process_count() > 1:
        number = np.frombuffer(bytes.fromhex(digest), np.uint8)
        multihost_utils.assert_equal(number, "the hosts do not see the same photos")
    schedule = optimizers.make_schedule(config, len(photos))
    optimizer = optimizers.make_optimizer(config, schedule)
    checkpoint.check_same_run(workdir, config)

    # Where the parameters come from:
    #   1. the newest checkpoint of this run, if there is one;
    #   2. else from scratch: random, depending on the seed alone.
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        checkpoint.write_config(workdir, config)
    key = jax.random.key(config.seed)
    same = sharding.replicated(mesh)
    crop = (batch_size, config.data.crop, config.data.crop, 3)
    blank = {"image": np.zeros(crop, np.uint8), "valid": np.ones(batch_size, bool)}

    def initialize(key):
        return init_state(key, task, optimizer, blank)

    saved = checkpoint.Checkpoints(
        workdir, keep=config.checkpoint.keep, snapshots=schedule.snapshots
    )
    with saved:
        if saved.latest is None:
            state = jax.jit(initialize, out_shardings=same)(key)
            start = 0
        else:
            state, note = saved.restore(jax.eval_shape(initialize, key), same)
            start = note["step"]
            if note["names"] != digest:
                raise CheckpointError(
                    f"{config.data.source} now has {len(photos)} photos to train on, and had "
                    f"{note['photos']} when {workdir} was started, or others: the run cannot go on "
                    "as it began"
                )

        with Report(workdir, step=start, steps=schedule.steps) as report:
            report.say(_describe(config, state, photos, held_out, schedule, mesh))
            report.say(f"going on from step {start}" if start else "starting from scratch")
            step_function = sharding.jit_step(task, optimizer, mesh, config.microbatches)
            rate = schedule.rate(optimizers.initial_rate(config))
            runner = Runner(task, mesh, config.seed)
            hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
            name = (
                "bad_records.jsonl" if not hosts["host"] else f"bad_records_{hosts['host']}.jsonl"
            )
            bad = BadRecords(workdir / name, config.data.max_bad_fraction)

            batches = pipeline.training_batches(
                photos, config, start=0, stop=config.eval.statistics_batches, **hosts
            )
            with contextlib.closing(bad.note(batches, photos)) as batches:
                statistics = runner.statistics(batches)
            meter = Meter(batch_size)

            def evaluate(step):
                batches = pipeline.evaluation_batches(
                    held_out, config, limit=config.eval.photos, **hosts
                )
                with contextlib.closing(bad.note(batches, held_out)) as batches:
                    scores, strips = runner.evaluate(
                        state.variables, statistics, batches, config.eval.pictures
                    )
                scores = {f"eval/{name}": value for name, value in scores.items()}
                report.evaluation(step, scores, strips)
                return scores

            def save(step):
                meter.check()  # a checkpoint holds finite parameters or is not written
                note = {"config": checkpoint.plain(config), "step": step}
                note |= {"position": step * batch_size, "photos": len(photos), "names": digest}
                saved.save(step, state, note)

            scores = evaluate(0) if start == 0 else {}
            last_save = time.monotonic()
            batches = pipeline.training_batches(
                photos, config, start=start, stop=schedule.steps, **hosts
            )
            watched = contextlib.closing(bad.watch(batches, photos))
            with watched as batches, _naming_checkpoint(saved):
                for step in range(start + 1, schedule.steps + 1):
                    began = time.monotonic()
                    batch = next(batches)
                    waited = time.monotonic() - began
                    state, metrics = step_function(state, sharding.put_batch(batch, mesh), key)
                    meter.add(step, metrics, waited=waited)
                    last = step == schedule.steps

                    if step == start + 1:
                        meter.compiled()
                        report.started(step, time.monotonic() - began)
                    if step % config.log.every == 0 or last:
                        values = meter.finish()
                        report.progress(step, values | {"train/rate": float(rate(step - 1))})
                    if step % config.eval.every == 0 or last:
                        meter.check()
                        with meter.paused():
                            scores = evaluate(step)
                    due = step % config.checkpoint.every == 0 or step in schedule.snapshots or last
                    if due or _is_late(last_save, config.checkpoint.seconds, step):
                        with meter.paused():
                            save(step)
                        last_save = time.monotonic()
            saved.wait()
            if start == schedule.steps and not (workdir / "results.json").exists():
                scores = evaluate(start)  # it was killed between its last save and its results
            elif start == schedule.steps:
                scores = json.loads((workdir / "results.json").read_text())
            if jax.process_index() == 0:
                text = json.dumps({"step": schedule.steps} | scores, indent=2)
                (workdir / "results.json").write_text(text + "\n")
            report.say(f"done: {schedule.steps} steps, everything is in {workdir}")
    return scores


def _is_late(last_save: float, seconds: float, step: int) -> bool:
    """Whether the last save is `seconds` ago (0: never). All hosts must save the same step, so with
    several of them the first decides, every tenth step."""
    if not seconds:
        return False
    late = time.monotonic() - last_save > seconds
    if jax.process_count() == 1:
        return late
    return step % 10 == 0 and bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))


@contextlib.contextmanager
def _naming_checkpoint(saved: checkpoint.Checkpoints):
    """Adds to a non-finite loss where the run can go on from."""
    try:
        yield
    except NonFiniteError as error:
        saved.wait()
        kept = "no checkpoint was written yet"
        if saved.latest is not None:
            kept = f"the last good checkpoint is {saved.directory / str(saved.latest)}"
        raise NonFiniteError(
            f"{error}; {kept}. A run with a lower "
            "config.optimizer.rate, in another --workdir, may get through"
        ) from None


def _describe(config, state, photos, held_out, schedule, mesh) -> str:
    count = sum(x.size for x in jax.tree.leaves(state.params))
    device = mesh.devices.flat[0].device_kind
    return (
        f"{config.model.name}, {count:,} parameters, on {mesh.size} x {device}\n"
        f"{len(photos):,} photos to train on, {len(held_out):,} held out\n"
        f"{schedule.steps:,} steps of {config.data.batch_size} photos"
    )
