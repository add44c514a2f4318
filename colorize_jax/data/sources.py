"""Opens `config.data.source`: the photos' sources, their mixture, and the held-out photos."""

from collections.abc import Sequence
import glob
import hashlib
import itertools
import os
import re
import zipfile

import numpy as np

from colorize_jax.data import arrays, decode, listing, published
from colorize_jax.data.archives import Tar, Zip
from colorize_jax.data.builtin import BuiltinPhotos
from colorize_jax.data.folder import Files, Folder
from colorize_jax.data.names import salt_of
from colorize_jax.data.order import Mixture, Shuffled
from colorize_jax.data.record import (
    EXTENSIONS,
    HEAD,
    HEIC,
    Record,
    Source,
    describe,
    ending,
    is_picture,
)
from colorize_jax.data.records import ArrayRecords, Tfds, names_file
from colorize_jax.data.tree import into_zip, read_file
from colorize_jax.errors import DataError, why
from colorize_jax.paths import expand_source

KINDS = (
    "a folder, a .zip archive or a folder in it (photos.zip/train), tar shards ('shards/*.tar'), "
    "ArrayRecord shards ('*.array_record*', or the folder that `pack` wrote), "
    "tfds:NAME[/CONFIG][:SPLIT], a PASCAL VOC devkit, the files of CIFAR-10, SVHN or Oxford "
    "Flowers, one photo, a text file that lists photos, or builtin:photos"
)
_TRIES = 20  # Of this many photos (or lines of a list), one must be readable.
# A photo counts as gray if its channels differ by less than this on average, in levels of 255.
_GRAY = 3.0


class Photos:
    """Some of the photos of one or several sources, numbered from 0 to len - 1.

    Args:
        sources: the sources; their photos are numbered in this order.
        chosen: for every source, the numbers of the photos that belong to this split, in order.
        weights: how often each source is drawn; None draws every photo once in an epoch.
        paths: the paths of the sources, for messages.
    """

    classes = 0  # the number of classes of masks, which these photos do not have

    def __init__(
        self,
        sources: Sequence[Source],
        chosen: Sequence[np.ndarray],
        weights: Sequence[float] | None = None,
        paths: Sequence[str] | None = None,
    ):
        self._sources, self._chosen = list(sources), list(chosen)
        self._paths = list(paths or [""] * len(self._sources))
        self._weights = None if weights is None else list(weights)
        self._starts = np.cumsum([0, *(len(indices) for indices in chosen)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _locate(self, index: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, int(self._chosen[part][index - self._starts[part]])

    def __getitem__(self, index: int) -> Record:
        part, number = self._locate(index)
        return self._sources[part][number]

    def unreadable(self) -> Record:
        """The stand-in for a photo that cannot be read: a black photo."""
        return Record("", np.zeros((1, 1, 3), np.uint8))

    def name(self, index: int) -> str:
        """The photo's name in its source; reads nothing."""
        part, number = self._locate(index)
        return self._sources[part].names[number]

    def path(self, index: int) -> str:
        """The source of the photo."""
        return self._paths[self._locate(index)[0]]

    def left_out(self) -> list[str]:
        """What the sources hold besides photos, a line for each that holds any."""
        found = dict(zip(self._paths, self._sources, strict=True))
        said = {p: describe(getattr(s, "left_out", {})) for p, s in found.items()}
        return [f"left out of {path}: {text}" for path, text in said.items() if text]

    def digest(self) -> str:
        """A digest of the names in their order; reads no photo."""
        digest = hashlib.blake2b(digest_size=16)
        for source, chosen in zip(self._sources, self._chosen, strict=True):
            digest.update(source.names.blob)
            digest.update(source.names.ends)
            digest.update(np.ascontiguousarray(chosen, np.int64))
        return digest.hexdigest()

    def some(self, count: int, seed: int) -> "Photos":
        """Exactly `count` of these photos, in their order, chosen by a hash of (seed, name).

        The choice of a smaller number is a subset of the choice of a larger one.

        Raises:
            DataError: there are fewer photos, or a weighted source would have none left.
        """
        if count > len(self):
            raise DataError(
                f"config.data.photos={count}, but without those held out there are {len(self)} "
                "photos: ask for fewer, or for all with 0"
            )
        pairs = zip(self._sources, self._chosen, strict=True)
        hashes = [source.names.hashes(salt_of(seed))[chosen] for source, chosen in pairs]
        kept = np.zeros(len(self), bool)
        kept[np.argsort(np.concatenate(hashes), kind="stable")[:count]] = True
        parts = np.split(kept, self._starts[1:-1])
        chosen = [numbers[part] for numbers, part in zip(self._chosen, parts, strict=True)]
        if self._weights is not None and not all(map(len, chosen)):
            raise DataError(
                f"config.data.photos={count} leaves no photo of a weighted source: ask for more"
            )
        return Photos(self._sources, chosen, self._weights, self._paths)

    def order(self, seed: int) -> Shuffled | Mixture:
        """Maps any position to the number of a photo.

        Without weights every epoch has each photo once, in a new order.
        """
        if self._weights is None:
            return Shuffled(len(self), seed)
        return Mixture(np.diff(self._starts), self._weights, seed)


def open_splits(spec: str, holdout: float) -> tuple[Photos, Photos]:
    """The photos of `config.data.source` to train on, and the held-out photos.

    Args:
        spec: a source of a kind in `KINDS`; "A,B" joins sources, "A@0.7,B@0.3" weights them.
        holdout: the share of photos to hold out. They are chosen by a hash of their names, so that
            the choice stays the same when photos are added. A single source holds out at least one
            photo, that of the smallest hash. Held-out photos are sorted by their hash, so that a
            smaller number of them is a subset of a larger one. builtin:photos holds out a square of
            every row of its photos instead.

    Raises:
        DataError: there is no source, it has no photo, or only one.
    """
    if not 0 < holdout < 1:
        raise DataError(f"config.data.holdout={holdout} must lie between 0 and 1")
    paths, weights = parse(spec)
    training, evaluation = [], []  # [(source, numbers, hashes)]
    for path in paths:
        if path == "builtin:photos":
            for held_out, split in ((False, training), (True, evaluation)):
                source = BuiltinPhotos(held_out)
                ranks = np.linspace(0, holdout, len(source.names), endpoint=False)
                split.append((source, np.arange(len(source.names)), ranks))
            continue
        source = open_source(path)
        hashes = source.names.hashes()
        chosen = hashes < holdout
        if len(paths) == 1:  # A small one of several may have no held-out photo.
            chosen[hashes.argmin()], chosen[hashes.argmax()] = True, False
        for split, numbers in (
            (training, np.flatnonzero(~chosen)),
            (evaluation, np.flatnonzero(chosen)),
        ):
            split.append((source, numbers, hashes[numbers]))
    for split, what in ((training, "to train on"), (evaluation, "held out")):
        if not sum(len(numbers) for _, numbers, _ in split):
            raise DataError(
                f"config.data.holdout={holdout} leaves no photo {what} in {spec}: change it, or "
                "name more than one photo"
            )
    if weights is not None and any(len(numbers) == 0 for _, numbers, _ in training):
        raise DataError(f"a weighted source of {spec} has no photo to train on")
    sources_, numbers = [s for s, _, _ in training], [n for _, n, _ in training]
    return Photos(sources_, numbers, weights, paths), _by_hash(evaluation, paths)


def open_all(spec: str) -> Photos:
    """All photos of one or several sources, with none held out; weights are ignored."""
    paths, _ = parse(spec)
    opened = [open_source(path) for path in paths]
    return Photos(opened, [np.arange(len(source.names)) for source in opened], paths=paths)


def _by_hash(split, paths: Sequence[str]) -> Photos:
    """All photos of a split, from all sources, sorted by their hashes."""
    sources = [source for source, _, _ in split]
    owners = np.concatenate([np.full(len(n), i) for i, (_, n, _) in enumerate(split)])
    numbers = np.concatenate([numbers for _, numbers, _ in split])
    ranks = np.argsort(np.concatenate([hashes for _, _, hashes in split]), kind="stable")
    # The same source may come up many times in `Photos`; that is fine, as held-out sets are small.
    owners, numbers = owners[ranks], numbers[ranks]
    cuts = np.flatnonzero(np.diff(owners)) + 1
    stretches = np.split(numbers, cuts)
    firsts = [owners[i] for i in (0, *cuts)]
    return Photos([sources[i] for i in firsts], stretches, paths=[paths[i] for i in firsts])


def parse(spec: str) -> tuple[list[str], list[float] | None]:
    """Splits "A,B" or "A@0.7,B@0.3" into paths and weights (None if there are none).

    A comma or @ inside a path that exists is part of the path.
    """
    if not spec:
        raise DataError(
            f"config.data.source is empty: name {KINDS}, for example "
            "--config.data.source=/data/photos"
        )
    spec = expand_source(spec)
    if os.path.exists(spec):
        return [spec], None
    paths, weights = [], []
    for part in spec.split(","):
        match = re.fullmatch(r"(.+)@([0-9.eE+-]+)", part.strip())
        match = None if os.path.exists(part.strip()) else match
        path, weight = (match[1], match[2]) if match else (part.strip(), None)
        if not path:
            raise DataError(f"config.data.source={spec!r}: there is nothing between two commas")
        paths.append(path)
        try:
            weights.append(None if weight is None else float(weight))
        except ValueError:
            raise DataError(f"config.data.source: the weight in {part!r} is no number") from None
    given = [weight for weight in weights if weight is not None]
    if not given:
        return paths, None
    smallest = sum(given) / 1000
    if len(given) < len(weights) or not all(smallest <= w < float("inf") and w > 0 for w in given):
        raise DataError(
            f"config.data.source={spec!r}: give every source a weight, as in A@0.7,B@0.3, of at "
            "least a thousandth of their sum, or none of them"
        )
    return paths, [weight / sum(given) for weight in given]


def all_gray(photos: Photos, tries: int = 50) -> str:
    """A warning if a sample of the photos, spread over all, has no color; "" otherwise.

    It stops at the first photo with color, so that it reads all of the sample only if all are gray.
    """
    seen = 0
    for index in np.linspace(0, len(photos) - 1, min(tries, len(photos))).astype(int):
        try:
            pixels = decode.open_photo(photos[index].image).pixels(128, 128)
        except (DataError, OSError):
            continue
        if not is_gray(pixels):
            return ""
        seen += 1
    if not seen:
        return ""
    return (
        f"all of the {seen} photos looked at are gray photos: they have no color, so there is "
        "nothing to learn from"
    )


def all_small(photos: Photos, crop: int, tries: int = 50) -> str:
    """A warning if a sample of the photos, spread over all, is enlarged more than twice; else "".

    It reads headers, and stops at the first photo that is large enough.

    Args:
        photos: the photos.
        crop: the side of the crops in pixels, to which smaller photos are enlarged.
        tries: the size of the sample.
    """
    sides = []
    for index in np.linspace(0, len(photos) - 1, min(tries, len(photos))).astype(int):
        try:
            photo = decode.open_photo(photos[index].image)
        except (DataError, OSError):
            continue
        sides.append(min(photo.height, photo.width))
        if 2 * sides[-1] >= crop:
            return ""
    if not sides:
        return ""
    return (
        f"all of the {len(sides)} photos looked at are enlarged more than twice for crops of "
        f"{crop} pixels, since their shorter sides have at most {max(sides)}: patches and tiles of "
        f"them are blurred; --config.data.crop={max(sides)} or less enlarges none of this size"
    )


def is_gray(pixels: np.ndarray) -> bool:
    """Whether a photo [height, width, 3] uint8 has hardly any color."""
    pixels = pixels.astype(np.int16)
    return bool((pixels.max(-1) - pixels.min(-1)).mean() < _GRAY)


def same(spec: str, other: str) -> bool:
    """Whether two specs name the same sources, even if their paths are written differently."""
    return _places(spec) == _places(other)


def overlap(spec: str, other: str) -> bool:
    """Whether a source of one spec equals, contains, or lies in a source of the other."""
    pairs = itertools.product(_places(spec), _places(other))
    return any(f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/") for a, b in pairs)


def _places(spec: str) -> list[str]:
    try:
        paths, _ = parse(spec)
    except DataError:
        return []
    named = ("tfds:", "builtin:", arrays.PREFIX)
    return [path if path.startswith(named) else os.path.realpath(path) for path in paths]


def open_source(path: str) -> Source:
    """One source of photos; see `KINDS`. DataError if there is none, or no photo in it."""
    source = _open(path)
    if len(source.names) == 0:
        known = " ".join(sorted(EXTENSIONS))
        there = describe(getattr(source, "left_out", {}))
        there = f". Left out: {there}" if there else ""
        raise DataError(f"no photo in {path}: no name in it ends in one of {known}{there}")
    _check_readable(source, path)
    return source


def _open(path: str) -> Source:
    if path.startswith(arrays.PREFIX):
        return arrays.open_arrays(path)
    if path.startswith("tfds:"):
        return Tfds(path.removeprefix("tfds:"))
    if path.startswith("builtin:"):
        if path != "builtin:photos":
            raise DataError(
                f"config.data.source: {path!r}; the only one built in is builtin:photos"
            )
        return BuiltinPhotos()
    if os.path.isdir(path):
        packed = _files(os.path.join(glob.escape(path), "*.array_record*"))
        _check_files(packed)
        if os.path.exists(os.path.join(path, "pack.json")):
            _check_packed(path, packed)
        if packed:
            return ArrayRecords(packed)
        return published.in_folder(path) or Folder(path)
    if into_zip(path)[1]:
        return Zip(path)
    files = [path] if os.path.lexists(path) else _files(path)
    if not files:
        raise DataError(f"config.data.source: there is no {path}. It can be {KINDS}")
    if os.path.isdir(files[0]):
        raise DataError(
            f"config.data.source: {path} matches the folder {files[0]}: name the folder above, or "
            "several folders as A,B"
        )
    _check_files(files)
    if all(file.endswith(".tar") for file in files):
        return Tar(files)
    if all(".array_record" in os.path.basename(file) for file in files):
        return ArrayRecords(files)
    if len(files) == 1:
        return _one_file(path, files[0])
    if opened := published.of_files(files):
        return opened
    raise DataError(
        f"config.data.source: {path} matches several files that are no shards; for photos, name "
        f"the folder. It can be {KINDS}"
    )


def _check_files(paths: Sequence[str]) -> None:
    """DataError for a pipe, a socket or a device, which reading would wait on forever."""
    for path in paths:
        if not os.path.isfile(path):
            raise DataError(f"config.data.source: {path} is no file. It can be {KINDS}")


def _one_file(path: str, file: str) -> Source:
    """Opens a zip archive, a photo, a list of photos, or a file of CIFAR-10 or SVHN.

    Its content decides, not its name.
    """
    if file.lower().endswith(".zip") or zipfile.is_zipfile(file):
        return Zip(file)
    if opened := published.of_files([file]):
        return opened
    try:
        if is_picture(read_file(file, HEAD)) or os.path.splitext(file)[1].lower() in EXTENSIONS:
            return Files(os.path.dirname(file), [os.path.basename(file)])
        lines = listing.lines(read_file(file), file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {why(error)}") from error
    except DataError as error:
        hint = describe({ending(file): 1}) if ending(file) in HEIC else "no picture and no list"
        if re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", file, re.IGNORECASE):
            hint = "compressed shards cannot be read at random: unpack them first"
        raise DataError(
            f"config.data.source: {path} cannot be read: {hint}. It can be {KINDS}"
        ) from error
    if not lines:
        raise DataError(f"{file} is empty: it lists no photo")
    folder = os.path.dirname(file)
    if not any(os.path.lexists(os.path.join(folder, line)) for line in lines[:_TRIES]):
        raise DataError(
            f"{file} is a text, and its first lines are no paths of photos, as in {lines[0]!r}: a "
            "list of photos has one path in a line, absolute or from the folder of the list"
        )
    return Files(folder, dict.fromkeys(lines))


def _check_packed(path: str, shards: list[str]) -> None:
    """DataError if some of the shards that `pack` planned to write are missing."""
    totals = {int(m[1]) for s in shards if (m := re.search(r"-of-(\d+)\.array_record$", s))}
    whole = len(totals) == 1 and len(shards) == max(totals)
    if not whole or not all(os.path.exists(names_file(shard)) for shard in shards):
        raise DataError(
            f"{path} holds {len(shards)} of {max(totals, default='its')} shards: run the same "
            "`pack` command again, it goes on where it was stopped"
        )


def _files(pattern: str) -> list[str]:
    return [p for p in sorted(glob.glob(pattern)) if not p.endswith((".names", ".bad", ".tmp"))]


def _check_readable(source: Source, path: str, tries: int = _TRIES) -> None:
    """DataError if no photo of a sample, spread over the source, can be read."""
    reasons = []
    for index in np.linspace(0, len(source.names) - 1, min(tries, len(source.names))).astype(int):
        try:
            decode.decode(source[index].image)
            return
        except (DataError, OSError) as error:
            reasons.append(f"{source.names[index]}: {why(error)}")
    raise DataError(
        f"no readable image in {path}: tried {len(reasons)} of {len(source.names)} photos. "
        + "; ".join(reasons[:3])
    )
