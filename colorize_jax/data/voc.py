"""Reads the lists, masks and labels of a PASCAL VOC devkit, and the masks that SBD adds to it."""

from collections.abc import Iterable, Sequence
import os
import posixpath
import unicodedata

import numpy as np

from colorize_jax.data import listing
from colorize_jax.data.labelled import FilePhotos, Files, Labelled
from colorize_jax.data.record import EXTENSIONS
from colorize_jax.data.sources import Photos
from colorize_jax.data.tree import FolderTree, Tree, find, find_picture, holds
from colorize_jax.errors import ConfigError, DataError, why

OBJECTS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_SEGMENTATION = "ImageSets/Segmentation"
_MAIN = "ImageSets/Main"
_PHOTOS, _MASKS = "JPEGImages", "SegmentationClass"


def open_devkit(path: str) -> Tree:
    """The devkit of one year.

    Args:
        path: VOCdevkit, VOCdevkit/VOC2012, or a zip archive that contains either. One year of an
            archive with several years is ARCHIVE.zip/VOCdevkit/VOC2012.

    Raises:
        DataError: the path does not exist, or holds no devkit, or holds several.
    """
    found = find(path, "ImageSets")
    if not found:
        raise DataError(
            f"{path} is no PASCAL VOC devkit: it has no folder ImageSets, nor has a folder in it"
        )
    if len(found) > 1:
        years = ", ".join(posixpath.basename(tree.path) for tree in found)
        raise DataError(
            f"{path} holds {years}: name one of them, as in --config.data.source={found[-1].path}"
        )
    return found[0]


def open_masked(devkit: Tree, split: str, *, sbd: str, classes: int) -> Labelled:
    """The photos of a segmentation list with their masks.

    Args:
        devkit: what `open_devkit` returned.
        split: a name in ImageSets/Segmentation, or the path of a list. A line is an id, or the
            paths of a photo and its mask in the devkit. A photo that is listed twice counts once.
            If there is no list "train_aug", it is VOC's train with all of SBD except VOC's val.
        sbd: the release of SBD (the folder with cls, or one above it), or a folder of <id>.png. Its
            masks and photos are used where the devkit has none. "" means none.
        classes: the number of classes, background included.

    Raises:
        DataError: the list is missing or empty, or photos or masks are missing.
    """
    extra = open_sbd(sbd) if sbd else None
    listed, where = _listed(devkit, split, extra)
    if not listed:
        raise DataError(f"{where} is empty: it lists no photo")
    trees = [devkit] if extra is None else [devkit, extra]
    photos, masks, lost, bare = [], [], [], []
    for image, mask in listed.items():
        name = posixpath.splitext(posixpath.basename(image))[0]
        photo = _first(trees, ((0, image), (1, f"img/{name}.jpg")))
        known = _first(trees, ((0, mask), (1, f"cls/{name}.mat"), (1, f"{name}.png")))
        photos.append(photo)
        masks.append(known)
        lost += [name] * (photo is None)
        bare += [name] * (known is None)
    if lost:
        raise DataError(
            f"{_some(lost, len(listed))} of {where} are not among the photos of {devkit.path}"
        )
    if bare:
        places = "SegmentationClass" if extra is None else f"SegmentationClass or {sbd}"
        raise DataError(
            f"{_some(bare, len(listed))} of {where} have no mask in {places}"
            + ("; name the folder of SBD's masks in --config.data.sbd" if extra is None else "")
        )
    files = Files(trees, *zip(*photos, strict=True))
    source = FilePhotos(files, list(listed))
    return Labelled(
        Photos([source], [np.arange(len(files))], paths=[devkit.path]), np.arange(len(files)),
        masks=Files(trees, *zip(*masks, strict=True)), classes=classes,
    )  # fmt: skip


def open_sbd(path: str) -> Tree:
    """Opens the folder with cls, img and the lists of SBD, or a folder of PNG masks."""
    found = find(path, "cls")
    if found:
        return found[0]
    if os.path.isdir(path):
        tree = FolderTree(path)
        if any(name.endswith(".png") for name in tree.entries("")):
            return tree
    raise DataError(
        f"config.data.sbd={path} has neither SBD's folder cls nor PNG masks directly in it"
    )


def has_list(devkit: Tree, split: str) -> bool:
    """Whether the devkit has a segmentation list of that name, or the name is a file."""
    return holds(devkit, f"{_SEGMENTATION}/{split}.txt") or os.path.isfile(split)


def number_of_classes(devkit: Tree) -> int:
    """The number of classes of the masks, background included.

    It is the number of lines in classes.txt, or VOC's 21 if the devkit has the lists of all of
    VOC's objects, or 0 if it is unknown.
    """
    if holds(devkit, "classes.txt"):
        return len(_lines(devkit, "classes.txt"))
    listed = {entry.rpartition("_")[0] for entry in devkit.entries(_MAIN)}
    return len(OBJECTS) + 1 if listed.issuperset(OBJECTS) else 0


def class_names(devkit: Tree, classes: int) -> tuple[str, ...]:
    """The names of the classes of masks: from the devkit's classes.txt, or VOC's, or numbers.

    Raises:
        ConfigError: classes.txt does not have `classes` lines.
    """
    if holds(devkit, "classes.txt"):
        names = tuple(_lines(devkit, "classes.txt"))
        if len(names) != classes:
            raise ConfigError(
                f"config.task.classes={classes}, but classes.txt in {devkit.path} names "
                f"{len(names)}: add --config.task.classes={len(names)}"
            )
        return names
    if classes == len(OBJECTS) + 1:
        return ("background", *OBJECTS)
    return tuple(f"class {index}" for index in range(classes))


def open_listed(devkit: Tree, split: str) -> tuple[Labelled, tuple[str, ...]]:
    """The photos of ImageSets/Main/<class>_<split>.txt with their labels, and the classes.

    The labels, int8 [classes], are 1 (present), -1 (absent) or 0 (difficult). The classes are in
    alphabetical order.

    Raises:
        DataError: the lists are missing or name different photos, a line is invalid, or photos are
            missing.
    """
    ending = f"_{split}.txt"
    entries = devkit.entries(_MAIN)
    found = (e.removesuffix(ending) for e in entries if e.endswith(ending))
    lists = {unicodedata.normalize("NFC", name): f"{name}{ending}" for name in found}
    classes = sorted(lists)
    if not classes:
        known = {e.removesuffix(".txt").rpartition("_")[2] for e in entries if "_" in e}
        raise DataError(f"{devkit.path}/{_MAIN} has no <class>{ending}; {_known(known)}")
    columns = [_labels(devkit, f"{_MAIN}/{lists[name]}") for name in classes]
    names = sorted(set().union(*columns))
    if not names:
        raise DataError(f"the lists {devkit.path}/{_MAIN}/*{ending} are empty: they list no photo")
    for name, column in zip(classes, columns, strict=True):
        if len(column) < len(names):
            lacking = [photo for photo in names if photo not in column]
            raise DataError(
                f"{devkit.path}/{_MAIN}/{name}{ending} lacks {_some(lacking, len(names))} of the "
                "lists of the other classes"
            )
    photos = [_photo(devkit, name) for name in names]
    lost = [n for n, photo in zip(names, photos, strict=True) if not holds(devkit, photo)]
    if lost:
        raise DataError(
            f"{_some(lost, len(names))} of {_MAIN}/*{ending} are not among the photos of "
            f"{devkit.path}"
        )
    source = FilePhotos(Files([devkit], [0] * len(photos), photos), photos)
    everything = np.arange(len(photos))
    labels = np.array([[column[name] for column in columns] for name in names], np.int8)
    opened = Photos([source], [everything], paths=[devkit.path])
    return Labelled(opened, everything, labels=labels), tuple(classes)


def _labels(devkit: Tree, path: str) -> dict[str, int]:
    found = {}
    for number, line in enumerate(_lines(devkit, path), 1):
        name, label = [*line.rsplit(None, 1), ""][:2]
        if label not in ("-1", "0", "1"):
            raise DataError(
                f"{devkit.path}/{path}, line {number}: {line!r} is no photo followed by -1, 0 or 1"
            )
        found[name] = int(label)
    return found


def _listed(devkit: Tree, split: str, sbd: Tree | None) -> tuple[dict[str, str], str]:
    """{photo: mask} by their paths in the devkit, and the name of the list, for messages."""
    path = f"{_SEGMENTATION}/{split}.txt"
    if holds(devkit, path):
        where, lines = f"{devkit.path}/{path}", _lines(devkit, path)
    elif os.path.exists(split) and not os.path.isdir(split):
        where, lines = split, _lines(FolderTree(""), split)
    elif split == "train_aug":
        where, lines = "train_aug, derived from VOC and SBD,", _train_aug(devkit, sbd)
    else:
        known = [e.removesuffix(".txt") for e in devkit.entries(_SEGMENTATION)]
        raise DataError(f"there is no list {devkit.path}/{path}; {_known(known)}")
    pairs = {}
    for number, line in enumerate(lines, 1):
        pair = _pair(devkit, line)
        if pair is None:
            raise DataError(f"{where}, line {number}: {line!r} is no id, nor a photo and its mask")
        image, mask = pair
        pairs.setdefault(image, mask)
    return pairs, where


def _pair(devkit: Tree, line: str) -> tuple[str, str] | None:
    """The photo and the mask that a line names, whether or not they exist."""
    words = line.split()
    if len(words) == 1 or holds(devkit, _photo(devkit, line)):  # An id may contain spaces.
        return _photo(devkit, line), _mask(devkit, line)
    if len(words) == 2:
        return words[0].lstrip("/"), words[1].lstrip("/")
    for i, character in enumerate(line):
        image, mask = line[:i].strip().lstrip("/"), line[i:].strip().lstrip("/")
        if character.isspace() and holds(devkit, image) and holds(devkit, mask):
            return image, mask
    return None


def _photo(devkit: Tree, name: str) -> str:
    """The path in the devkit of the photo with this id, which may have an ending."""
    return _file(devkit, _PHOTOS, name, ".jpg")


def _mask(devkit: Tree, name: str) -> str:
    """Likewise of its mask."""
    return _file(devkit, _MASKS, name.removeprefix("/").removeprefix(f"{_PHOTOS}/"), ".png")


def _file(devkit: Tree, folder: str, name: str, ending: str) -> str:
    name = name.removeprefix("/").removeprefix(f"{folder}/")
    stem, known = posixpath.splitext(name)
    for called in (name, stem) if known.lower() in EXTENSIONS else (name,):
        if found := find_picture(devkit, f"{folder}/{called}", ending):
            return found
    return f"{folder}/{called}{ending}"


def _train_aug(devkit: Tree, sbd: Tree | None) -> list[str]:
    """All photos with a mask in VOC or SBD, except VOC's val, sorted by id."""
    if sbd is None:
        raise DataError(
            f"{devkit.path}/{_SEGMENTATION} has no train_aug.txt: name the folder of SBD in "
            "--config.data.sbd, then train_aug is found as VOC's train with SBD but VOC's val"
        )
    train, val = (set(_listed(devkit, split, None)[0]) for split in ("train", "val"))
    masked = [n.removesuffix(".png") for n in sbd.entries("") if n.endswith(".png")]
    if not masked:
        for name in ("train.txt", "val.txt"):
            if not holds(sbd, name):
                raise DataError(f"{sbd.path} has no {name}: train_aug needs SBD's lists")
            masked += _lines(sbd, name)
    photos = (train | {_photo(devkit, name) for name in masked}) - val
    return sorted(posixpath.splitext(posixpath.basename(photo))[0] for photo in photos)


def _first(trees: Sequence[Tree], places: Iterable[tuple[int, str]]) -> tuple[int, str] | None:
    """The first (number of the tree, name) that exists."""
    for tree, name in places:
        if tree < len(trees) and holds(trees[tree], name):
            return tree, name
    return None


def _lines(tree: Tree, path: str) -> list[str]:
    where = posixpath.join(tree.path, path)
    try:
        data = tree.read(path)
    except (OSError, DataError) as error:
        raise DataError(f"{where} cannot be read: {why(error)}") from error
    return listing.lines(data, where)


def _some(names: Sequence[str], total: int) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names):,} of the {total:,} photos ({', '.join(names[:3])}{more})"


def _known(names: Iterable[str]) -> str:
    return f"known: {', '.join(sorted(names))}" if names else "nor any other list"
