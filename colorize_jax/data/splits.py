"""The photos that a run trains on and the photos it is scored on, with their labels or masks."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from colorize_jax.data import mask_survey, relabel, sources, voc
from colorize_jax.data.class_folders import (
    ClassFolders,
    share_of_every_class,
    some_of_every_class,
)
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.names import salt_of
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ConfigError, DataError

# With fewer held-out photos (or, of few photos, less than a tenth) a warning about scores is given.
FEWEST = 50
_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class Splits:
    """The photos of a run, as `open_splits` returns them.

    Attributes:
        training, evaluation: photos, with labels or masks if config.data.labels says so.
        classes: the names of the classes, in the order of the labels; () without labels.
        warnings: one line each, for the user: files that were left out of sources without labels
            and of class folders, sources whose photos are gray, and how many photos were chosen.
        buckets: {class folder: class} if config.data.relabel joins classes.
    """

    training: Photos | Labelled
    evaluation: Photos | Labelled
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    buckets: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_splits(config) -> Splits:
    """The photos of `config.data`, from a source with or without labels.

    Labelled photos are those of data.split and data.eval_split. While early stopping searches for
    the schedule, only the training split is opened. The share early_stopping.holdout of it, chosen
    by a hash of the names, then replaces the evaluation split.

    Raises:
        ConfigError: config.task.classes is set to another number of classes than the data has.
        DataError: the photos, labels or lists are missing or invalid; see voc.py and
            class_folders.py.
    """
    data = config.data
    if not data.labels:
        training, evaluation = sources.open_splits(data.source, data.holdout)
        few = few_held_out(len(training), len(evaluation))
        if "builtin:photos" in sources.parse(data.source)[0]:  # It ignores the share.
            few = ""
        some = ""
        if data.photos:
            some = (
                f"trained on {data.photos:,} of {len(training):,} photos, which the seed "
                f"{config.seed} chooses (config.data.photos)"
            )
            training = training.some(data.photos, config.seed)
        small = "" if data.scaling == "none" else sources.all_small(training, data.crop)
        warnings = [*training.left_out(), sources.all_gray(training), small, few, some]
        return Splits(training, evaluation, warnings=tuple(filter(None, warnings)))
    if data.photos:
        raise ConfigError(
            f"config.data.photos={data.photos} takes some photos without labels, and "
            f"config.data.labels is {data.labels!r}: config.data.per_class=N takes N photos of "
            "every class folder"
        )
    sources.parse(data.source)  # It raises a helpful error if the setting is empty.
    found = {"masks": _masks, "lists": _lists, "folders": _folders}[data.labels](config)
    if _searching(config) or not data.eval_split:  # One split is divided.
        return found
    if data.labels == "folders" and data.split != data.eval_split:  # No photo lies in two folders.
        return found
    both = _in_both(found.training, found.evaluation)
    if not both:
        return found
    warning = (
        f"{both} of the {len(found.evaluation)} photos to evaluate on are trained on too: the "
        "score is too good"
    )
    return dataclasses.replace(found, warnings=(*found.warnings, warning))


def few_held_out(training: int, evaluation: int) -> str:
    """A warning if few photos are held out although there are more; "" otherwise.

    The share is never changed automatically, because a resumed run must hold out the same photos.
    """
    photos = training + evaluation
    fewest = min(FEWEST, photos // 10)
    if evaluation >= fewest:
        return ""
    share = next(s for s in _SHARES if s * photos >= 2 * fewest)
    held = "1 photo is" if evaluation == 1 else f"{evaluation} photos are"
    return (
        f"only {held} held out of {photos:,}: the scores will say little. "
        f"--config.data.holdout={share:g}, from the start of a run on, holds out about "
        f"{round(share * photos):,}"
    )


def open_whole(config, learned: Sequence[str] = ()) -> Splits:
    """All photos of `config.data.source` as photos to evaluate on; data.holdout is ignored.

    Args:
        config: a config without labels, or with class folders.
        learned: the classes that a network knows, in the order of its outputs; the source may lack
            some of them. () takes the classes of the source.

    Raises:
        DataError: the source has a class that the network does not know.
        ConfigError: the source has another number of classes than config.task.classes.
    """
    source = config.data.source
    if not config.data.labels:
        photos = sources.open_all(source)
        return Splits(photos, photos, warnings=tuple(photos.left_out()))
    photos, classes = ClassFolders(source).split("")
    warnings = tuple(photos.left_out())
    if config.data.relabel:
        found = relabel.find(config.data.relabel, classes, config.seed)
        photos.labels = relabel.joined(photos.labels, classes, found)
        classes, warnings = found.classes, (*warnings, *found.remarks)
    if not learned:
        _check_number(config, classes)
        return Splits(photos, photos, classes, warnings)
    if unknown := sorted(set(classes).difference(learned)):
        raise DataError(
            f"{source} has {len(unknown)} classes that the network does not know, such as "
            f"{unknown[0]!r}: it has learned {len(learned)}, such as {learned[0]!r}"
        )
    numbers = np.array([list(learned).index(name) for name in classes], np.int32)
    photos.labels = numbers[photos.labels]
    # Sorted by hash, the first photos come from all classes.
    photos = photos.part(np.argsort(photos.hashes(), kind="stable"))
    return Splits(photos, photos, tuple(learned), warnings)


def look_at_masks(opened: Splits, config, training: bool = True) -> list[str]:
    """Warnings about the masks before they are used, one line each.

    It reads a sample of them; see `mask_survey`.

    Args:
        opened: what `open_splits` returned.
        config: the config of the run.
        training: whether to look at the training masks too, besides the evaluation masks.

    Raises:
        DataError: no mask of the sample can be used.
    """
    if not opened.evaluation.classes:
        return []
    scored = opened.evaluation
    if config.eval.photos:
        scored = scored.part(np.arange(min(config.eval.photos, len(scored))))
    lines = []
    for photos, what in ((opened.training, "training"), (scored, "evaluation")):
        if what == "training" and not training:
            continue
        found = mask_survey.survey(photos, config.data.threads)
        lines += mask_survey.remarks(found, opened.classes, what)
    return lines


def fall_back(config) -> list[str]:
    """Makes a recipe for VOC with SBD train on VOC alone if there is no SBD.

    Returns:
        A line that reports the change of `config.data.split`; no line if it is not changed.
    """
    data = config.data
    if data.labels != "masks" or data.split != "train_aug" or data.sbd or not data.source:
        return []
    devkit = voc.open_devkit(data.source)
    if voc.has_list(devkit, "train_aug") or not voc.has_list(devkit, "train"):
        return []
    data.split = "train"
    return [
        f"{devkit.path} has no list train_aug, and config.data.sbd names no SBD to derive it from: "
        "training on its list train alone"
    ]


def ask_classes(config, opened: Splits) -> list[str]:
    """Sets `config.task.classes` to the number of classes in the data, unless it is set already.

    Returns:
        A line that reports the change; no line if nothing is changed.
    """
    if config.task.get("classes", 1) or not opened.classes:
        return []
    config.task.classes = len(opened.classes)
    return [f"config.task.classes={len(opened.classes)}, as in {config.data.source}"]


def _in_both(training: Labelled, evaluation: Labelled) -> int:
    """The number of evaluation photos that are also training photos, by source and name."""
    scored = {(evaluation.path(i), evaluation.name(i)) for i in range(len(evaluation))}
    return sum((training.path(i), training.name(i)) in scored for i in range(len(training)))


def _masks(config) -> Splits:
    data, classes = config.data, config.task.get("classes", 0)
    _require_splits(config, "masks")
    if classes == 1 or classes > 255:
        raise ConfigError(
            f"config.task.classes={classes}: say how many classes the masks have, background "
            "included, from 2 to 255; 0 asks the data"
        )
    devkit = voc.open_devkit(data.source)
    classes = classes or voc.number_of_classes(devkit) or _largest_class(config, devkit) + 1
    names = voc.class_names(devkit, classes)

    training = voc.open_masked(devkit, data.split, sbd=data.sbd, classes=classes)
    if _searching(config):
        training, evaluation = _searched(config, training)
    else:
        evaluation = voc.open_masked(devkit, data.eval_split, sbd=data.sbd, classes=classes)
    warnings = ()
    if data.pad_label == "background" and names[0].lower() not in ("background", "class 0"):
        warnings = (
            f"config.data.pad_label='background': what is padded around small photos is taught as "
            f"class 0, which is {names[0]!r} here; 'void' teaches nothing",
        )
    return Splits(training, evaluation, names, warnings)


def _largest_class(config, devkit: voc.Tree) -> int:
    """The largest class in all masks of both splits; at least 1."""
    data = config.data
    names = {data.split, data.eval_split or data.split}
    opened = [voc.open_masked(devkit, name, sbd=data.sbd, classes=255) for name in sorted(names)]
    return max(1, *(mask_survey.largest_class(photos, data.threads) for photos in opened))


def _lists(config) -> Splits:
    data = config.data
    _require_splits(config, "labels")
    devkit = voc.open_devkit(data.source)
    training, classes = voc.open_listed(devkit, data.split)
    _check_number(config, classes)
    if _searching(config):
        training, evaluation = _searched(config, training)
    else:
        evaluation, others = voc.open_listed(devkit, data.eval_split)
        _check_same(config, classes, others)
    warnings = []
    for photos, what, so in (
        (training, "training", "it cannot be learned"),
        (evaluation, "evaluation", "it has no average precision"),
    ):
        absent = np.flatnonzero(~(photos.labels == 1).any(0))
        warnings += [f"no {what} photo of {data.source} shows {classes[i]!r}: {so}" for i in absent]
    return Splits(training, evaluation, classes, tuple(warnings))


def _folders(config) -> Splits:
    data, searching = config.data, _searching(config)
    if data.eval_split and not data.split:
        raise ConfigError(
            f"config.data.eval_split={data.eval_split}, but config.data.split is empty: name the "
            "folder to train on too, or neither"
        )
    if data.split and not data.eval_split and not searching:
        raise ConfigError(
            f"config.data.split={data.split}, but config.data.eval_split is empty: name the folder "
            "to evaluate on too, or neither"
        )
    folders = ClassFolders(data.source)
    training, classes = folders.split(data.split)
    found = None
    if data.relabel:
        found = relabel.find(data.relabel, classes, config.seed)
    _check_number(config, found.classes if found else classes)
    evaluation, few = None, ""
    if not data.split:
        training, evaluation = _divided(training, _by_class(training), data.holdout, "data.holdout")
        few = few_held_out(len(training), len(evaluation))
    if data.per_class:
        training = some_of_every_class(training, classes, data.per_class, config.seed)
    if data.label_share:
        hashes, share = training.hashes(salt_of(config.seed)), data.label_share
        training = training.part(share_of_every_class(hashes, training.labels, share))
    if searching:
        training, evaluation = _searched(config, training, _by_class(training))
    elif evaluation is None:
        evaluation, others = folders.split(data.eval_split)
        _check_same(config, classes, others)
        # Sorted by hash, the first photos come from all classes.
        evaluation = evaluation.part(np.argsort(evaluation.hashes(), kind="stable"))
    warnings = tuple(filter(None, [*training.left_out(), few]))
    if not found:
        return Splits(training, evaluation, classes, warnings)
    # The photos were chosen by their own classes, so that they are the same with any labels.
    for photos in (training, evaluation):
        photos.labels = relabel.joined(photos.labels, classes, found)
    training.labels = relabel.noised(training, found, config.seed)
    remark = relabel.remark(data.relabel, len(classes), found)
    warnings = (*warnings, *found.remarks, remark)
    return Splits(training, evaluation, found.classes, warnings, found.buckets)


def _by_class(photos: Labelled) -> list[np.ndarray]:
    return [np.flatnonzero(photos.labels == label) for label in np.unique(photos.labels)]


def _searching(config) -> bool:
    return config.early_stopping.mode == "search"


def _searched(
    config, training: Labelled, groups: Sequence[np.ndarray] | None = None
) -> tuple[Labelled, Labelled]:
    groups = [np.arange(len(training))] if groups is None else groups
    return _divided(training, groups, config.early_stopping.holdout, "early_stopping.holdout")


def _divided(
    photos: Labelled, groups: Sequence[np.ndarray], share: float, name: str
) -> tuple[Labelled, Labelled]:
    """The photos to train on, and the held-out photos: the same share of every group.

    The photos with the smallest hashes of their names are held out, at least one of every group.
    They are sorted by hash, so that the first n of them are a fair sample.
    """
    if not 0 < share < 1:
        raise ConfigError(f"config.{name}={share} must lie between 0 and 1")
    hashes = photos.hashes()
    held_out = np.zeros(len(photos), bool)
    for group in groups:
        count = max(round(share * len(group)), 1)
        if count == len(group):
            raise DataError(
                f"config.{name}={share} leaves nothing to train on of {len(group)} photos, "
                f"{photos.name(int(group[0]))} among them"
            )
        held_out[group[np.argsort(hashes[group], kind="stable")[:count]]] = True
    chosen = np.flatnonzero(held_out)
    chosen = chosen[np.argsort(hashes[chosen], kind="stable")]
    return photos.part(np.flatnonzero(~held_out)), photos.part(chosen)


def _require_splits(config, what: str) -> None:
    names = ["split"] if _searching(config) else ["split", "eval_split"]
    for name in names:
        if not config.data[name]:
            raise ConfigError(
                f"config.data.{name} is empty: name the list of the devkit that the photos and "
                f"their {what} are of, as in --config.data.{name}="
                + ("train" if name == "split" else "val")
            )


def _check_number(config, classes: Sequence[str]) -> None:
    if config.task.get("classes", 0) not in (0, len(classes)):
        raise ConfigError(
            f"config.task.classes={config.task.classes}, but {config.data.source} has "
            f"{len(classes)} classes: add --config.task.classes={len(classes)}, or leave it out"
        )


def _check_same(config, classes: Sequence[str], others: Sequence[str]) -> None:
    """DataError if the evaluation split has other classes than the training split."""
    data = config.data
    for lacking, has, split in (
        (set(classes) - set(others), data.split, data.eval_split),
        (set(others) - set(classes), data.eval_split, data.split),
    ):
        if lacking:
            shown = ", ".join(sorted(lacking)[:3]) + (", ..." if len(lacking) > 3 else "")
            raise DataError(
                f"{data.source}: {split!r} lacks {len(lacking)} of the classes of {has!r}: {shown}"
            )
