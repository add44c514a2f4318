"""Reading waits for storage that does not answer, but not for a bad photo."""

import errno
import os
import threading

import numpy as np
import pytest
import tiny

from colorize_jax.data import pipeline, sources, storage
from colorize_jax.data.folder import Folder
from colorize_jax.data.views import RandomWindow
from colorize_jax.errors import DataError, StorageError


@pytest.fixture
def folder(tmp_path, rng):
    tiny.write_photos(tmp_path / "photos", 7, rng)
    return tmp_path / "photos"


def _photos(folder):
    names = Folder(str(folder))
    return sources.Photos([names], [np.arange(len(names.names))])


def _training(photos, retry_seconds):
    return pipeline.TrainingExamples(photos, 0, RandomWindow((40, 50), 32, True), retry_seconds)


def _unmount(folder):
    folder.rename(folder.with_name("away"))
    folder.mkdir()


def _remount(folder):
    folder.rmdir()
    folder.with_name("away").rename(folder)


@pytest.mark.parametrize(
    ("gone", "back"),
    [
        (lambda f: f.rename(f.with_name("away")), lambda f: f.with_name("away").rename(f)),
        (_unmount, _remount),
    ],
)
def test_batches_are_the_same_after_an_outage_of_the_storage(folder, gone, back, capfd):
    photos = _photos(folder)
    expected = [_training(photos, 0)[position] for position in range(20)]
    gone(folder)
    timer = threading.Timer(0.3, back, (folder,))
    timer.start()
    found = [_training(photos, 20)[position] for position in range(20)]
    for one, other in zip(found, expected, strict=True):
        assert one["bad"] == pipeline.GOOD
        np.testing.assert_array_equal(one["image"], other["image"])
    said = capfd.readouterr().err
    assert said.count("does not answer") == 1 and said.count("answers again") == 1


def test_an_evaluation_waits_too(folder):
    photos, view = _photos(folder), RandomWindow((40, 50), 32, True)
    examples = pipeline.EvaluationExamples(photos, 7, 0, view, 20)
    expected = examples[3]["image"]
    folder.rename(folder.with_name("away"))
    timer = threading.Timer(0.2, folder.with_name("away").rename, (folder,))
    timer.start()
    found = examples[3]
    assert found["valid"]
    np.testing.assert_array_equal(found["image"], expected)


def test_storage_that_does_not_come_back_is_an_error_with_the_exit_code_for_a_restart(folder):
    photos = _photos(folder)
    folder.rename(folder.with_name("away"))
    with pytest.raises(StorageError, match=r"0\.2 s \(config\.data\.retry_seconds\)") as caught:
        _training(photos, 0.2)[0]
    assert caught.value.exit_code == 75


def test_one_photo_that_is_gone_or_lies_on_a_bad_sector_is_replaced_at_once(folder, monkeypatch):
    photos = _photos(folder)
    plain, number = Folder.__getitem__, errno.EIO
    name = photos.name(_training(photos, 0).order[0])

    def failing(self, index):
        if self.names[index] == name:
            raise OSError(number, os.strerror(number), str(folder / name))
        return plain(self, index)

    monkeypatch.setattr(Folder, "__getitem__", failing)
    for number in (errno.EIO, errno.ENOENT, errno.EACCES):  # noqa: B007
        assert _training(photos, 100)[0]["bad"] != pipeline.GOOD


def test_an_error_of_the_network_counts_as_an_outage_for_any_photo(folder, monkeypatch):
    photos, calls = _photos(folder), []
    plain = Folder.__getitem__

    def failing(self, index):
        calls.append(index)
        if len(calls) < 4:
            raise OSError(errno.ESTALE, "Stale file handle")
        return plain(self, index)

    monkeypatch.setattr(Folder, "__getitem__", failing)
    assert _training(photos, 20)[0]["bad"] == pipeline.GOOD
    assert len(calls) == 4 and len(set(calls)) == 1


def test_photos_that_are_all_damaged_are_not_waited_for(folder):
    photos = _photos(folder)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="20 photos in a row") as caught:
        _training(photos, 100)[0]
    assert caught.value.exit_code == 1


def test_what_is_missing_of_a_source(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    there = (str(folder), str(tmp_path / "*"), "tfds:imagenet:train", "builtin:photos", "")
    assert storage.missing(there) == ""
    for path in ("absent", "empty", "absent/*.tar", "photos.zip/train"):
        assert storage.missing((*there, str(tmp_path / path))) == str(tmp_path / path)
