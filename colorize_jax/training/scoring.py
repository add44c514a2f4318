"""Scores the network of a run on its held-out photos, and draws pictures of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import pathlib
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from colorize_jax.data import pipeline
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ConfigError, OutOfMemoryError
from colorize_jax.log import say_once
from colorize_jax.tasks.task import Task
from colorize_jax.training import export, extremes, memory, pictures
from colorize_jax.training.probing import Probe
from colorize_jax.training.runner import Runner


def check(config, task) -> None:
    """ConfigError if the evaluation asks for something that the task does not have."""
    if config.eval.export and task.evaluator.predict is None:
        raise ConfigError(f"config.eval.export: {config.task.name} predicts no masks to export")


class Scoring:
    """Scores the network of a run on its held-out photos and by its other evaluators.

    Evaluators have names. "" is the task's own evaluator. The scores of another evaluator have its
    name in theirs, as in "eval/knn/top1".

    Args:
        config: the config of the run.
        task: the task of the run.
        runner: the task's runner.
        training, held_out: the two splits.
        bad: notes photos that cannot be read.
        through: a function that all batches pass through; it may end them early.
        probes: the probes of `config.evals`, by name.

    Attributes:
        scores: {"eval/...": number} of the last evaluation.
        rows: {name: [photos, ...]} of the last evaluation, for all readable photos; empty before.
        unreadable: the number of photos in the last evaluation that could not be read.
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
        self._statistics: dict[str, Any] = {}
        self.scores: dict[str, float] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.unreadable = 0
        self._remarks: dict[str, str] = {}  # the last remark of every evaluator

    @property
    def photos(self) -> int:
        """The number of photos that were scored."""
        return len(self.rows["position"])

    def fit(self, variables):
        """The variables with the task's constants fitted to training photos, if it has any."""
        if self._fit is None:
            return variables
        say_once(f"fitting the task's constants to {self._fit.batches:,} training batches")
        with self._training_batches(self._fit.batches) as batches:
            return self._runner.fitted(variables, batches)

    @property
    def evaluators(self) -> frozenset[str]:
        """The names of all evaluators except the task's own."""
        return frozenset(self._runners) - {""}

    def due(self, step: int, every: int, last: bool) -> frozenset[str]:
        """The evaluators that are due after a step.

        Args:
            every: the steps between two evaluations by the task's own evaluator.
            last: whether the run ends with this step; all evaluators are then due.
        """
        if last:
            return frozenset(self._runners)
        own = {name: probe.every for name, probe in self._probes.items()}
        return frozenset(name for name in self._runners if step % (own.get(name, 0) or every) == 0)

    def find_statistics(self) -> None:
        """Computes the statistics of the training split that evaluators need."""
        for name, evaluator in self._evaluators.items():
            if evaluator.statistics is None:
                continue
            with self._training_batches(self._config.eval.statistics_batches) as batches:
                self._statistics[name] = self._runners[name].statistics(batches)

    def with_fresh_norm(self, variables):
        """The variables with averages of batch norm over config.eval.norm_batches batches.

        They stay as they are if that is 0, or if there is no batch norm.
        """
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
        """Evaluation batches of the first `limit` (0: all) photos; None is the run's config."""
        config = config or self._config
        found = pipeline.evaluation_batches(photos, config, limit=limit, **self._host)
        with contextlib.closing(self._bad.note(found, photos)) as found:
            yield self._through(found)

    def score(self, variables, due: Collection[str] | None = None) -> np.ndarray | None:
        """Scores the network by the evaluators that are due (None: by all).

        Returns:
            A picture of the first held-out photos, uint8 [height, width, 3]; None if there is none.

        Raises:
            OutOfMemoryError: the message names the settings to lower.
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
        """The number of photos to score."""
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
        """The scores of an evaluator that is not the task's own, or of a probe."""
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
        """A picture of the photos {number of a row: panels}; None if there are none."""
        if not shown:
            return None
        rows = []
        for number, panels in shown.items():
            row = {name: values[number] for name, values in self.rows.items()}
            caption = self._own.caption(row)
            name = self._held_out.name(int(row["position"]))
            rows.append(pictures.Row(name, panels, caption.text, caption.legend))
        return pictures.page(rows, self._own.panels)

    def write_pictures(self, folder: pathlib.Path, variables) -> None:
        """Writes pictures of the best and worst photos, and all predictions if configured.

        Args:
            folder: a folder with a subfolder `images`, such as a workdir.
            variables: the variables of the network that was scored.
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
