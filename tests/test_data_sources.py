"""Folders, archives, built-in photos, and the held-out split."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import tiny

from colorize_jax.data import decode, sources
from colorize_jax.errors import DataError


def test_folder_is_read_recursively_and_in_the_order_of_names(tmp_path, rng):
    names = tiny.write_photos(tmp_path, 5, rng)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    folder = sources.Folder(str(tmp_path))
    assert folder.names == names
    assert folder[2].name == names[2]
    assert folder[2].image == (tmp_path / names[2]).read_bytes()


def test_links_are_followed_and_a_loop_ends(tmp_path, rng):
    tiny.write_photos(tmp_path / "real", 3, rng)
    (tmp_path / "top").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "top" / "link")
    os.symlink(tmp_path / "top", tmp_path / "real" / "loop")
    assert len(sources.Folder(str(tmp_path / "top")).names) == 3


def test_zip_holds_what_the_folder_holds_and_survives_pickling(tmp_path, rng):
    names = tiny.write_photos(tmp_path / "photos", 4, rng)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("readme.txt", "")
        archive.writestr("__MACOSX/._photo.jpg", "")
        for name in names:
            archive.write(tmp_path / "photos" / name, name)
    source = sources.Zip(str(tmp_path / "photos.zip"))
    folder = sources.Folder(str(tmp_path / "photos"))
    assert source.names == folder.names
    for copy in (source, pickle.loads(pickle.dumps(source))):
        assert copy[3].image == folder[3].image


def test_builtin_photos_hold_out_the_right_quarter_of_every_photo():
    photos, held_out = sources.open_splits("builtin:photos", 0.1)
    assert len(photos.names) == 10
    originals = {name.split("#")[0] for name in held_out.names}
    assert originals == set(photos.names)
    assert len({name.split("#")[0] for name in held_out.names[:10]}) == 10  # one of each first
    for index, name in enumerate(photos.names):
        whole = sources._builtin_photos()[name]
        part = photos[index].image
        np.testing.assert_array_equal(part, whole[:, : whole.shape[1] * 3 // 4])
        square = held_out[index].image
        assert held_out.names[index] == f"{name}#0" and square.shape[0] == square.shape[1]
        start = whole.shape[1] * 3 // 4
        np.testing.assert_array_equal(square, whole[: len(square), start:])
        assert part.std((0, 1)).min() > 5


def test_split_stays_when_photos_are_added(tmp_path, rng):
    tiny.write_photos(tmp_path, 40, rng)
    photos, held_out = sources.open_splits(str(tmp_path), 0.2)
    assert set(photos.names).isdisjoint(held_out.names)
    assert len(photos.names) + len(held_out.names) == 40 and 2 <= len(held_out.names) <= 16
    for i in range(15):
        (tmp_path / f"new{i}.jpg").write_bytes((tmp_path / photos.names[0]).read_bytes())
    photos_after, held_out_after = sources.open_splits(str(tmp_path), 0.2)
    assert set(photos.names) <= set(photos_after.names)
    assert set(held_out.names) <= set(held_out_after.names)
    # The hold-out set comes in the order of the hash: a limit on its size keeps the same photos.
    hashes = [sources.name_hash(name) for name in held_out_after.names]
    assert hashes == sorted(hashes) and max(hashes) < 0.2


def test_subset_reads_the_photo_of_its_name(tmp_path, rng):
    tiny.write_photos(tmp_path, 12, rng)
    for split in sources.open_splits(str(tmp_path), 0.3):
        for index, name in enumerate(split.names):
            assert split[index].name == name
            assert split[index].image == (tmp_path / name).read_bytes()
            assert decode.decode(split[index].image).shape == (48, 64, 3)


def test_small_folder_holds_out_at_least_one_and_keeps_at_least_one(tmp_path, rng):
    tiny.write_photos(tmp_path, 2, rng)
    for holdout in (0.001, 0.999):
        photos, held_out = sources.open_splits(str(tmp_path), holdout)
        assert len(photos.names) == len(held_out.names) == 1


@pytest.mark.parametrize("spec", ["", "/does/not/exist", "builtin:movies"])
def test_missing_source(spec):
    with pytest.raises(DataError, match=r"config\.data\.source"):
        sources.open_splits(spec, 0.1)


def test_empty_folder_and_folder_with_one_photo(tmp_path, rng):
    with pytest.raises(DataError, match="no photo in"):
        sources.open_splits(str(tmp_path), 0.1)
    tiny.write_photos(tmp_path, 1, rng)
    with pytest.raises(DataError, match="only one photo"):
        sources.open_splits(str(tmp_path), 0.1)


def test_folder_without_a_readable_photo_says_why(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.jpg").write_text("<html>")
    with pytest.raises(DataError, match=r"no readable image.*20 of 30.*not an image"):
        sources.open_splits(str(tmp_path), 0.1)


def test_file_that_is_no_archive(tmp_path):
    (tmp_path / "photos.zip").write_text("no")
    with pytest.raises(DataError, match="zip archive"):
        sources.open_splits(str(tmp_path / "photos.zip"), 0.1)


def test_holdout_must_be_a_share():
    with pytest.raises(DataError, match="holdout"):
        sources.open_splits("builtin:photos", 1.5)
