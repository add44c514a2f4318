"""Scoring a network on a split: the pictures and files of it, and doing so again later."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import pathlib
import time
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from colorize_jax.checkpoints import reading
from colorize_jax.data import pipeline, splits
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.errors import CheckpointError, ConfigError, OutOfMemoryError
from colorize_jax.log import say_once
from colorize_jax.tasks.task import Task
from colorize_jax.training import (
    export,
    extremes,
    hosts,
    known,
    memory,
    pictures,
    probing,
    results,
    same_run,
    sharding,
    start,
)
from colorize_jax.training.probing import Probe
from colorize_jax.training.runner import Runner
from colorize_jax.training.setup import check_settings, set_up
from colorize_jax.training.step import init_variables

Tree = Any


@hosts.loss_explained()
def evaluate(
    config, path: str, output: pathlib.Path, stated: Collection[str] | None = None
) -> dict[str, float]:
    """Scores the network of a checkpoint on the evaluation split of `config`.

    The network follows the checkpoint, and so does the share of the photos that is held out, if
    their source is the one that it was trained on; of another source without splits all photos are
    scored. See `known.for_evaluation` and `known.to_score`.

    Args:
        config: of the run that trained it; what belongs to the evaluation may differ.
        path: a run's workdir (its newest complete checkpoint), or one of its checkpoints/<step>.
        output: folder for results.json, images/ and, with config.eval.export, the predictions.
        stated: settings that were given on a command line; see `known.settled`.

    Returns:
        {"eval/...": number}.

    Raises:
        ColorizeError: with what is wrong and what to do about it.
    """
    began = time.monotonic()
    same_run.check_hosts(config, workdir=None)
    folder = reading.find(path)
    note = reading.saved_note(folder)
    stated = known.by_default(config) if stated is None else stated
    config, taken = known.for_evaluation(config, note, stated)
    for line in taken:
        say_once(line)
    mesh = sharding.make_mesh()
    check_settings(config, mesh, training=False)
    if config.early_stopping.mode != "off":
        raise ConfigError(
            "evaluation is of config.data.eval_split: leave early_stopping.mode 'off'"
        )
    _check_network(folder, note["config"], config)
    config, opened, which, remarks = known.to_score(config, note, stated)
    setup = set_up(config, mesh, opened, training=False, trained_on=note.get("photos", 0))
    for warning in (
        *remarks,
        *opened.warnings,
        *splits.look_at_masks(opened, config, training=False),
    ):
        say_once(warning)
    photos, held_out, task = opened.training, opened.evaluation, setup.task
    check(config, task)
    probes = probing.open_probes(config, task)
    hosts.check_same(
        same_run.photo_facts(config, photos, held_out)
        | probing.facts(probes)
        | {"checkpoint": start.identity(config, folder)}
    )
    shapes = jax.eval_shape(
        lambda batch: init_variables(jax.random.key(0), task, batch), setup.batch_shapes
    )
    variables = reading.read_variables(folder, shapes, sharding.replicated(mesh))
    count = min(config.eval.photos or len(held_out), len(held_out))
    for line in probing.lines(probes):
        say_once(line)
    say_once(f"evaluating {folder} on {count:,} photos of {config.data.source} ({which})")

    hosts.first_does(lambda: (output / "images").mkdir(parents=True, exist_ok=True))
    bad = BadRecords(output / "bad_records.jsonl", config.data.max_bad_fraction, say=say_once)
    scored = Scoring(config, task, setup.runner, photos, held_out, bad, probes=probes)
    scored.find_statistics()
    variables = scored.with_fresh_norm(variables)
    picture = scored.score(variables)
    step = note["step"] if "step" in note else int(folder.name)
    summary = results.Results(
        config=config, step=step, scores=scored.scores, best={}, score=task.score,
        evaluators=scored.evaluators,
        checkpoint=folder, which=which,
        trained_on=note.get("photos", len(photos)), evaluated_on=scored.photos,
        digest=photos.digest() + held_out.digest(), seconds=time.monotonic() - began,
        start=note.get("start", start.RANDOM), unreadable=scored.unreadable,
    )  # fmt: skip
    if picture is not None:
        file = pictures.png(picture)
        hosts.first_does(lambda: (output / "images" / f"{step}.png").write_bytes(file))
    hosts.first_does(lambda: results.write(output / results.FILE, summary))
    say_once(results.table(summary))
    scored.leave_pictures(output, variables)
    return scored.scores


class Scoring:
    """The held-out photos of a run, and how its network does on them and in other evaluators.

    Evaluators have names. "" is how the task itself is scored; scores of others are called after
    them, as in "eval/knn/top1".

    Args:
        config: of the run.
        task: what is learned.
        runner: of the task.
        training, held_out: the two splits.
        bad: is told which photos cannot be read.
        through: all batches pass through it; it may stop them.
        probes: of `config.evals`, by name.

    Attributes:
        scores: {"eval/...": number} of the last evaluation.
        rows: of that, {name: [photos, ...]} for every photo that could be read; empty before.
        unreadable: number of those that could not.
    """

    def __init__(
        self,
        config,
        task: Task,
        runner: Runner,
        training: Photos | Labelled,
        held_out: Photos | Labelled,
        bad: BadRecords,
        through: Callable[[Iterator[dict]], Iterator[dict]] = iter,
        probes: Mapping[str, Probe] = MappingProxyType({}),
    ):
        self._config, self._own, self._fit = config, task.evaluator, task.fit
        self._runner, self._evaluators, self._probes = runner, task.evaluators, probes
        others = {name: own for name, own in task.evaluators.items() if name}
        others |= {name: probe.evaluator for name, probe in probes.items()}
        self._runners = {"": runner} | {name: runner.of(own) for name, own in others.items()}
        self._training, self._held_out = training, held_out
        self._bad, self._through = bad, through
        self._host = {"host": jax.process_index(), "hosts": jax.process_count()}
        self._statistics: dict[str, Tree] = {}
        self.scores: dict[str, float] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.unreadable = 0
        self._remarks: dict[str, str] = {}  # the last ones

    @property
    def photos(self) -> int:
        """How many were scored."""
        return len(self.rows["position"])

    def fit(self, variables):
        """With the constants that the task fits to training photos; the same if it fits none."""
        if self._fit is None:
            return variables
        say_once(f"fitting the task's constants to {self._fit.batches:,} training batches")
        with self._training_batches(self._fit.batches) as batches:
            return self._runner.fitted(variables, batches)

    @property
    def evaluators(self) -> frozenset[str]:
        """Names of all but the task's own one."""
        return frozenset(self._runners) - {""}

    def due(self, step: int, every: int, last: bool) -> frozenset[str]:
        """The evaluators that are due after a step.

        Args:
            every: steps from one evaluation of the task to the next.
            last: whether the run ends with this step: then all are.
        """
        if last:
            return frozenset(self._runners)
        own = {name: probe.every for name, probe in self._probes.items()}
        return frozenset(name for name in self._runners if step % (own.get(name, 0) or every) == 0)

    def find_statistics(self) -> None:
        """What the task's evaluators want to know about the training split."""
        for name, evaluator in self._evaluators.items():
            if evaluator.statistics is None:
                continue
            with self._training_batches(self._config.eval.statistics_batches) as batches:
                self._statistics[name] = self._runners[name].statistics(batches)

    def with_fresh_norm(self, variables):
        """With averages of batch norm over config.eval.norm_batches; the same if that is 0, or if
        there is no batch norm."""
        count = self._config.eval.norm_batches
        if not count or not variables.get("batch_stats"):
            return variables
        with self._training_batches(count) as batches:
            return self._runner.fresh_norm(variables, batches)

    @contextlib.contextmanager
    def _training_batches(self, count: int):
        batches = pipeline.training_batches(
            self._training, self._config, start=0, stop=count, workers=0, **self._host
        )
        with contextlib.closing(self._bad.note(batches, self._training)) as batches:
            yield self._through(batches)

    @contextlib.contextmanager
    def batches(self, photos: Photos | Labelled, limit: int = 0, config=None):
        """Batches of (at most so many of) these photos as evaluation sees them, by the config of
        the run or by another one."""
        config = config or self._config
        found = pipeline.evaluation_batches(photos, config, limit=limit, **self._host)
        with contextlib.closing(self._bad.note(found, photos)) as found:
            yield self._through(found)

    def score(self, variables, due: Collection[str] | None = None) -> np.ndarray | None:
        """Scores the network by the evaluators that are due; None: by all.

        Returns:
            A picture of the first held-out photos, uint8 [height, width, 3]; None without any.

        Raises:
            OutOfMemoryError: with what to lower.
        """
        due = frozenset(self._runners) if due is None else due
        self.scores, picture = {}, None
        try:
            if "" in due:
                picture = self._score_task(variables)
            for name in self._runners:
                if name and name in due:
                    found = self._score_other(name, variables)
                    self.scores |= {f"eval/{name}/{key}": value for key, value in found.items()}
        except jax.errors.JaxRuntimeError as error:
            if not memory.exhausted(error):
                raise
            size = self._config.data.batch_size
            raise OutOfMemoryError(
                f"out of memory while {size} photos at a time are evaluated "
                f"(config.eval.view={self._config.eval.view!r}): lower it with a smaller "
                "config.data.batch_size or config.data.longest_side, or "
                f"config.model.dtype=bfloat16. JAX said: {str(error).splitlines()[0]}"
            ) from None
        return picture

    @property
    def _limit(self) -> int:
        """How many photos are to be scored."""
        return min(self._config.eval.photos or len(self._held_out), len(self._held_out))

    def _score_task(self, variables) -> np.ndarray | None:
        with self.batches(self._held_out, self._limit) as batches:
            found, self.rows, shown = self._runner.evaluate(
                variables, self._statistics.get(""), batches, self._config.eval.pictures
            )
        self._say_remark("", found)
        self.scores |= {f"eval/{name}": value for name, value in found.items()}
        self.unreadable = self._limit - self.photos
        if self.unreadable:
            say_once(
                f"{self.unreadable} of the photos to evaluate on could not be read and do not "
                "count: see bad_records.jsonl"
            )
        numbers = {int(position): i for i, position in enumerate(self.rows["position"])}
        return self._draw({numbers[position]: panels for position, panels in shown.items()})

    def _score_other(self, name: str, variables) -> dict[str, float]:
        """The scores of an evaluator of the task besides its own one, or of a probe."""
        runner = self._runners[name]
        if name in self._probes:
            probe, rows = self._probes[name], []
            for photos in probe.parts:
                with self.batches(photos, config=probe.config) as batches:
                    rows.append(runner.evaluate(variables, None, batches)[1])
            return probe.score(rows)
        with self.batches(self._held_out, self._limit) as batches:
            found, *_ = runner.evaluate(variables, self._statistics.get(name), batches)
        self._say_remark(name, found)
        return found

    def _say_remark(self, name: str, found: dict[str, float]) -> None:
        remark = self._evaluators[name].remark(found)
        if remark and remark != self._remarks.get(name):
            say_once(remark)
        self._remarks[name] = remark

    def _draw(self, shown: Mapping[int, Sequence[np.ndarray]]) -> np.ndarray | None:
        """{number of a row: panels} -> a picture of those photos; None of none."""
        if not shown:
            return None
        rows = []
        for number, panels in shown.items():
            row = {name: values[number] for name, values in self.rows.items()}
            caption = self._own.caption(row)
            name = self._held_out.name(int(row["position"]))
            rows.append(pictures.Row(name, panels, caption.text, caption.legend))
        return pictures.page(rows, self._own.panels)

    def leave_pictures(self, folder: pathlib.Path, variables) -> None:
        """The best and the worst photos, and all predictions if they are asked for.

        Args:
            folder: a workdir, or one like it, with `images` in it.
            variables: of the network that was scored.
        """
        data = self._config.data
        if "score" in self.rows and self._config.eval.pictures:
            extremes.write(
                folder / "images", self._runner, variables, self._held_out, self.rows, self.batches,
                self._draw,
            )  # fmt: skip
        if self._config.eval.export:
            split = pathlib.PurePath(data.eval_split or data.split).stem
            where = export.write(
                folder, self._runner, variables, self._held_out, split, self.batches
            )
            say_once(f"predictions: {where}")


def check(config, task) -> None:
    """ConfigError if the task has not what the evaluation is asked for."""
    if config.eval.export and task.evaluator.predict is None:
        raise ConfigError(f"config.eval.export: {config.task.name} predicts no masks to export")


# What training alone is concerned with.
_HARMLESS = tuple(f"config.model.{name}:" for name in ("dtype", "remat", "norm_decay"))


def _check_network(folder: pathlib.Path, saved: dict, config) -> None:
    """CheckpointError if the config describes another network than was trained: some of what
    differs does not show in the parameters."""
    differ = [
        line
        for line in same_run.differences(saved, config)
        if line.strip().startswith(("config.model.", "config.task.name", "config.task.classes"))
        and not line.strip().startswith(_HARMLESS)
    ]
    if differ:
        raise CheckpointError(
            f"{folder} holds another network than this config. Set the config to it:\n"
            + "\n".join(differ)
        )
