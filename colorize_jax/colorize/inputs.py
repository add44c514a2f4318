"""Which photos are meant, and where each result goes."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import os
import posixpath
import zipfile

from colorize_jax.colorize import photos
from colorize_jax.data import tree
from colorize_jax.data.archives import Zip
from colorize_jax.data.folder import Files, Folder
from colorize_jax.data.record import Record, describe, is_picture
from colorize_jax.errors import DataError, why


@dataclasses.dataclass(frozen=True)
class Item:
    """A photo to color.

    Attributes:
        name: for messages.
        place: of its result below the output folder, with "/" between folders.
        read: gives the bytes of its file; OSError or DataError.
        path: of its file; "" in an archive.
    """

    name: str
    place: str
    read: Callable[[], bytes]
    path: str = ""


@dataclasses.dataclass
class Found:
    """What the inputs hold.

    Attributes:
        items: the photos.
        failed: [(name, reason)] of inputs that cannot be read.
        remarks: what was left out, in words.
    """

    items: list[Item] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)


def find(inputs: Sequence[str], listed: Sequence[str], output: str, recursive: bool) -> Found:
    """The photos of some inputs.

    Args:
        inputs: files, folders, zip archives, or folders in them.
        listed: more of them, from a list; a file keeps its folders if its path is a relative one.
        output: folder of the results: what lies in it is none of the inputs.
        recursive: whether folders below a folder are looked into; in an archive all are.
    """
    found = Found()
    several = len(inputs) + len(listed) > 1
    for path in inputs:
        _add(found, path, output, recursive, several, posixpath.basename(path.rstrip("/")))
    for path in listed:
        normal = posixpath.normpath(path)
        below = normal if not normal.startswith(("/", "..")) else posixpath.basename(normal)
        _add(found, path, output, recursive, several, below)
    return found


def _add(found: Found, path: str, output: str, recursive: bool, several: bool, name: str) -> None:
    """Adds the photos of one input; `name` is what its result, or its folder of results, is called
    if there are several inputs."""
    try:
        if os.path.isdir(path):
            source = Folder(path)
            items = _of_source(source, path, name if several else "", path)
            _take(found, items, path, output, recursive)
        elif tree.into_zip(path)[1] or (os.path.isfile(path) and _is_zip(path)):
            source = Zip(path)
            stem = posixpath.splitext(name)[0] if name.lower().endswith(".zip") else name
            found.items += _of_source(source, path, stem if several else "", "")
        else:
            if not os.path.lexists(path):
                raise DataError("there is no such file or folder")
            folder, base = os.path.split(path)
            read = functools.partial(_read, Files(folder, [base]), 0)
            found.items.append(Item(path, name, read, path))
            return
        if not len(source.names):
            raise DataError("no photo is in it")
        if said := describe(source.left_out):
            found.remarks.append(f"left out of {path}: {said}")
    except (DataError, OSError) as error:
        found.failed.append((path, why(error)))


def _is_zip(path: str) -> bool:
    return not is_picture(tree.read_file(path, 32)) and zipfile.is_zipfile(path)


def _of_source(source: Folder | Zip, path: str, prefix: str, folder: str) -> Iterator[Item]:
    for number, name in enumerate(source.names):
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        yield Item(
            f"{path}/{name}",
            posixpath.join(prefix, *parts),
            functools.partial(_read, source, number),
            os.path.join(folder, name) if folder else "",
        )


def _take(found: Found, items: Iterator[Item], path: str, output: str, recursive: bool) -> None:
    """Adds the items of a folder that are meant, and says which are not."""
    results, below, inside, taken = os.path.realpath(output) + os.sep, 0, 0, 0
    within = results.startswith(os.path.realpath(path) + os.sep)
    for item in items:
        if within and os.path.realpath(item.path).startswith(results):
            inside += 1
        elif not recursive and os.sep in os.path.relpath(item.path, path):
            below += 1
        else:
            taken += 1
            found.items.append(item)
    if inside:
        found.remarks.append(
            f"left out of {path}: {inside:,} in the folder of the results, {output}, which lies in "
            "it"
        )
    if below:
        text = f"{below:,} in folders below {path}: --recursive takes these photos too"
        if not taken:
            raise DataError(f"no photo is directly in it, but there are {text}")
        found.remarks.append(f"left out: {text}")


def _read(source: Folder | Zip | Files, number: int) -> bytes:
    record: Record = source[number]
    return record.image


def results(items: Sequence[Item], form: str, samples: int) -> list[list[str]]:
    """The names of the results of every item below the output folder.

    Args:
        items: the photos.
        form: a key of `photos.FORMATS`, which gives the ending; "": the name's own, where we write
            such files, and .png otherwise.
        samples: how many results a photo has; 0: one, without a number in its name.
    """
    return [_names(item.place, form, samples) for item in items]


def _names(place: str, form: str, samples: int) -> list[str]:
    stem, ending = posixpath.splitext(place)
    own = photos.format_of(place)
    if form and own != form:
        ending = photos.FORMATS[form][0]
    elif not own:
        # What has no ending at all keeps its name with one more.
        known = ending.lower() in (".gif", ".pgm", ".mpo", ".heic", ".heif", ".hif")
        stem = stem if known else place
        ending = {".pgm": ".ppm", ".mpo": ".jpg"}.get(ending.lower(), ".png")
    if not samples:
        return [stem + ending]
    width = len(str(samples))
    return [f"{stem}-{number:0{width}}{ending}" for number in range(1, samples + 1)]


def clashes(places: Sequence[Sequence[str]]) -> dict[int, int]:
    """{number of an item: that of another one} of all whose results would be called alike.

    Some file systems know no capitals: names that differ in them alone are alike.
    """
    owners: dict[str, list[int]] = {}
    for number, names in enumerate(places):
        for name in names:
            owners.setdefault(name.casefold(), []).append(number)
    found = {}
    for numbers in owners.values():
        if len(numbers) > 1:
            for number in numbers:
                found[number] = next(other for other in numbers if other != number)
    return found
