"""Other labels for photos in class folders: `config.data.relabel`.

The label variants of Table 4 of the paper: a share of the labels is random, or classes are joined
to buckets, at random, by WordNet or by a table of the user's own.
"""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import os
import pathlib
from typing import NamedTuple
import unicodedata

import numpy as np

from colorize_jax.data import listing
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.names import Names, salt_of
from colorize_jax.errors import ConfigError, DataError, why

KINDS = (
    "noise:0.1 (a random class for a tenth of the training photos), random:50 (the classes joined "
    "at random to 50 buckets of equal size), wordnet:16 (joined by WordNet) or file:PATH (joined "
    "by a table with CLASS, a tab and BUCKET in every line)"
)
# The tables derived from WordNet, the smallest first; WORDNET_LICENSE beside them is their licence.
_TABLES = ("wordnet_buckets_tiny.tsv", "wordnet_buckets.tsv")
_NOISE, _BUCKET = 1, 2  # the streams of hashes; 0 chooses photos for data.per_class


class Relabelling(NamedTuple):
    """What `config.data.relabel` does to some classes.

    Attributes:
        classes: the names of the classes afterwards, in alphabetical order.
        buckets: {class: bucket} of every class; {} for "noise", which joins none.
        noise: the share of the training photos that gets a random class.
        remarks: one line each, for the user.
    """

    classes: tuple[str, ...]
    buckets: Mapping[str, str]
    noise: float = 0.0
    remarks: tuple[str, ...] = ()


def find(spec: str, classes: Sequence[str], seed: int) -> Relabelling:
    """What a value of `config.data.relabel` does to these classes.

    Args:
        spec: of a kind in `KINDS`.
        classes: the names of the classes, in alphabetical order.
        seed: decides the buckets of "random", which depend on the names of the classes too.

    Raises:
        ConfigError: the value has no known kind or no usable number, or asks for more buckets than
            there are classes.
        DataError: a class has no bucket, or the table is invalid or not there.
    """
    kind, _, value = spec.partition(":")
    if kind == "noise":
        share = _number(spec, value, float)
        if not 0 < share <= 1:
            raise ConfigError(f"{_named(spec)}: the share must lie above 0 and be at most 1")
        return Relabelling(tuple(classes), {}, share)
    if kind in ("random", "wordnet"):
        count = _number(spec, value, int)
        if count < 2:
            raise ConfigError(f"{_named(spec)}: at least 2 buckets are needed to tell them apart")
        if count > len(classes):
            raise ConfigError(
                f"{_named(spec)}: {count} buckets are more than the {len(classes)} classes"
            )
        buckets = (_random if kind == "random" else _wordnet)(spec, classes, count, seed)
    elif kind == "file" and value:
        buckets = _of_file(spec, value, classes)
    else:
        raise ConfigError(f"{_named(spec)}: known: {KINDS}")
    used = tuple(sorted(set(buckets.values())))
    if len(used) < 2:
        raise DataError(f"{_named(spec)} puts all classes into one bucket, {used[0]!r}")
    remarks = ()
    if kind == "wordnet" and len(used) < count:
        remarks = (f"{_named(spec)}: the classes here are in {len(used)} of the {count} buckets",)
    return Relabelling(used, buckets, remarks=remarks)


def joined(labels: np.ndarray, classes: Sequence[str], found: Relabelling) -> np.ndarray:
    """Labels [n] that number `classes`, as int32 [n] that number the classes afterwards."""
    if not found.buckets:
        return labels
    number = {name: i for i, name in enumerate(found.classes)}
    return np.array([number[found.buckets[name]] for name in classes], np.int32)[labels]


def noised(photos: Labelled, found: Relabelling, seed: int) -> np.ndarray:
    """The labels, int32 [n], of which a share is drawn anew from all classes.

    Which photos and which classes depends on (seed, name of the photo) alone, so that a photo has
    the same label in every epoch. A class may be drawn again, so that `noise` times 1 - 1 / classes
    of the labels are wrong.
    """
    if not found.noise:
        return photos.labels
    # Of the photos whose hash lies below the share, it is uniform in [0, share).
    hashes = photos.hashes(salt_of(seed, _NOISE)) / found.noise
    drawn = (hashes * len(found.classes)).astype(np.int32)
    return np.where(hashes < 1, drawn, photos.labels)


def remark(spec: str, classes: int, found: Relabelling) -> str:
    """A line about other labels than the folders' own, for the user."""
    if found.noise:
        return (
            f"config.data.relabel={spec}: {found.noise:.1%} of the training photos have a random "
            f"one of the {classes:,} classes; the photos to score keep theirs"
        )
    return f"config.data.relabel={spec}: {classes:,} classes are joined to {len(found.classes):,}"


def table(spec: str, seed: int, buckets: Mapping[str, str]) -> bytes:
    """{class: bucket} as the content of a table for "file:PATH"; nothing if there are none."""
    if not buckets:
        return b""
    lines = [f"# config.data.relabel={spec} with config.seed={seed}: class, bucket"]
    lines += [f"{name}\t{bucket}" for name, bucket in sorted(buckets.items())]
    return os.fsencode("\n".join(lines) + "\n")  # Names of folders may be any bytes.


def _random(spec: str, classes: Sequence[str], count: int, seed: int) -> dict[str, str]:
    """Buckets whose sizes differ by at most one.

    A part of a digest of the whole partition belongs to the names of its buckets, so that those of
    another partition are never taken for them.
    """
    hashes = Names.of(os.fsencode(name) for name in classes).hashes(salt_of(seed, _BUCKET))
    parts = np.array_split(np.argsort(hashes, kind="stable"), count)
    digest = hashlib.blake2b(digest_size=3)
    for part in parts:
        digest.update(os.fsencode("\n".join(classes[i] for i in sorted(part)) + "\n\n"))
    width = len(str(count - 1))
    return {
        classes[i]: f"random {number:0{width}} of {count}, {digest.hexdigest()}"
        for number, part in enumerate(parts)
        for i in part
    }


def _wordnet(spec: str, classes: Sequence[str], count: int, seed: int) -> dict[str, str]:
    """The buckets of the smallest shipped table that has all classes and so many buckets."""
    known: set[int] = set()
    for file in _TABLES:
        numbers, names = _shipped(file)
        lacking = [name for name in classes if name not in numbers]
        if lacking:
            continue
        if (count, 0) in names:
            return {name: names[count, numbers[name][count]] for name in classes}
        known |= {buckets for buckets, _ in names}
    if known:
        there = ", ".join(f"wordnet:{buckets}" for buckets in sorted(known))
        raise ConfigError(f"{_named(spec)}: for these classes there are {there}")
    raise _without_bucket(spec, lacking, "the table of ImageNet's 1000 classes")


@functools.cache
def _shipped(file: str) -> tuple[dict[str, dict[int, int]], dict[tuple[int, int], str]]:
    """A table of WordNet.

    Returns:
        {class: {K: number of its bucket among K}}, and {(K, number): name of the bucket}.
    """
    lines = (pathlib.Path(__file__).parent / file).read_text().splitlines()
    names, rows = {}, []
    for line in lines:
        fields = line.removeprefix("# ").split("\t")
        if line.startswith("#") and len(fields) == 5:  # "# H16", number, root, classes, name
            names[int(fields[0].removeprefix("H")), int(fields[1])] = fields[4]
        elif not line.startswith("#"):
            rows.append(fields)
    (_, *heads), *rows = rows
    counts = [int(head.removeprefix("H")) for head in heads]
    return {
        row[0]: dict(zip(counts, map(int, row[1:]), strict=True)) for row in rows
    }, names  # fmt: skip


def _of_file(spec: str, path: str, classes: Sequence[str]) -> dict[str, str]:
    if not os.path.isfile(path):
        raise DataError(f"{_named(spec)}: there is no file {path}")
    try:
        lines = listing.lines(pathlib.Path(path).read_bytes(), path)
    except OSError as error:
        raise DataError(f"{_named(spec)}: {path} cannot be read: {why(error)}") from error
    except DataError as error:
        raise DataError(f"{_named(spec)}: {path} is no text: {KINDS}") from error
    buckets: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        name, _, bucket = (part.strip() for part in line.partition("\t"))
        if not name or not bucket or "\t" in bucket:
            raise DataError(
                f"{path}: the line {line!r} is no class, a tab and a bucket (config.data.relabel)"
            )
        name = unicodedata.normalize("NFC", name)
        if buckets.setdefault(name, bucket) != bucket:
            raise DataError(f"{path} puts the class {name!r} into two buckets")
    if lacking := [name for name in classes if name not in buckets]:
        raise _without_bucket(spec, lacking, path)
    return {name: buckets[name] for name in classes}


def _without_bucket(spec: str, lacking: Sequence[str], where: str) -> DataError:
    shown = ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
    return DataError(
        f"{_named(spec)}: {len(lacking)} classes have no bucket in {where}: {shown}; give a table "
        "of your own by file:PATH"
    )


def _number(spec: str, value: str, kind: type):
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{_named(spec)}: {value!r} is no number; known: {KINDS}") from None


def _named(spec: str) -> str:
    return f"config.data.relabel={spec}"
