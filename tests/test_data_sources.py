"""Tests of the source string, mixtures, and the held-out split."""

import numpy as np
import pytest
import tiny

from colorize_jax.data import decode, sources
from colorize_jax.errors import DataError


def _names(photos):
    return [photos.name(i) for i in range(len(photos))]


def test_builtin_photos_hold_out_one_square_of_every_row():
    photos, held_out = sources.open_splits("builtin:photos", 0.1)
    whole = sources.open_all("builtin:photos")
    assert len(whole) == 10 and len(photos) == 3 * len(held_out)
    # The first squares come from all photos.
    assert {name.split("#")[0] for name in _names(held_out)[:10]} == set(_names(whole))
    images = {name: whole[i].image for i, name in enumerate(_names(whole))}
    covered = {name: np.zeros(image.shape[:2], int) for name, image in images.items()}
    for split in (photos, held_out):
        for index, square in enumerate(_names(split)):
            name, place = square.split("#")
            row, column = map(int, place.split(","))
            side = images[name].shape[1] // 4
            at = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            np.testing.assert_array_equal(split[index].image, images[name][at])
            covered[name][at] += 1
    for name, times in covered.items():  # No pixel is in two squares, and only a border is in none.
        assert times.max() == 1 and times.mean() > 0.7, name
    rows = [name.split(",")[0] for name in _names(held_out)]
    assert len(set(rows)) == len(rows)
    assert len({name.split(",")[1] for name in _names(held_out)}) == 4


def test_split_stays_when_photos_are_added(tmp_path, rng):
    tiny.write_photos(tmp_path, 40, rng)
    photos, held_out = sources.open_splits(str(tmp_path), 0.2)
    assert set(_names(photos)).isdisjoint(_names(held_out))
    assert len(photos) + len(held_out) == 40 and 2 <= len(held_out) <= 16
    for i in range(15):
        (tmp_path / f"new{i}.jpg").write_bytes((tmp_path / photos.name(0)).read_bytes())
    photos_after, held_out_after = sources.open_splits(str(tmp_path), 0.2)
    assert set(_names(photos)) <= set(_names(photos_after))
    # They are sorted by hash, so that a limit on their number keeps the same photos.
    old = set(_names(held_out))
    assert [name for name in _names(held_out_after) if name in old] == _names(held_out)


def test_a_split_reads_the_photos_of_its_names(tmp_path, rng):
    tiny.write_photos(tmp_path, 12, rng)
    for split in sources.open_splits(str(tmp_path), 0.3):
        for index, name in enumerate(_names(split)):
            assert split[index].name == name
            assert split[index].image == (tmp_path / name).read_bytes()
            assert decode.decode(split[index].image).shape == (48, 64, 3)


def test_small_folder_holds_out_at_least_one_and_keeps_at_least_one(tmp_path, rng):
    tiny.write_photos(tmp_path, 2, rng)
    for holdout in (0.001, 0.999):
        assert [len(split) for split in sources.open_splits(str(tmp_path), holdout)] == [1, 1]


@pytest.fixture
def three(tmp_path, rng):
    """Three folders of 30, 10 and 20 photos."""
    for name, count in (("a", 30), ("b", 10), ("c", 20)):
        tiny.write_photos(tmp_path / name, count, rng)
    return ",".join(str(tmp_path / name) for name in "abc")


def test_sources_are_joined_and_every_epoch_reads_all_once(three):
    photos, held_out = sources.open_splits(three, 0.2)
    assert len(photos) + len(held_out) == 60
    order = photos.order(0)
    n = len(photos)
    for epoch in range(3):
        assert sorted(order[epoch * n + i] for i in range(n)) == list(range(n))
    apart = [sources.open_splits(path, 0.2) for path in three.split(",")]
    assert _names(photos) == [name for part, _ in apart for name in _names(part)]
    assert sorted(_names(held_out)) == sorted(name for _, part in apart for name in _names(part))
    with_builtin, _ = sources.open_splits(f"{three},builtin:photos", 0.2)
    squares, _ = sources.open_splits("builtin:photos", 0.2)
    assert len(with_builtin) == n + len(squares)


def test_weighted_sources_come_in_their_proportions_and_each_reads_all_of_its_own(tmp_path, three):
    a, b, _ = three.split(",")
    photos, _ = sources.open_splits(f"{a}@0.25,{b}@0.75", 0.1)
    in_a = len(sources.open_splits(a, 0.1)[0])
    order = photos.order(5)
    drawn = np.array([order[i] for i in range(400)])
    assert abs((drawn < in_a).mean() - 0.25) < 0.01
    from_b = drawn[drawn >= in_a]
    size = len(photos) - in_a
    assert sorted(from_b[:size]) == list(range(in_a, len(photos)))
    assert [order[i] for i in range(400)] == drawn.tolist()


@pytest.mark.parametrize(
    ("spec", "paths", "weights"),
    [
        ("/a", ["/a"], None),
        ("/a, /b", ["/a", "/b"], None),
        ("/a@3,tfds:x/y:train[:5%]@1", ["/a", "tfds:x/y:train[:5%]"], [0.75, 0.25]),
        ("/a@2x,/b", ["/a@2x", "/b"], None),
    ],
)
def test_source_strings(spec, paths, weights):
    assert sources.parse(spec) == (paths, weights)


def test_path_that_exists_is_never_taken_apart(tmp_path):
    path = tmp_path / "a,b@2"
    path.mkdir()
    assert sources.parse(str(path)) == ([str(path)], None)
    other = tmp_path / "set@2"
    other.mkdir()
    assert sources.parse(f"{other},/b") == ([str(other), "/b"], None)


@pytest.mark.parametrize("spec", ["/a@1,/b", "/a@0,/b@1", "/a@-1,/b@2", "/a@1-2,/b@1"])
def test_weights_must_be_complete_and_positive(spec):
    with pytest.raises(DataError, match="weight"):
        sources.parse(spec)


@pytest.mark.parametrize("spec", ["", "/does/not/exist", "builtin:movies", "/a,,/b"])
def test_missing_source(spec):
    with pytest.raises(DataError, match=r"config\.data\.source"):
        sources.open_splits(spec, 0.1)


def test_empty_folder_and_folder_with_one_photo(tmp_path, rng):
    with pytest.raises(DataError, match="no photo in"):
        sources.open_splits(str(tmp_path), 0.1)
    tiny.write_photos(tmp_path, 1, rng)
    with pytest.raises(DataError, match=r"holdout=0\.1 leaves no photo"):
        sources.open_splits(str(tmp_path), 0.1)


def test_folder_without_a_readable_photo_says_why(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.jpg").write_text("<html>")
    with pytest.raises(DataError, match=r"20 of 30.*not an image"):
        sources.open_splits(str(tmp_path), 0.1)


def test_file_that_is_no_archive(tmp_path):
    (tmp_path / "photos.zip").write_text("no")
    with pytest.raises(DataError, match="zip archive"):
        sources.open_splits(str(tmp_path / "photos.zip"), 0.1)


def test_holdout_must_be_a_share():
    with pytest.raises(DataError, match="holdout"):
        sources.open_splits("builtin:photos", 1.5)
