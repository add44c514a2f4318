"""Which files of a folder or an archive are photos, and how `data check` reports the others."""

import base64
import io
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest
import tiny

from colorize_jax.data import __main__ as command
from colorize_jax.data import decode, record, sources, splits, tree
from colorize_jax.data.archives import Tar, Zip
from colorize_jax.data.class_folders import ClassFolders
from colorize_jax.data.folder import Folder
from colorize_jax.errors import DataError

ROOT = pathlib.Path(__file__).parent.parent
needs_no_heic = pytest.mark.skipif(record.HAS_HEIC, reason="HEIC is read here")


def _photo(kind="JPEG", seed=0, size=(48, 64)):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _write(root, files):
    """Writes {name as text or bytes: content} below a folder."""
    for name, data in files.items():
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


JPEG = _photo()
PHOTOS = ("cat/1.jpg", "cat/2.JPG", "dog/1.jfif", "dog/2.JFIF", "dog/3.mpo", "dog/4.pjpeg")
NO_ENDING = ("cat/photo", "cat/at 10.12.30", "dog/2019.05.03 Zoo")
SYSTEM = (
    ".hidden.jpg", "._1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", ".Trash-0/files/1.jpg",
    ".thumbnails/1.jpg", "__MACOSX/cat/1.jpg", "lost+found/1.jpg", "cat/@eaDir/1.jpg/THUMB.jpg",
    "cat/.ipynb_checkpoints/1.jpg", "$RECYCLE.BIN/1.jpg", "System Volume Information/1.jpg",
)  # fmt: skip
OTHERS = {"README": b"text", "a.txt": b"", "b.txt": b"", "clip.MP4": b"", "1.jpg~": JPEG}


def _everything():
    files = dict.fromkeys((*PHOTOS, *NO_ENDING, *SYSTEM), JPEG) | OTHERS
    return files | {"cat/png": _photo("PNG"), "IMG_1.HEIC": b"\0\0\0\x18ftypheic" + bytes(99)}


def _packed(root, kind):
    """The same files as a folder, a zip archive or a tar shard."""
    files = _everything()
    if kind == "folder":
        _write(root / "all", files)
        return Folder(str(root / "all"))
    if kind == "zip":
        with zipfile.ZipFile(root / "all.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return Zip(str(root / "all.zip"))
    with tarfile.open(root / "all.tar", "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return Tar([str(root / "all.tar")])


@needs_no_heic
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_folders_and_archives_leave_out_the_same(tmp_path, kind):
    source = _packed(tmp_path, kind)
    names = sorted(name.removeprefix("all.tar/./") for name in source.names)
    assert names == sorted((*PHOTOS, *NO_ENDING, "cat/png"))
    for i in range(len(names)):
        assert decode.decode(source[i].image).shape == (48, 64, 3)
    hidden = source.left_out[record.HIDDEN]
    assert hidden == len(SYSTEM)
    assert source.left_out == {
        ".heic": 1, ".txt": 2, ".mp4": 1, ".jpg~": 1, record.NO_PICTURE: 1, record.HIDDEN: hidden,
    }  # fmt: skip
    again = _packed(tmp_path, kind)  # It is read from the index if there is one.
    assert again.left_out == source.left_out and list(again.names) == list(source.names)


@needs_no_heic
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_folders_of_the_system_are_no_classes(tmp_path, kind):
    path = {"folder": "all", "zip": "all.zip", "tar": "all.tar"}[kind]
    _packed(tmp_path, kind)
    photos, classes = ClassFolders(str(tmp_path / path)).split("")
    assert classes == ("cat", "dog")
    assert len(photos) == len(PHOTOS) + len(NO_ENDING) + 1


def test_a_source_may_lie_in_a_hidden_folder_itself(tmp_path):
    _write(tmp_path, {".cache/photos/1.jpg": JPEG, ".cache/photos/.x/2.jpg": JPEG})
    assert list(sources.open_source(str(tmp_path / ".cache/photos")).names) == ["1.jpg"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF"])
def test_pictures_are_known_by_their_first_bytes(kind):
    assert record.is_picture(_photo(kind)[: record.HEAD])


def test_other_files_are_not_taken_for_pictures():
    for data in (b"", b"BM is no bitmap here, but a text of some length", b"P5", b"RIFF....AVI ",
                 b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0", b"\0\0\0\x18ftypmp42"):  # fmt: skip
        assert not record.is_picture(data)


def test_files_with_an_ending_are_not_looked_into(tmp_path, monkeypatch):
    _write(tmp_path, {"1.jpg": JPEG, "2.png": JPEG, "3.txt": b"", "4.xml": b""})
    monkeypatch.setattr("colorize_jax.data.folder.read_file", lambda *_: pytest.fail("was read"))
    assert list(Folder(str(tmp_path)).names) == ["1.jpg", "2.png"]


def test_pipes_and_sockets_are_left_out_at_once(tmp_path):
    _write(tmp_path, {"1.jpg": JPEG})
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(tmp_path / name)
    os.symlink(tmp_path / "pipe", tmp_path / "link")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket.jpg"))
        folder = Folder(str(tmp_path))
    assert list(folder.names) == ["1.jpg"]
    assert folder.left_out == {record.NO_FILE: 3, record.NO_PICTURE: 1}


def test_pipes_are_no_sources(tmp_path):
    for name in ("p", "p.zip", "p.tar", "p.array_record", "folder/x.array_record"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    for name in ("p", "p.zip", "p.zip/train", "p.tar", "*.tar", "p.array_record", "folder"):
        with pytest.raises(DataError, match="is no file|there is no"):
            sources.open_source(str(tmp_path / name))


@needs_no_heic
def test_heic_is_named_with_what_reads_it(tmp_path):
    _write(tmp_path, {f"{i}.HEIC": b"\0\0\0\x18ftypheic" for i in range(3)})
    for path in (tmp_path, tmp_path / "0.HEIC"):
        with pytest.raises(DataError, match=r"\d \.heic .*colorize_jax\[heic\]"):
            sources.open_source(str(path))


def test_heic_is_read_where_the_plugin_is():
    pytest.importorskip(record.HEIC_PLUGIN)
    # A picture of 48 x 32 pixels of one color, encoded by libheif.
    data = base64.b64decode(
        "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
        "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAABkAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
        "dmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
        "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAA"
        "AwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAAB"
        "AAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAACFt"
        "ZGF0AAAAFSgBrxmA70mlv/41n/mR6/zutaY+bg=="
    )
    assert record.is_picture(data) and record.sort("IMG_1.HEIC") == record.PHOTO
    pixels = decode.decode(data)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).mean() < 5


def test_one_photo_is_a_source(tmp_path):
    _write(tmp_path, {"1.jpg": JPEG, "photo": JPEG})
    for name in ("1.jpg", "photo"):
        source = sources.open_source(str(tmp_path / name))
        assert list(source.names) == [name] and source[0].image == JPEG
    with pytest.raises(DataError, match="more than one photo"):
        sources.open_splits(str(tmp_path / "1.jpg"), 0.5)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_photos_is_a_source(tmp_path, encoding):
    _write(tmp_path, {"a/ü 1.jpg": JPEG, "b/2.jpg": JPEG, "b/3.jpg": JPEG})
    lines = ["a/ü 1.jpg", "", str(tmp_path / "b/2.jpg"), "a/ü 1.jpg"]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode(encoding))
    source = sources.open_source(str(tmp_path / "list.txt"))
    assert list(source.names) == ["a/ü 1.jpg", str(tmp_path / "b/2.jpg")]
    assert source[0].image == source[1].image == JPEG


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.txt", b"\n", "is empty: it lists no photo"),
        ("labels.txt", b"a.jpg 3\nb.jpg 4\n", "no paths of photos, as in 'a.jpg 3'"),
        ("a.rar", b"Rar!\x1a\7\0" + bytes(99), "no picture and no list"),
        ("a.tar.gz", b"\x1f\x8b\x08\0\0", "unpack them first"),
        ("a.jpg", b"<html>", "no readable image in .*not an image"),
    ],
)
def test_a_file_that_is_no_source_gives_an_error_that_names_its_kind(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        sources.open_source(str(tmp_path / name))


def test_patterns_that_match_folders_or_photos_are_answered(tmp_path):
    _write(tmp_path, {"a/1.jpg": JPEG, "a/2.jpg": JPEG})
    with pytest.raises(DataError, match="name the folder above"):
        sources.open_source(str(tmp_path / "*"))
    with pytest.raises(DataError, match="name the folder"):
        sources.open_source(str(tmp_path / "a/*"))


def test_windows_names_in_a_zip_have_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("set\\train\\cat\\1.jpg", "set\\train\\dog\\1.jpg", "set/train\\dog\\2.jpg"):
            member = zipfile.ZipInfo("x")
            member.filename = name
            archive.writestr(member, JPEG)
    photos, classes = ClassFolders(str(tmp_path / "a.zip")).split("train")
    assert classes == ("cat", "dog") and len(photos) == 3 and photos[2].image == JPEG
    below = Zip(str(tmp_path / "a.zip/set/train"))
    assert list(below.names) == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]


def _set_size(path, size):
    """Changes the size of the last file in a zip archive's table of contents."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, size)
    path.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_files_in_a_zip_take_no_more_memory_than_photos_do(tmp_path, method, monkeypatch):
    path, size = tmp_path / "a.zip", 3 * 2**20
    monkeypatch.setattr(tree, "_FREELY", 2**21)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.jpg", JPEG)
        with archive.open("2.jpg", "w") as file:
            for _ in range(size >> 20):
                file.write(bytes(2**20))
    with pytest.raises(DataError, match="inflate to 3,145,728"):
        Zip(str(path))[1]
    _set_size(path, 2**31)
    with pytest.raises(DataError, match="no photo is larger"):
        Zip(str(path))[1]
    _set_size(path, 1000)  # It inflates to more than this.
    seen = []
    plain = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: seen.append(n) or plain(self, n)
    )
    with pytest.raises(DataError, match="damaged in the archive"):
        Zip(str(path))[1]
    assert Zip(str(path))[0].image == JPEG
    assert all(0 <= n <= max(len(JPEG), 4096) for n in seen)


def test_a_sparse_file_and_a_shard_that_claims_are_not_read(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="no photo is larger"):
        Folder(str(tmp_path))[0]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("1.jpg")
        member.size = 2**40
        archive.fileobj.write(member.tobuf())
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar|no photo is larger"):
        Tar([str(tmp_path / "a.tar")])[0]


def test_gray_photos_are_reported_once_at_the_start(tmp_path):
    for i in range(6):
        Image.new("L", (40, 30), 40 * i).save(tmp_path / f"{i}.png")
    photos, _ = sources.open_splits(str(tmp_path), 0.2)
    assert "gray photos" in sources.all_gray(photos)
    (tmp_path / "color.jpg").write_bytes(JPEG)
    photos = sources.open_all(str(tmp_path))
    assert sources.all_gray(photos) == ""


def test_photos_that_are_far_too_small_for_their_crops_are_said(tmp_path):
    for i in range(3):
        Image.new("RGB", (40, 20 + i), (9 * i, 50, 90)).save(tmp_path / f"{i}.png")
    config = tiny.config(data__source=str(tmp_path), data__crop=48)
    said = " ".join(splits.open_splits(config).warnings)
    assert "all of the 2 photos" in said and "--config.data.crop=2" in said
    photos = sources.open_all(str(tmp_path))
    assert "at most 22" in sources.all_small(photos, 48)
    assert sources.all_small(photos, 44) == ""  # The last one is enlarged twice, and not more.


def test_a_run_says_at_its_start_what_it_leaves_out(tmp_path):
    _write(tmp_path, {f"{i}.jpg": JPEG for i in range(4)} | {"a.mov": b"", "b.mov": b""})
    said = splits.open_splits(tiny.config(data__source=str(tmp_path), data__holdout=0.3)).warnings
    assert said == (f"left out of {tmp_path}: 2 .mov",)


@needs_no_heic
def test_check_of_a_folder_with_one_of_everything(tmp_path, capfd):
    root = tmp_path / "all"
    _write(root, _everything())
    _write(
        root,
        {
            b"latin\xfc.jpg": b"no picture",
            "red\x1b[31m\x07.jpg": b"no picture",
            "two\nlines.jpg": b"no picture",
            "empty.png": b"",
            "gray.png": _photo("PNG", size=(48, 64)),
        },
    )
    Image.new("L", (64, 48), 99).save(root / "gray.png")
    os.mkfifo(root / "pipe.jpg")
    os.symlink("/nowhere", root / "link.jpg")
    command.main(["check", str(root)])
    text, progress = capfd.readouterr()
    assert text.splitlines()[:9] == [
        "16 photos, 11 readable, 5 not",
        "  3 x not an image",
        "  1 x empty file",
        "  1 x No such file or directory",
        "  empty.png: empty file",
        r"  latin\xfc.jpg: not an image",
        "  link.jpg: No such file or directory",
        r"  red\x1b[31m\x07.jpg: not an image",
        r"  two\nlines.jpg: not an image",
    ]
    assert text.splitlines()[9:12] == [
        "photos by ending: 6 .jpg, 4 without one, 2 .jfif, 2 .png, 1 .mpo, 1 .pjpeg",
        f"left out of {root}: 2 .txt, 1 .heic, 1 .jpg~, 1 .mp4, 11 hidden or system files or "
        "folders, 1 without an ending that is no picture, 1 pipe, socket or device "
        "(pip install 'colorize_jax[heic]' lets HEIC be read)",
        "gray: 9.1%",
    ]
    assert "\x1b[31m" not in text + progress and "Warning" not in progress


def test_names_and_pillow_s_warnings_on_a_screen_without_our_letters(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"
    (tmp_path / "edited.jpg").write_bytes(
        JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + JPEG[2:]
    )
    _write(tmp_path, {"\u00fc.jpg": b"no picture"})
    result = subprocess.run(
        [sys.executable, "-m", "colorize_jax.data", "check", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0 and result.stdout.startswith("2 photos, 1 readable")
    assert r"\xfc.jpg: not an image" in result.stdout and "Warning" not in result.stderr
