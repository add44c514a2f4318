"""Probes of the encoder during training, as `config.evals` sets them."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, Protocol

import jax
import numpy as np

from colorize_jax.data import sources, splits
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.features import features, probes, spread
from colorize_jax.log import say_once
from colorize_jax.tasks.task import Evaluator, Task

# Folders with these names contain the folders of classes, and are no classes themselves.
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class Probe(Protocol):
    """One entry of `config.evals`: scores of one layer of the encoder.

    The network is not in training mode: it normalizes by its running averages, and nothing of it
    changes.

    Attributes:
        every: the steps between two evaluations; 0 evaluates together with the task.
        parts: one or several sets of photos.
        config: the config for `pipeline.evaluation_batches`, by which they are seen.
        evaluator: returns the rows that `score` needs.
        lines: lines about the probe, for the user.
    """

    every: int
    parts: tuple[Photos | Labelled, ...]
    config: Any
    evaluator: Evaluator
    lines: list[str]

    def score(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """The scores. They are NaN, and the reason is printed, if the features cannot be used.

        Args:
            rows: what the evaluator returned for all photos of each of the `parts`.
        """


class Classes(Probe):
    """How well a simple classifier predicts classes.

    The parts are the photos to learn from and the photos to score.

    Args:
        name: the name of the entry, which is also the kind of probe: one of `probes.KINDS`.
        config: the config of the run.
        task: the task of the run, whose encoder is probed.

    Raises:
        ColorizeError: there are no photos, they have no classes or only one, or the encoder has no
            such layer. The message names the setting.
    """

    def __init__(self, name: str, config, task: Task):
        own = config.evals[name]
        self.name, self.every, self.config = name, own.every, _seen_so(config, own)
        opened = self._open()
        self.parts = tuple(
            _some(photos, own.photos) for photos in (opened.training, opened.evaluation)
        )
        self._classes = opened.classes
        layer = _layer(name, config, task)
        self.evaluator = _features_of(task.model.encoder, layer)
        if name == "knn":
            voting = probes.voters(self.parts[0].labels, own.neighbors)
            self._options = {"neighbors": voting, "temperature": own.temperature}
            how = f"{voting} neighbors vote with temperature {own.temperature:g}"
            if voting < own.neighbors:
                how = f"{how} ({own.neighbors} are too many for so few photos)"
        else:
            names = ("regularization", "iterations")
            self._options = {option: own[option] for option in names}
            how = ", ".join(f"{option} {value:g}" for option, value in self._options.items())
        learned, scored = map(len, self.parts)
        said = (
            f"{layer}, {len(self._classes)} classes of {own.source}, {learned:,} photos to learn "
            f"from, {scored:,} to score; {how}"
        )
        self.lines = [_named(name, line) for line in (*opened.warnings, said)]

    def _open(self) -> splits.Splits:
        place = f"config.evals.{self.name}"
        try:
            opened = splits.open_splits(self.config)
        except ColorizeError as error:
            raise type(error)(_named(self.name, str(error))) from error
        if len(opened.classes) < 2:
            raise ConfigError(
                f"{place}: the photos of {self.config.data.source} are of one class alone, "
                f"{opened.classes[0]!r}: there is nothing to tell apart"
            )
        if not self.config.data.split and _SPLITS.issuperset(opened.classes):
            first, *_, last = opened.classes
            raise ConfigError(
                f"{place}: the folders {', '.join(opened.classes)} of {self.config.data.source} "
                f"would be the classes: name those that hold the classes, as in --{place}.split="
                f"{first} --{place}.eval_split={last}"
            )
        return opened

    def score(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{"top1": share of right answers}, and with more than five classes also "top5"."""
        learned, scored = ((part["features"], part["labels"]) for part in rows)
        try:
            found = probes.probe(self.name, learned, scored, **self._options)
        except ConfigError as error:
            say_once(f"config.evals.{self.name} has no scores: {error}")
            found = {}
        names = ("top1", "top5") if len(self._classes) > 5 else ("top1",)
        return {name: found.get(name, math.nan) for name in names}


class Spread(Probe):
    """How features spread over their space; needs no labels. See `features.spread`.

    Each photo is seen in two crops, drawn as in training but the same at every evaluation. The
    first ones give the rank and the uniformity, both give the alignment.

    Args:
        config: the config of the run.
        task: the task of the run, whose encoder is probed.

    Raises:
        ColorizeError: there are no photos or only one, or the encoder has no such layer. The
            message names the setting.
    """

    def __init__(self, config, task: Task):
        own, name = config.evals.spread, "spread"
        self.every, self._share, self._collapsed = own.every, own.share, False
        self.config = config.copy_and_resolve_references()
        with self.config.unlocked():
            self.config.eval.view = "random2"
        try:
            photos = sources.open_all(own.source)
        except ColorizeError as error:
            raise type(error)(_named(name, str(error))) from error
        if len(photos) < 2:
            raise ConfigError(f"config.evals.spread: {own.source} has one photo alone")
        if 0 < own.photos < len(photos):
            photos = photos.some(own.photos, seed=0)
        self.parts = (photos,)
        self._layer = _layer(name, config, task)
        self.evaluator = _features_of(task.model.encoder, self._layer)
        said = f"{self._layer}, {len(photos):,} photos of {own.source}"
        self.lines = [_named(name, said)]

    def score(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{"rank", "alignment", "uniformity"}.

        If the rank is below the stated share of the largest possible one, that is said, once until
        it has risen again.
        """
        found = rows[0]["features"]
        first, second = found[:, 0], found[:, 1]
        if not np.isfinite(found).all():
            say_once("config.evals.spread has no scores: some features are not finite")
            return dict.fromkeys(("rank", "alignment", "uniformity"), math.nan)
        rank, most = spread.rank(first), min(first.shape)
        collapsed = rank < self._share * most
        if collapsed and not self._collapsed:
            say_once(
                f"collapse: the features of {self._layer} have an effective rank of {rank:.1f}, "
                f"of {most} that are possible: photos can hardly be told apart by them. This is "
                f"said below a share of {self._share:g} (config.evals.spread.share)"
            )
        self._collapsed = collapsed
        return {
            "rank": rank,
            "alignment": spread.alignment(first, second),
            "uniformity": spread.uniformity(first),
        }


def open_probes(config, task: Task) -> dict[str, Probe]:
    """{name: probe} of all entries of `config.evals` that have a source."""
    found = {}
    for name in config.evals:
        if not config.evals[name].source:
            continue
        if name in task.evaluators:
            raise ConfigError(
                f"config.evals.{name}: {config.task.name} has an evaluator of that name itself; "
                f"leave config.evals.{name}.source empty"
            )
        found[name] = Spread(config, task) if name == "spread" else Classes(name, config, task)
    return found


def lines(found: Mapping[str, Probe]) -> list[str]:
    """One line about every probe, for the user."""
    return [line for probe in found.values() for line in probe.lines]


def facts(found: Mapping[str, Probe]) -> dict:
    """The facts about the probes that must be equal on all hosts, for `hosts.check_same`."""
    return {
        f"photos of evals.{name}": [photos.digest() for photos in probe.parts]
        for name, probe in found.items()
    }


def _seen_so(config, own):
    """The config with the photos of an entry, of which the central crop is seen."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(
            source=own.source, split=own.split, eval_split=own.eval_split, holdout=own.holdout,
            labels="folders", relabel="", per_class=0, label_share=0.0, photos=0,
        )  # fmt: skip
        config.task.classes = 0  # The photos decide.
        config.eval.view = "center"
        config.early_stopping.mode = "off"
    return config


def _some(photos: Labelled, count: int) -> Labelled:
    """The first `count` (0: all) photos by a hash of their names, which come from all classes."""
    order = np.argsort(photos.hashes(), kind="stable")
    return photos.part(order[: count or len(order)])


def _named(name: str, said: str) -> str:
    """A message about a data set, with the names of the settings of this entry."""
    place = f"config.evals.{name}"
    return f"{place}: " + said.replace("config.data.", f"{place}.")


def _layer(name: str, config, task: Task) -> str:
    """The layer of the encoder that an entry names; "" is the top one."""
    encoder = task.model.encoder
    layer = config.evals[name].layer or encoder.top
    if layer not in encoder.strides:
        raise ConfigError(
            f"config.evals.{name}.layer={layer!r}: {config.model.name} has "
            f"{', '.join(encoder.strides)}"
        )
    return layer


def _features_of(encoder, layer: str) -> Evaluator:
    """An evaluator that returns "features", the layer's mean over its positions, and any "labels".

    The features of photos are [batch, channels], those of several crops of each photo [batch,
    crops, channels].
    """
    extract = features.make_extractor(encoder, (layer,), "mean")

    def on_batch(variables, statistics, keys, batch):
        del statistics, keys
        own = {kind: tree["encoder"] for kind, tree in variables.items() if "encoder" in tree}
        *some, height, width, channels = batch["image"].shape
        images = batch["image"].reshape(-1, height, width, channels)
        found = extract(jax.lax.stop_gradient(own), images)[layer].reshape(*some, -1)
        labels = {name: batch[name] for name in ("labels",) if name in batch}
        return {}, {"features": found} | labels

    return Evaluator(on_batch, lambda sums, rows: {})
