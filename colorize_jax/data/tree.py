"""Files below a folder or inside a zip archive, by their names; read in place."""

import glob
import os
import re
import stat
import threading
import zipfile

from colorize_jax.errors import DataError


def read_file(path: str | bytes) -> bytes:
    """The whole of a file; OSError or DataError if there is none."""
    # Opening a pipe would wait forever for someone to write into it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DataError("not a file")
        return file.read()


class FolderTree:
    """Files below a folder. Picklable, and safe to use from several threads."""

    def __init__(self, path: str):
        self.path, self._entries = path, {}

    def __getstate__(self):
        return self.path

    def __setstate__(self, path):
        self.__init__(path)

    def read(self, name: str) -> bytes:
        """A file by its name below the folder; OSError or DataError if it cannot be had."""
        return read_file(os.path.join(self.path, name))

    def entries(self, folder: str) -> set[str]:
        """What lies directly in a folder, looked up once; empty if there is no such folder."""
        if folder not in self._entries:
            try:
                self._entries[folder] = set(os.listdir(os.path.join(self.path, folder)))
            except OSError:
                self._entries[folder] = set()
        return self._entries[folder]


class ZipTree:
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
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise DataError(f"{archive} cannot be read as a zip archive: {error}") from error

    def _open(self):
        self._lock, self._archive, self._folders = threading.Lock(), None, None

    def __getstate__(self):
        return {"_file": self._file, "_prefix": self._prefix, "path": self.path}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _opened(self) -> zipfile.ZipFile:
        with self._lock:  # one handle for all threads: a large archive's table of contents is large
            if self._archive is None:
                self._archive = zipfile.ZipFile(self._file)
            return self._archive

    def names(self) -> list[str]:
        """Of all files below the folder, as they are called there."""
        start = len(self._prefix)
        return [n[start:] for n in self._opened().namelist() if n.startswith(self._prefix)]

    def read(self, name: str) -> bytes:
        """A file by its name below the folder; DataError if it cannot be had."""
        archive = self._opened()
        try:
            return archive.read(self._prefix + name)
        # zipfile's list of what a damaged or encrypted member can raise is long.
        except Exception as error:
            raise DataError(f"damaged in the archive: {error}") from error

    def entries(self, folder: str) -> set[str]:
        """The files directly in a folder; empty if there is no such folder."""
        if self._folders is None:
            folders: dict[str, set[str]] = {}
            for name in self.names():
                above, _, base = name.rpartition("/")
                folders.setdefault(above, set()).add(base)
            self._folders = folders
        return self._folders.get(folder, set())


Tree = FolderTree | ZipTree


def holds(tree: Tree, name: str) -> bool:
    """Whether there is a file of that name."""
    folder, _, base = name.rpartition("/")
    return base in tree.entries(folder)


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
            if found:
                return [FolderTree(os.path.dirname(os.path.dirname(f))) for f in found]
        return []
    archive, inside = into_zip(path)
    if not os.path.isfile(archive):
        raise DataError(f"there is no {path}: name a folder or a zip archive")
    tree = ZipTree(archive)
    pattern = re.compile(rf"({re.escape(inside)}(?:[^/]+/){{0,2}}){re.escape(marker)}/")
    prefixes = {m[1] for name in tree.names() if (m := pattern.match(name))}
    shallowest = min((p.count("/") for p in prefixes), default=0)
    return [ZipTree(archive, p) for p in sorted(prefixes) if p.count("/") == shallowest]
