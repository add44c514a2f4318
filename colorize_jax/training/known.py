"""Takes settings over from a checkpoint: the network, and which photos were held out.

A setting that the user stated is kept, and is an error by name if it does not fit the checkpoint.
All other settings of the network follow the checkpoint, and the run prints which.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from colorize_jax import json_files, paths
from colorize_jax.checkpoints import reading
from colorize_jax.config import choices, config_form, default_like, suited
from colorize_jax.data import sources, splits
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.data.splits import Splits
from colorize_jax.errors import CheckpointError, ConfigError, DataError
from colorize_jax.models import registry
from colorize_jax.training import same_run, start

# Every run decides these settings of the model itself, whatever network it loads or scores.
_OWN = ("dtype", "remat", "norm_decay")


# The values in a config that states nothing.
_FIRST = {
    "task.name": "colorization",
    "model.name": "vgg16",
    "optimizer.name": "caffe_sgd",
    "schedule.name": "drops",
}


def by_default(config: ConfigDict) -> frozenset[str]:
    """The names of the settings that differ from their defaults, such as "model.width".

    A call from Python has no command line, so these settings count as stated.
    """
    usual = same_run.flat(same_run.plain(default_like(config))) | _FIRST
    now = same_run.flat(same_run.plain(config))
    return frozenset(name for name in now if name not in usual or now[name] != usual[name])


def settled(
    config: ConfigDict, workdir: pathlib.Path, stated: Collection[str] | None
) -> tuple[ConfigDict, list[str]]:
    """The config of a run, with settings taken over from the checkpoint it starts from.

    The network's architecture and input follow the checkpoint. So does the share of held-out
    photos, for photos without labels from the same source. A run that has begun follows its own
    checkpoint instead, because the one that it started from may be gone.

    Args:
        config: the config of the run.
        workdir: the workdir of the run.
        stated: the names of the settings that were given on the command line; None takes
            `by_default`.

    Returns:
        A copy of the config, and one line for every change; see `splits.fall_back` too.

    Raises:
        ConfigError, CheckpointError: there is no checkpoint to start from.
        DataError: there is no devkit at the source.
    """
    config = config.copy_and_resolve_references()
    stated = by_default(config) if stated is None else stated
    paths.expand_settings(config)
    config.model.update(registry.by_depth(config.model))
    if "model.name" in stated:  # The recipe may be written for another network.
        _suit(config, config.model.name, stated)
    begun = _begun(workdir)
    changed = [] if begun else splits.fall_back(config)
    if begun and config.data.labels == "masks":
        _take_over_from_masks(config, begun[0])
    if config.init_from == start.RANDOM:
        return config, changed
    saved, where = begun or _started(config)
    before = same_run.flat(same_run.plain(config))
    follow(config, saved, stated)
    return config, [*_changes(before, config, where), *changed]


def follow(config: ConfigDict, saved: Mapping[str, Any], stated: Collection[str]) -> None:
    """Like `settled`, but changes the config in place and takes the saved config as an argument.

    Args:
        config: the config of a run that starts from another one.
        saved: the config of that other run, or of the run itself.
        stated: see `settled`.
    """
    _follow(config, saved["model"], stated)
    data = saved.get("data", {})
    asked = not config.data.labels and "data.holdout" not in stated
    if asked and sources.same(data.get("source", ""), config.data.source):
        config.data.holdout = data.get("holdout", config.data.holdout)


def _take_over_from_masks(config: ConfigDict, saved: Mapping[str, Any]) -> None:
    """Takes over what a run found in its masks when it began.

    The masks need not be read again for it, and need not be there yet.
    """
    data = config.data
    config.task.classes = config.task.classes or saved["task"].get("classes", 0)
    if data.split == "train_aug" and not data.sbd and not saved["data"]["sbd"]:
        data.split = saved["data"]["split"]


def _begun(workdir: pathlib.Path) -> tuple[dict, pathlib.Path] | None:
    """The config and checkpoint of the run in the workdir, or of its search for a schedule."""
    needed = {"model": {"name": str}, "task": {"classes": int}, "data": {"sbd": str, "split": str}}
    form = config_form() | needed
    for place in (workdir, workdir / "search"):
        if same_run.begun(place):
            # `same_run.check_config` reports the error.
            with contextlib.suppress(OSError, CheckpointError):
                return json_files.read(place / "config.json", form, CheckpointError, ""), place
    return None


def _started(config: ConfigDict) -> tuple[dict, pathlib.Path]:
    folder = start.find(config)
    return reading.saved_note(folder)["config"], folder


def _follow(config: ConfigDict, saved: Mapping[str, Any], stated: Collection[str]) -> None:
    """Sets the encoder in `config.model` to the saved one, except for stated settings."""
    model, ours = registry.by_depth(saved), config.model
    if _class_of(ours) is not _class_of(model):
        # A recipe's network that is not the default counts as stated: its variant names it.
        if "model.name" in stated or ours.name != _FIRST["model.name"]:
            return
        _suit(config, model["name"], stated, config.task.name == "classification")
    encoder = registry.make_encoder(model)
    for name in (*encoder.architecture, "in_channels"):
        named = name == "depth" and "model.name" in stated
        if f"model.{name}" not in stated and not named:
            ours[name] = model[name]
    if "depth" in encoder.architecture:
        ours.name = f"resnet{ours.depth}"
    if model["norm"] in ("none", "layer") and "model.norm" not in stated:
        ours.norm = model["norm"]


def _suit(config: ConfigDict, name: str, stated: Collection[str], classifier: bool = False) -> None:
    """Adapts a recipe that was written for one network to another by its `config.suited`."""
    choices.choose(config, "model", name)
    for setting, value in suited(name, classifier).items():
        if setting not in stated:
            config.update_from_flattened_dict({setting: value})


def _class_of(settings: Mapping[str, Any]) -> type:
    return registry.find_encoder(settings["name"])


def for_evaluation(
    config: ConfigDict, note: Mapping[str, Any], stated: Collection[str] | None
) -> tuple[ConfigDict, list[str]]:
    """The config of an evaluation, with settings taken over from the checkpoint it scores.

    The network and its outputs follow the checkpoint, and so does the source of the photos if none
    is named. `to_score` decides which photos are scored.

    Args:
        config: the config of the evaluation.
        note: the note of the checkpoint.
        stated: see `settled`.

    Returns:
        A copy of the config, and one line for every setting that was taken over.
    """
    config = config.copy_and_resolve_references()
    stated = by_default(config) if stated is None else stated
    paths.expand_settings(config)
    config.model.update(registry.by_depth(config.model))
    saved = note["config"]
    model = registry.by_depth(saved["model"])
    before = same_run.flat(same_run.plain(config))
    others = _class_of(config.model) is not _class_of(model)
    named = "model.name" in stated or "model.depth" in stated
    if others and not named and config.task.name == "classification":
        crop = suited(model["name"], classifier=True)["data.crop"]
        config.data.crop = config.data.crop if "data.crop" in stated else crop
    if others and not named:
        choices.choose(config, "model", model["name"])
    for name, value in model.items():
        if name in _OWN or (name in ("name", "depth") and named):
            continue
        if f"model.{name}" not in stated and name in config.model:
            config.model[name] = value
    if not config.data.source:
        config.data.source = saved.get("data", {}).get("source", "")
    labels = saved.get("data", {}).get("labels", "")
    if labels == config.data.labels == "folders" and "data.relabel" not in stated:
        config.data.relabel = saved["data"].get("relabel", "")
        if config.data.relabel and "seed" not in stated:  # It decides the buckets.
            config.seed = saved.get("seed", config.seed)
    task = saved.get("task", {})
    if task.get("name") == config.task.name:
        for name in ("loss", "classes", "bins"):
            if f"task.{name}" not in stated and name in task and name in config.task:
                config.task[name] = task[name]
    return config, [*_changes(before, config, "the checkpoint"), *splits.fall_back(config)]


class Scored(NamedTuple):
    """The photos of an evaluation.

    Attributes:
        config: the config, with settings taken over from the checkpoint.
        opened: the photos. The training photos are those that the checkpoint was trained on, if
            they can be opened.
        which: which photos of their source are scored: "held out", "all", or the name of a split.
        remarks: one line each, for the user.
    """

    config: ConfigDict
    opened: Splits
    which: str
    remarks: list[str]


def to_score(config: ConfigDict, note: Mapping[str, Any], stated: Collection[str] | None) -> Scored:
    """The photos to score a checkpoint on.

    If the source has no named splits, these are the photos that were held out in training; all
    photos, if the checkpoint was trained on another source.

    Args:
        config: the config of the evaluation, from `for_evaluation`.
        note: the note of the checkpoint.
        stated: the stated settings of the caller's own config; see `settled`.

    Raises:
        ConfigError, DataError: as for `splits.open_splits`.
    """
    data, saved = config.data, note["config"]
    if not _undivided(data):
        opened = splits.open_splits(config)
        _check_classes(config, note, opened.classes)
        return Scored(config, opened, data.eval_split or data.split, [])
    config = config.copy_and_resolve_references()
    data, was = config.data, saved.get("data", {})
    stated = by_default(config) if stated is None else stated
    if sources.same(was.get("source", ""), data.source):
        before = same_run.flat(same_run.plain(config))
        if "data.holdout" not in stated:
            data.holdout = was.get("holdout", data.holdout)
        if "data.photos" not in stated:
            data.photos = was.get("photos", data.photos)
        remarks = list(_changes(before, config, "the checkpoint"))
        opened = splits.open_splits(config)
        _check_classes(config, note, opened.classes)
        names = opened.training.digest() + opened.evaluation.digest()
        seen = 0 if names == note.get("names") else trained_on(opened.evaluation, config, saved)
        which = f"{seen:,} of them trained on" if seen else "held out"
        return Scored(config, opened, which, remarks)
    if "eval.photos" not in stated:
        config.eval.photos = 0
    opened, remarks = splits.open_whole(config, note.get("classes", ())), []
    seen = trained_on(opened.evaluation, config, saved)
    try:
        training = splits.open_splits(_as_trained(config, saved)).training
        opened = dataclasses.replace(opened, training=training)
    except (ConfigError, DataError):
        remarks.append(
            f"the photos that the network was trained on ({was.get('source') or 'not known'}) are "
            "not here: eval/loss_constant and other statistics are fitted to photos of "
            f"{config.data.source}"
        )
    return Scored(config, opened, f"all, {seen:,} of them trained on" if seen else "all", remarks)


def trained_on(photos: Photos | Labelled, config: ConfigDict, saved: Mapping[str, Any]) -> int:
    """The number of photos that the checkpoint was trained on; 0 if its source is gone.

    Args:
        photos: photos of `config.data.source`.
        config: the config of the run or the evaluation.
        saved: the config in the checkpoint.
    """
    if not sources.overlap(saved.get("data", {}).get("source", ""), config.data.source):
        return 0
    try:
        training = splits.open_splits(_as_trained(config, saved)).training
    except (ConfigError, DataError):  # The source has changed or is gone.
        return 0
    asked = set(_files(photos))
    return sum(file in asked for file in _files(training))


def _undivided(data: ConfigDict) -> bool:
    """Whether the evaluation photos are a share of all photos, and not a named split."""
    return not data.labels or (data.labels == "folders" and not data.split and not data.eval_split)


def _as_trained(config: ConfigDict, saved: Mapping[str, Any]) -> ConfigDict:
    """The config with the data settings that the checkpoint was trained with."""
    config = config.copy_and_resolve_references()
    for name in ("source", "labels", "split", "eval_split", "sbd", "per_class", "holdout"):
        config.data[name] = saved["data"].get(name, config.data[name])
    config.data.photos = saved["data"].get("photos", 0)  # Older checkpoints took all.
    config.data.relabel = saved["data"].get("relabel", "")
    config.data.label_share = saved["data"].get("label_share", 0.0)
    if "classes" in config.task:
        config.task.classes = saved.get("task", {}).get("classes", 0)
    config.seed = saved.get("seed", config.seed)
    return config


def _files(photos: Photos | Labelled) -> Iterator[str]:
    """The absolute path of every photo, however its source is written."""
    whole = functools.cache(os.path.realpath)
    return (f"{whole(photos.path(i))}/{photos.name(i)}" for i in range(len(photos)))


def _check_classes(config: ConfigDict, note: Mapping[str, Any], classes: Sequence[str]) -> None:
    """DataError if the labels stand for other classes than the network has learned."""
    learned = note.get("classes", ())
    if config.data.labels in ("lists", "folders") and learned and list(learned) != list(classes):
        other = sorted(set(classes).symmetric_difference(learned))
        raise DataError(
            f"{config.data.source} has other classes than the network was trained on, such as "
            f"{other[0]!r}: labels are numbered in the order of their names"
        )


def _changes(before: dict[str, Any], config: ConfigDict, where) -> Iterator[str]:
    now = same_run.flat(same_run.plain(config))
    # A setting that only the new network has is not named if it has its default.
    usual = {f"model.{name}": x for name, x in registry.own_settings(config.model.name).items()}
    changed = [
        f"{name}={value!r}"
        for name, value in now.items()
        if value != before.get(name, usual.get(name))
    ]
    if changed:
        yield f"as in {where}: config.{', '.join(changed)}"
