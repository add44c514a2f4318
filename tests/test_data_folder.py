"""Folders: which files are listed, and an index that notices changes."""

import io
import os
import pickle
import time

import numpy as np
import pytest
import tiny

from colorize_jax.data import folder as folders
from colorize_jax.data.folder import Folder
from colorize_jax.errors import DataError


def test_folder_is_read_recursively_and_in_the_order_of_names(tmp_path, rng):
    names = tiny.write_photos(tmp_path, 5, rng)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    folder = Folder(str(tmp_path))
    assert list(folder.names) == names
    for copy in (folder, pickle.loads(pickle.dumps(folder))):
        assert copy[2].name == names[2]
        assert copy[2].image == (tmp_path / names[2]).read_bytes()


def test_links_are_followed_once_and_a_loop_ends(tmp_path, rng):
    tiny.write_photos(tmp_path / "real", 3, rng)
    (tmp_path / "top").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "top" / "link")
    os.symlink(tmp_path / "real", tmp_path / "top" / "same")
    os.symlink(tmp_path / "top", tmp_path / "real" / "loop")
    os.symlink(tmp_path / "real" / "sub0" / "photo000.jpg", tmp_path / "top" / "one.jpg")
    assert len(Folder(str(tmp_path / "top")).names) == 4


def test_names_that_are_long_or_in_no_alphabet_of_ours(tmp_path, rng):
    photo = tmp_path / tiny.write_photos(tmp_path, 1, rng)[0]
    names = ["日本/写真 ü.JPG", "x" * 250 + ".png", "a,b@2.jpeg", "new\nline.jpg"]
    encoded = [os.fsencode(name) for name in names] + [b"\xff\xfe.jpg"]
    for name in encoded:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(photo.read_bytes())
    folder = Folder(str(tmp_path))
    assert {os.fsencode(name) for name in folder.names} >= set(encoded)
    for i in range(len(folder.names)):
        assert folder[i].image == photo.read_bytes()
    assert folder.names.hashes().min() >= 0


def test_folder_named_like_a_photo_is_a_folder(tmp_path, rng):
    tiny.write_photos(tmp_path / "x.jpg", 2, rng)
    assert all(name.startswith("x.jpg/") for name in Folder(str(tmp_path)).names)


def test_what_cannot_be_opened_is_an_error_of_that_photo_alone(tmp_path, rng):
    tiny.write_photos(tmp_path, 2, rng)
    os.symlink("/does/not/exist", tmp_path / "dangling.jpg")
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "pipe.jpg")
    folder = Folder(str(tmp_path))
    assert list(folder.names)[:2] == ["dangling.jpg", "pipe.jpg"]
    with pytest.raises(OSError, match="No such file"):
        folder[0]
    with pytest.raises(DataError, match="not a file"):
        folder[1]
    assert folder[2].image and folder[3].image


def test_links_that_cannot_be_followed_do_not_end_the_listing(tmp_path, rng):
    tiny.write_photos(tmp_path, 1, rng)
    os.symlink("self.jpg", tmp_path / "self.jpg")
    os.symlink("x" * 3000, tmp_path / "long.jpg")
    os.symlink("loop", tmp_path / "loop")
    folder = Folder(str(tmp_path))
    assert list(folder.names) == ["long.jpg", "self.jpg", "sub0/photo000.jpg"]
    for i in range(2):
        with pytest.raises(OSError):
            folder[i]


def test_folder_that_cannot_be_entered_is_left_out_and_looked_at_again(
    tmp_path, rng, scans, monkeypatch
):
    tiny.write_photos(tmp_path, 2, rng)
    _settle(tmp_path)
    plain = os.scandir

    def forbidden(path):  # Permissions do not stop root, who may run the tests.
        if os.fsdecode(path).endswith("sub1"):
            raise PermissionError(13, "Permission denied")
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbidden)
        assert len(Folder(str(tmp_path)).names) == 1
    assert len(Folder(str(tmp_path)).names) == 2 and len(scans) == 2


def test_masks_of_a_devkit_are_no_photos(tmp_path, rng):
    kit = tmp_path / "VOCdevkit" / "VOC2012"
    tiny.write_photos(kit / "JPEGImages", 3, rng)
    tiny.write_photos(kit / "SegmentationClass", 3, rng)
    # This is no devkit, so the name means nothing.
    tiny.write_photos(tmp_path / "SegmentationClass", 1, rng)
    names = list(Folder(str(tmp_path)).names)
    assert len(names) == 4 and sum("JPEGImages" in name for name in names) == 3
    assert len(Folder(str(kit)).names) == 3


def _settle(path):
    """Sets times of change back, as if the folder had not changed for a while."""
    then = time.time() - 100
    for folder, _, _ in os.walk(path):
        os.utime(folder, (then, then))


@pytest.fixture
def scans(monkeypatch):
    """Counts how often a folder is really listed."""
    calls = []
    plain = folders._scan
    monkeypatch.setattr(folders, "_scan", lambda path: calls.append(path) or plain(path))
    return calls


def test_second_start_believes_the_index(tmp_path, rng, scans):
    names = tiny.write_photos(tmp_path, 4, rng)
    _settle(tmp_path)
    for _ in range(3):
        assert list(Folder(str(tmp_path)).names) == names
    assert len(scans) == 1


@pytest.mark.parametrize("change", ["add", "remove", "rename", "deep"])
def test_index_notices_changes(tmp_path, rng, scans, change):
    names = tiny.write_photos(tmp_path, 4, rng)
    _settle(tmp_path)
    Folder(str(tmp_path))
    photo = tmp_path / names[0]
    if change == "add":
        (tmp_path / "sub1" / "new.jpg").write_bytes(photo.read_bytes())
    elif change == "remove":
        photo.unlink()
    elif change == "rename":
        photo.rename(photo.with_name("zzz.jpg"))
    else:
        tiny.write_photos(tmp_path / "sub0" / "a" / "b", 1, rng)
    now = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jpg")]
    assert list(Folder(str(tmp_path)).names) == sorted(now) != names
    assert len(scans) == 2


def test_index_made_right_after_a_change_is_not_believed(tmp_path, rng, scans):
    tiny.write_photos(tmp_path, 2, rng)
    for _ in range(2):
        Folder(str(tmp_path))
    assert len(scans) == 2


def test_damaged_index_is_made_anew(tmp_path, rng, scans, monkeypatch):
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "cache"))
    names = tiny.write_photos(tmp_path / "photos", 2, rng)
    _settle(tmp_path)
    Folder(str(tmp_path / "photos"))
    (index,) = (tmp_path / "cache").iterdir()
    with np.load(index) as content:
        arrays = dict(content)
    foreign = []
    for change in ({"left_out": np.frombuffer(b"[3]", np.uint8)}, {"times": np.array(["a"])}):
        file = io.BytesIO()
        np.savez(file, **arrays | change)
        foreign.append(file.getvalue())
    for damage in (b"", b"nonsense", index.read_bytes()[:200], *foreign):
        index.write_bytes(damage)
        assert list(Folder(str(tmp_path / "photos")).names) == names
    assert len(scans) == 6


def test_no_place_for_the_index(tmp_path, rng, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "file" / "below"))
    names = tiny.write_photos(tmp_path / "photos", 2, rng)
    assert list(Folder(str(tmp_path / "photos")).names) == names
