"""A run from config to results, read from top to bottom; `main` and notebooks call `train`."""

import collections
import json
import math
import pathlib
import time

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from colorize_jax.data import pipeline, sources
from colorize_jax.errors import CheckpointError, NonFiniteError
from colorize_jax.evaluation.runner import Runner
from colorize_jax.tasks.task import make_task
from colorize_jax.training import checkpoint, optimizers, sharding
from colorize_jax.training.report import Report
from colorize_jax.training.step import init_state

_RUN_AHEAD = 2  # steps that the host may be ahead of the devices


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains what `config` describes, or goes on with it, and leaves everything in `workdir`.

    Returns:
        The scores of the last evaluation, also in `workdir/results.json`.

    Raises:
        ColorizeError: with what is wrong and what to do about it.
    """
    # What is asked for, checked before anything is written.
    workdir = pathlib.Path(workdir)
    mesh = sharding.make_mesh()
    batch_size = config.data.batch_size
    sharding.check_batch(batch_size, config.microbatches, mesh)
    pipeline.check(config.data)
    task = make_task(config)
    photos, held_out = sources.open_splits(config.data.source, config.data.holdout)
    schedule = optimizers.make_schedule(config, len(photos.names))
    optimizer = optimizers.make_optimizer(config, schedule)
    checkpoint.check_same_run(workdir, config)

    # Where the parameters come from:
    #   1. the newest checkpoint of this run, if there is one;
    #   2. else from scratch: random, depending on the seed alone.
    workdir.mkdir(parents=True, exist_ok=True)
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
            if note["photos"] != len(photos.names):
                raise CheckpointError(
                    f"{config.data.source} now has {len(photos.names)} photos to train on, and had "
                    f"{note['photos']} when {workdir} was started: the run cannot go on as it began"
                )

        with Report(workdir, step=start, steps=schedule.steps) as report:
            report.say(_describe(config, state, photos, held_out, schedule, mesh))
            report.say(f"going on from step {start}" if start else "starting from scratch")
            step_function = sharding.jit_step(task, optimizer, mesh, config.microbatches)
            rate = schedule.rate(optimizers.initial_rate(config))
            runner = Runner(task, mesh, config.seed)
            statistics = runner.statistics(
                pipeline.training_batches(
                    photos, config, start=0, stop=config.eval.statistics_batches
                )
            )

            def evaluate(step):
                def batches():
                    return pipeline.evaluation_batches(held_out, config, photos=config.eval.photos)

                scores = runner.evaluate(state.variables, statistics, batches())
                strips = runner.pictures(state.variables, next(batches()))
                shown = min(config.eval.pictures, len(held_out.names))
                scores = {f"eval/{name}": value for name, value in scores.items()}
                report.evaluation(step, scores, strips[:shown])
                return scores

            def save(step):
                interval.check()
                note = {"config": checkpoint.plain(config), "step": step}
                note |= {"position": step * batch_size, "photos": len(photos.names)}
                saved.save(step, state, note)

            interval = _Interval(batch_size, workdir)
            scores = evaluate(0) if start == 0 else {}
            batches = pipeline.training_batches(photos, config, start=start, stop=schedule.steps)
            last_save = time.monotonic()
            for step in range(start + 1, schedule.steps + 1):
                began = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - began
                state, metrics = step_function(state, sharding.put_batch(batch, mesh), key)
                interval.add(step, metrics, waited)

                if step == start + 1:
                    jax.block_until_ready(metrics)
                    report.started(step, time.monotonic() - began)
                    interval.restart_clock()
                logs = step % config.log.every == 0 or step == schedule.steps
                if logs:
                    values = interval.finish()
                    report.progress(step, values | {"train/rate": float(rate(step - 1))})
                if step % config.eval.every == 0 or step == schedule.steps:
                    with interval.paused():
                        scores = evaluate(step)
                late = config.checkpoint.seconds and (
                    time.monotonic() - last_save > config.checkpoint.seconds
                )
                if jax.process_count() > 1:  # all hosts must save the same step: the first decides
                    late = logs and bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))
                if (
                    late
                    or step % config.checkpoint.every == 0
                    or step in schedule.snapshots
                    or step == schedule.steps
                ):
                    with interval.paused():
                        save(step)
                    last_save = time.monotonic()
            batches.close()
            saved.wait()
            scores = scores or evaluate(schedule.steps)
            if jax.process_index() == 0:
                text = json.dumps({"step": schedule.steps} | scores, indent=2)
                (workdir / "results.json").write_text(text + "\n")
            report.say(f"done: {schedule.steps} steps, everything is in {workdir}")
    return scores


class _Interval:
    """Metrics of the steps since the last log, left on the devices until they are asked for."""

    def __init__(self, batch_size: int, workdir: pathlib.Path):
        self._batch_size, self._workdir = batch_size, workdir
        self._pending: collections.deque = collections.deque()
        self._values: list[dict] = []
        self._waited = self._excluded = 0.0
        self._timed = 0
        self._start = time.monotonic()

    def add(self, step: int, metrics: dict, waited: float) -> None:
        self._pending.append((step, metrics))
        self._waited += waited
        self._timed += 1
        if len(self._pending) > _RUN_AHEAD:
            jax.block_until_ready(self._pending[-1 - _RUN_AHEAD][1])

    def restart_clock(self) -> None:
        """Time so far does not count."""
        self._start, self._waited, self._excluded, self._timed = time.monotonic(), 0.0, 0.0, 0

    def paused(self):
        """A context whose time does not count."""
        return _Paused(self)

    def check(self) -> None:
        """NonFiniteError if a step since the last log went wrong; waits for the devices."""
        while self._pending:
            step, metrics = self._pending.popleft()
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not all(map(math.isfinite, metrics.values())):
                first = (step - 1) * self._batch_size
                shown = ", ".join(f"{name} {value}" for name, value in metrics.items())
                raise NonFiniteError(
                    f"step {step} is not finite ({shown}). Its batch holds positions {first} to "
                    f"{first + self._batch_size - 1}. The last good checkpoint in {self._workdir} "
                    "is kept. A lower config.optimizer.rate usually helps"
                )
            self._values.append(metrics)

    def finish(self) -> dict[str, float]:
        """Means since the last log, and the speed; starts the next interval."""
        self.check()
        seconds = time.monotonic() - self._start - self._excluded
        values = {
            f"train/{name}": sum(v[name] for v in self._values) / len(self._values)
            for name in self._values[0]
        }
        rate = self._timed * self._batch_size / seconds if self._timed else float("nan")
        values["train/images_per_second"] = rate
        values["train/data_wait"] = self._waited / seconds
        self._values = []
        self.restart_clock()
        return values


class _Paused:
    def __init__(self, interval: _Interval):
        self._interval = interval

    def __enter__(self):
        self._began = time.monotonic()

    def __exit__(self, *exception):
        self._interval._excluded += time.monotonic() - self._began


def _describe(config, state, photos, held_out, schedule, mesh) -> str:
    count = sum(x.size for x in jax.tree.leaves(state.params))
    device = mesh.devices.flat[0].device_kind
    return (
        f"{config.model.name}, {count:,} parameters, on {mesh.size} x {device}\n"
        f"{len(photos.names):,} photos to train on, {len(held_out.names):,} held out\n"
        f"{schedule.steps:,} steps of {config.data.batch_size} photos"
    )
