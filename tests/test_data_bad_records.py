"""Unreadable photos are noted once and counted, and too many of them end the run."""

import contextlib
import json
import os

import numpy as np
import pytest
import tiny

from colorize_jax.data import bad_records, pipeline, sources
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.data.folder import Folder
from colorize_jax.errors import DataError
from colorize_jax.training import loop


class _Batches:
    """Batches of `size` rows in which the given positions are bad."""

    def __init__(self, count, size, bad):
        self.closed = False
        self._rows = iter(
            {"bad": np.where(np.isin(np.arange(k * size, (k + 1) * size), bad), 0, pipeline.GOOD)}
            for k in range(count)
        )

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._rows)

    def close(self):
        self.closed = True


@pytest.fixture
def photos(tmp_path, rng):
    tiny.write_photos(tmp_path / "photos", 6, rng)
    (tmp_path / "photos" / "aaa.jpg").write_text("<html>")
    folder = Folder(str(tmp_path / "photos"))
    return sources.Photos([folder], [np.arange(7)], paths=["here"])


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_name_and_reason_are_written_once_even_over_restarts(tmp_path, photos):
    path = tmp_path / "run" / "bad_records.jsonl"
    for _ in range(2):
        batches = _Batches(5, 4, bad=[1, 6, 7])
        with contextlib.closing(BadRecords(path, 1.0).watch(batches, photos)) as watched:
            out = list(watched)
        assert len(out) == 5 and all("bad" not in batch for batch in out) and batches.closed
    assert _rows(path) == [{"source": "here", "name": "aaa.jpg", "reason": "not an image"}]


def test_too_many_bad_photos_end_the_run_but_not_before_there_is_enough_to_judge(tmp_path, photos):
    bad = BadRecords(tmp_path / "bad.jsonl", 0.01)
    batches = _Batches(1000, 10, bad=np.arange(0, 10000, 50))  # This is 2 %.
    seen = 0
    with (
        pytest.raises(DataError, match=r"20 of the last 1000 photos.*max_bad_fraction=0\.01"),
        contextlib.closing(bad.watch(batches, photos)) as watched,
    ):
        for _ in watched:
            seen += 10
    assert seen == 990 and batches.closed


def test_only_the_last_positions_are_judged(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(bad_records, "WINDOW", 2000)
    # 1.5 % of 2000 positions, spread so that a window never holds more than 1 % of it.
    early, late = np.arange(0, 2000, 134), np.arange(4000, 6000, 134)
    bad = BadRecords(tmp_path / "bad.jsonl", 0.01)
    assert len(list(bad.watch(_Batches(600, 10, bad=[*early, *late]), photos))) == 600


def test_exactly_the_allowed_share_does_not_end_the_run(tmp_path, photos):
    bad = BadRecords(tmp_path / "bad.jsonl", 0.01)
    batches = _Batches(500, 10, bad=np.arange(99, 5000, 100))
    assert len(list(bad.watch(batches, photos))) == 500


KINDS = {
    "empty.jpg": lambda path: path.write_bytes(b""),
    "truncated.jpg": lambda path: path.write_bytes(path.with_name("good.jpg").read_bytes()[:400]),
    "page.jpg": lambda path: path.write_text("<html>no photo</html>"),
    "text.png": lambda path: path.write_text("no photo"),
    "dangling.jpg": lambda path: os.symlink("/does/not/exist", path),
    "deleted.jpg": lambda path: path.write_bytes(b"soon gone"),
    "ä" * 100 + ".jpg": lambda path: path.write_bytes(b"\x00"),
}


def test_a_run_lives_through_every_kind_of_bad_file(tmp_path, rng, monkeypatch):
    folder = tmp_path / "photos"
    tiny.write_photos(folder, 12, rng)
    (folder / "sub0" / "photo000.jpg").rename(folder / "good.jpg")
    for name, make in KINDS.items():
        make(folder / name)
    (folder / "directory.jpg").mkdir()
    plain = Folder.__getitem__

    def forbidden(self, index):  # Permissions do not stop root, who may run the tests.
        if self.names[index].endswith("photo003.jpg"):
            raise PermissionError(13, "Permission denied")
        return plain(self, index)

    monkeypatch.setattr(Folder, "__getitem__", forbidden)
    config = tiny.config(
        data__source=str(folder), data__holdout=0.4, eval__every=100, eval__photos=100,
        data__max_bad_fraction=1.0,
    )  # fmt: skip
    opened = sources.open_splits(config.data.source, 0.4)
    (folder / "deleted.jpg").unlink()
    monkeypatch.setattr(sources, "open_splits", lambda spec, holdout: opened)
    scores = loop.train(config, tmp_path / "run")
    assert np.isfinite(scores["eval/loss"])
    found = {row["name"]: row["reason"] for row in _rows(tmp_path / "run" / "bad_records.jsonl")}
    assert set(found) == {*KINDS, "sub1/photo003.jpg"}
    assert found["empty.jpg"] == "empty file"
    assert "damaged" in found["truncated.jpg"] and found["page.jpg"] == "not an image"
    assert found["dangling.jpg"] == found["deleted.jpg"] == "No such file or directory"
    assert found["sub1/photo003.jpg"] == "Permission denied"
