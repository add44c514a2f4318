"""Reads files by name, below a folder or in place inside a zip archive."""

import glob
import os
import re
import stat
import threading
import unicodedata
import zipfile

from colorize_jax.data.record import EXTENSIONS, is_hidden
from colorize_jax.errors import DataError

# No photo is larger: 179 million uncompressed pixels of 3 x 16 bits are 1.0 GiB. A sparse file, or
# one in an archive, may claim any size.
LARGEST = 2**30
# The limit for a file in an archive: this many bytes, or this many times its compressed size. (A
# blank bitmap can inflate a thousand times.)
_FREELY, _MOST_INFLATED = 2**26, 100


def read_file(path: str | bytes, most: int | None = None) -> bytes:
    """The content of a file, or its first `most` bytes.

    Raises:
        OSError: the file cannot be opened.
        DataError: it is a pipe, a folder or the like, or larger than `LARGEST`.
    """
    # Without O_NONBLOCK, opening a pipe would wait forever for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a file")
        if most is not None:
            return file.read(most)
        check_size(status.st_size)
        return file.read()


def check_size(size: int) -> None:
    """DataError if a file is, or claims to be, larger than any photo."""
    if size > LARGEST:
        raise DataError(f"{size:,} bytes: no photo is larger than {LARGEST:,}")


class _PictureIndex:
    """The lookup of pictures by name, for both kinds of trees."""

    def __init__(self):
        self._pictures: dict[str, dict[str, list[str]]] = {}

    def pictures(self, folder: str) -> dict[str, list[str]]:
        """{name without ending: names of pictures} directly in a folder; the result is cached."""
        if folder not in self._pictures:
            found: dict[str, list[str]] = {}
            for entry in sorted(self.entries(folder)):
                stem, ending = os.path.splitext(entry)
                if ending.lower() in EXTENSIONS:
                    found.setdefault(unicodedata.normalize("NFC", stem), []).append(entry)
            self._pictures[folder] = found
        return self._pictures[folder]


class FolderTree(_PictureIndex):
    """Files below a folder. Picklable, and safe to use from several threads."""

    def __init__(self, path: str):
        super().__init__()
        self.path, self._entries = path, {}

    def __getstate__(self):
        return self.path

    def __setstate__(self, path):
        self.__init__(path)

    def read(self, name: str) -> bytes:
        """The content of a file below the folder; OSError or DataError if it cannot be read."""
        return read_file(os.path.join(self.path, name))

    def entries(self, folder: str) -> set[str]:
        """The names directly in a folder that are not hidden; empty if there is no such folder.

        The result is cached.
        """
        if folder not in self._entries:
            try:
                listed = os.listdir(os.path.join(self.path, folder))
                self._entries[folder] = {name for name in listed if not is_hidden(name)}
            except OSError:
                self._entries[folder] = set()
        return self._entries[folder]


class ZipTree(_PictureIndex):
    """Files inside a zip archive, or below one of its folders. Picklable, safe in threads.

    Args:
        archive: the path of the archive. DataError if it is no zip archive.
        prefix: the folder, with a slash at its end; "" means the whole archive.
    """

    def __init__(self, archive: str, prefix: str = ""):
        self._file, self._prefix = archive, prefix
        self.path = f"{archive}/{prefix}".rstrip("/")
        self._open()
        try:
            self.names()
        # A name that is not in its declared encoding raises ValueError.
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise DataError(f"{archive} cannot be read as a zip archive: {error}") from error

    def _open(self):
        super().__init__()
        self._lock, self._archive, self._folders = threading.Lock(), None, None
        self._raw: dict[str, str] = {}

    def __getstate__(self):
        return {"_file": self._file, "_prefix": self._prefix, "path": self.path}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _opened(self) -> zipfile.ZipFile:
        with self._lock:  # Threads share a handle: the table of contents may take much memory.
            if self._archive is None:
                if not os.path.isfile(self._file):
                    raise DataError(f"{self._file} is no file")
                archive = zipfile.ZipFile(self._file)
                # Some tools on Windows violate the format and write backslashes.
                self._raw = {
                    name.replace("\\", "/"): name for name in archive.NameToInfo if "\\" in name
                }
                self._archive, self._size = archive, os.path.getsize(self._file)
            return self._archive

    def names(self) -> list[str]:
        """The names of all files below the folder, relative to it, with "/" between folders."""
        start = len(self._prefix)
        names = (name.replace("\\", "/") for name in self._opened().namelist())
        return [n[start:] for n in names if n.startswith(self._prefix) and not n.endswith("/")]

    def read(self, name: str) -> bytes:
        """The content of a file below the folder; DataError if it cannot be read."""
        return self._read(name, None)

    def head(self, name: str, most: int) -> bytes:
        """The first bytes of a file, at most `most`; DataError if they cannot be read."""
        return self._read(name, most)

    def _read(self, name: str, most: int | None) -> bytes:
        archive, full = self._opened(), self._prefix + name
        try:
            member = archive.getinfo(self._raw.get(full, full))
            if member.compress_size > self._size:
                raise DataError("it ends after the end of the archive")
            if most is None:
                check_size(member.file_size)
                if member.file_size > max(_FREELY, _MOST_INFLATED * member.compress_size):
                    raise DataError(
                        f"{member.compress_size:,} bytes that inflate to {member.file_size:,}: no "
                        "photo does"
                    )
                most = member.file_size
            with archive.open(member) as file:
                return _inflated(file, most, member.compress_type)
        # A damaged or encrypted member can make zipfile raise many kinds of errors.
        except Exception as error:
            if isinstance(error, OSError):  # A handle may stay stale after the storage is back.
                self._open()
            raise DataError(f"damaged in the archive: {error}") from error

    def entries(self, folder: str) -> set[str]:
        """The files directly in a folder that are not hidden; empty if there is no such folder."""
        if self._folders is None:
            folders: dict[str, set[str]] = {}
            for name in self.names():
                above, _, base = name.rpartition("/")
                if not is_hidden(base):
                    folders.setdefault(above, set()).add(base)
            self._folders = folders
        return self._folders.get(folder, set())


def _inflated(file: zipfile.ZipExtFile, most: int, method: int) -> bytes:
    """At most `most` bytes of a file in an archive, however many it inflates to."""
    if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return file.read(most)
    # Methods other than deflate inflate all of their input at once, so they get small pieces.
    found = bytearray()
    while len(found) < most and (piece := file.read(min(4096, most - len(found)))):
        found += piece
    return bytes(found)


Tree = FolderTree | ZipTree


def holds(tree: Tree, name: str) -> bool:
    """Whether the tree has a file of that name."""
    folder, _, base = name.rpartition("/")
    return base in tree.entries(folder)


def find_picture(tree: Tree, name: str, ending: str) -> str | None:
    """The picture with this name and any ending; None if there is none.

    Letters with accents may be written as one character or as two; both forms match.

    Args:
        ending: the preferred ending, such as ".jpg", if several pictures have this name.
    """
    if holds(tree, name + ending):
        return name + ending
    folder, slash, base = name.rpartition("/")
    found = tree.pictures(folder).get(unicodedata.normalize("NFC", base), [])
    found = sorted(found, key=lambda entry: os.path.splitext(entry)[1].lower() != ending)
    return folder + slash + found[0] if found else None


def into_zip(path: str) -> tuple[str, str]:
    """Splits ARCHIVE.zip/FOLDER into (ARCHIVE.zip, "FOLDER/"); any other path gives (path, "")."""
    match = re.fullmatch(r"(.+?\.zip)/(.+)", path)
    if match and os.path.isfile(match[1]):
        return match[1], match[2].rstrip("/") + "/"
    return path, ""


def find(path: str, marker: str) -> list[Tree]:
    """The folders, at most two levels below `path`, that contain a folder named `marker`.

    Args:
        path: a folder, a zip archive, or ARCHIVE.zip/FOLDER.

    Raises:
        DataError: the path does not exist, or the archive cannot be read.
    """
    if os.path.isdir(path):
        for depth in ("", "*", "*/*"):
            found = sorted(glob.glob(os.path.join(glob.escape(path), depth, marker, "")))
            found = [f for f in found if not _in_hidden(os.path.relpath(f, path))]
            if found:
                return [FolderTree(os.path.dirname(os.path.dirname(f))) for f in found]
        return []
    archive, inside = into_zip(path)
    if not os.path.isfile(archive):
        said = f"{path} is no file" if os.path.exists(archive) else f"there is no {path}"
        raise DataError(f"{said}: name a folder or a zip archive")
    tree = ZipTree(archive)
    pattern = re.compile(rf"({re.escape(inside)}(?:[^/]+/){{0,2}}){re.escape(marker)}/")
    found = (m[1] for name in tree.names() if (m := pattern.match(name)))
    prefixes = {prefix for prefix in found if not _in_hidden(prefix.removeprefix(inside))}
    shallowest = min((p.count("/") for p in prefixes), default=0)
    return [ZipTree(archive, p) for p in sorted(prefixes) if p.count("/") == shallowest]


def _in_hidden(path: str) -> bool:
    return any(map(is_hidden, path.split("/")))
