"""Files below a folder or inside a zip archive, by their names; read in place."""

import glob
import os
import re
import stat
import threading
import unicodedata
import zipfile

from colorize_jax.data.record import EXTENSIONS, is_hidden
from colorize_jax.errors import DataError

# No photo is larger: 179 million pixels of 3 x 16 bits, as they are, are 1.0 GiB. A sparse file, or
# one in an archive, may claim any size.
LARGEST = 2**30
# A file in an archive may be so large, or so many times as large as it is stored. (Blank pixels,
# uncompressed in their own format, would be a thousand times as large.)
_FREELY, _MOST_INFLATED = 2**26, 100


def read_file(path: str | bytes, most: int | None = None) -> bytes:
    """The whole of a file, or its first `most` bytes.

    Raises:
        OSError: there is none.
        DataError: it is a pipe, a folder or the like, or larger than `LARGEST`.
    """
    # Opening a pipe would wait forever for someone to write into it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a file")
        if most is not None:
            return file.read(most)
        check_size(status.st_size)
        return file.read()


def check_size(size: int) -> None:
    """DataError for a file that is larger than any photo, or claims to be."""
    if size > LARGEST:
        raise DataError(f"{size:,} bytes: no photo is larger than {LARGEST:,}")


class _Named:
    """What both kinds of trees know of their pictures."""

    def __init__(self):
        self._pictures: dict[str, dict[str, list[str]]] = {}

    def pictures(self, folder: str) -> dict[str, list[str]]:
        """{name without its ending: pictures called so} directly in a folder, looked up once."""
        if folder not in self._pictures:
            found: dict[str, list[str]] = {}
            for entry in sorted(self.entries(folder)):
                stem, ending = os.path.splitext(entry)
                if ending.lower() in EXTENSIONS:
                    found.setdefault(unicodedata.normalize("NFC", stem), []).append(entry)
            self._pictures[folder] = found
        return self._pictures[folder]


class FolderTree(_Named):
    """Files below a folder. Picklable, and safe to use from several threads."""

    def __init__(self, path: str):
        super().__init__()
        self.path, self._entries = path, {}

    def __getstate__(self):
        return self.path

    def __setstate__(self, path):
        self.__init__(path)

    def read(self, name: str) -> bytes:
        """A file by its name below the folder; OSError or DataError if it cannot be had."""
        return read_file(os.path.join(self.path, name))

    def entries(self, folder: str) -> set[str]:
        """What lies directly in a folder and is not hidden, looked up once; empty if there is no
        such folder."""
        if folder not in self._entries:
            try:
                listed = os.listdir(os.path.join(self.path, folder))
                self._entries[folder] = {name for name in listed if not is_hidden(name)}
            except OSError:
                self._entries[folder] = set()
        return self._entries[folder]


class ZipTree(_Named):
    """Files inside a zip archive, or below one of its folders. Picklable, safe in threads.

    Args:
        archive: path of the archive. DataError if it is none.
        prefix: the folder, with a slash at its end; "": the whole archive.
    """

    def __init__(self, archive: str, prefix: str = ""):
        self._file, self._prefix = archive, prefix
        self.path = f"{archive}/{prefix}".rstrip("/")
        self._open()
        try:
            self.names()
        # ValueError: a name that is not in the encoding that it is said to be in.
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
        with self._lock:  # one handle for all threads: a large archive's table of contents is large
            if self._archive is None:
                if not os.path.isfile(self._file):
                    raise DataError(f"{self._file} is no file")
                archive = zipfile.ZipFile(self._file)
                # Some tools of Windows write their own separator, against the format.
                self._raw = {
                    name.replace("\\", "/"): name for name in archive.NameToInfo if "\\" in name
                }
                self._archive, self._size = archive, os.path.getsize(self._file)
            return self._archive

    def names(self) -> list[str]:
        """Of all files below the folder, as they are called there, with "/" between folders."""
        start = len(self._prefix)
        names = (name.replace("\\", "/") for name in self._opened().namelist())
        return [n[start:] for n in names if n.startswith(self._prefix) and not n.endswith("/")]

    def read(self, name: str) -> bytes:
        """A file by its name below the folder; DataError if it cannot be had."""
        return self._read(name, None)

    def head(self, name: str, most: int) -> bytes:
        """The first bytes of a file, at most so many; DataError if they cannot be had."""
        return self._read(name, most)

    def _read(self, name: str, most: int | None) -> bytes:
        archive, full = self._opened(), self._prefix + name
        try:
            member = archive.getinfo(self._raw.get(full, full))
            if member.compress_size > self._size:
                raise DataError("it ends behind the end of the archive")
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
        # zipfile's list of what a damaged or encrypted member can raise is long.
        except Exception as error:
            if isinstance(error, OSError):  # a handle may stay stale when the storage is back
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
    """At most so many bytes of a file in an archive, however many it inflates to."""
    if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return file.read(most)
    # The other methods inflate all that they were given before zipfile cuts it off: small pieces.
    found = bytearray()
    while len(found) < most and (piece := file.read(min(4096, most - len(found)))):
        found += piece
    return bytes(found)


Tree = FolderTree | ZipTree


def holds(tree: Tree, name: str) -> bool:
    """Whether there is a file of that name."""
    folder, _, base = name.rpartition("/")
    return base in tree.entries(folder)


def find_picture(tree: Tree, name: str, ending: str) -> str | None:
    """The picture that is called `name` but for its ending; None if there is none.

    Letters with accents may be written as one character here and as two there.

    Args:
        ending: which one is meant where several pictures are called so, as in ".jpg".
    """
    if holds(tree, name + ending):
        return name + ending
    folder, slash, base = name.rpartition("/")
    found = tree.pictures(folder).get(unicodedata.normalize("NFC", base), [])
    found = sorted(found, key=lambda entry: os.path.splitext(entry)[1].lower() != ending)
    return folder + slash + found[0] if found else None


def into_zip(path: str) -> tuple[str, str]:
    """ARCHIVE.zip/FOLDER -> (ARCHIVE.zip, "FOLDER/"); any other path -> (path, "")."""
    match = re.fullmatch(r"(.+?\.zip)/(.+)", path)
    if match and os.path.isfile(match[1]):
        return match[1], match[2].rstrip("/") + "/"
    return path, ""


def find(path: str, marker: str) -> list[Tree]:
    """The folders, at most two levels below `path`, that have a folder called `marker`.

    Args:
        path: a folder, a zip archive, or ARCHIVE.zip/FOLDER.

    Raises:
        DataError: there is no such path, or the archive cannot be read.
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
