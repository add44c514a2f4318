"""A sample of photos shows whether other photos have taken the same names."""

import os
import shutil
import tarfile

import labelled
import pytest
import tiny

from colorize_jax.data import fingerprint, pack, sources, splits
from colorize_jax.errors import CheckpointError
from colorize_jax.training import same_run


def _source(kind, photos, path):
    """Makes another kind of source of a folder's photos."""
    if kind == "folder":
        return str(photos)
    if kind == "zip":
        return labelled.zipped(photos, path.with_suffix(".zip"))
    if kind == "tar":
        with tarfile.open(path.with_suffix(".tar"), "w") as shard:
            shard.add(photos, "photos")
        return str(path.with_suffix(".tar"))
    packing = pack.Packing(shard_photos=8)
    pack.pack(sources.open_all(str(photos)), str(path), packing, threads=1)
    return str(path)


def _contents(source):
    return fingerprint.contents(sources.open_splits(str(source), 0.3), threads=2)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "shards"])
def test_other_photos_under_the_same_names_show(kind, tmp_path, rng):
    photos = tmp_path / "photos"
    tiny.write_photos(photos, 12, rng)
    before = _contents(_source(kind, photos, tmp_path / "made"))
    assert len(before) == 12 and all(digest for _, digest in before)

    # The times of files are not compared, because copying changes them.
    for path in photos.rglob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    shutil.rmtree(tmp_path / "made", ignore_errors=True)
    assert _contents(_source(kind, photos, tmp_path / "made")) == before

    shutil.copy(photos / "sub0" / "photo000.jpg", photos / "sub1" / "photo001.jpg")
    shutil.rmtree(tmp_path / "made", ignore_errors=True)
    after = _contents(_source(kind, photos, tmp_path / "made"))
    changed = [a[0] for a, b in zip(after, before, strict=True) if a != b]
    assert len(changed) == 1 and changed[0].endswith("sub1/photo001.jpg")


def test_masks_and_labels_count(tmp_path, rng):
    labelled.write_devkit(tmp_path / "kit", rng, photos=4)
    config = tiny.segmentation(data__source=str(tmp_path / "kit"))

    def contents():
        opened = splits.open_splits(config)
        return fingerprint.contents((opened.training, opened.evaluation), threads=1)

    before = contents()
    masks = tmp_path / "kit" / "SegmentationClass"
    shutil.copy(masks / "2007_000000.png", masks / "2007_000003.png")
    changed = [a[0] for a, b in zip(contents(), before, strict=True) if a != b]
    assert changed == ["JPEGImages/2007_000003.jpg"]


def test_a_large_source_costs_no_more_than_its_sample():
    class Photos:
        read = 0

        def __len__(self):
            return 1_000_000

        def name(self, index):
            return f"{index}.jpg"

        def __getitem__(self, index):
            self.read += 1
            raise OSError("away")

    photos = Photos()
    found = fingerprint.contents([photos], threads=4)
    assert photos.read == len(found) == fingerprint.SAMPLE
    assert found[0] == ("0.jpg", "") and found[-1] == ("999999.jpg", "")


def test_a_run_whose_photos_were_replaced_is_refused(tmp_path):
    now = [("a.jpg", "1"), ("b.jpg", "2"), ("c.jpg", "")]

    def check(before, **settings):
        config = tiny.config(data__source="/photos", **settings)
        same_run.check_contents(tmp_path, config, before, now)

    check({"contents": ["1", "2", "3"]})  # c.jpg cannot be read now.
    check({"contents": ["1", "", "3"]})  # b.jpg could not be read before.
    check({})  # This is the note of an older checkpoint.
    check({"contents": ["1", "9", "3"]}, checkpoint__accept_changes=True)
    with pytest.raises(CheckpointError, match=r"1 of 3 photos of /photos.* 'b\.jpg' among them"):
        check({"contents": ["1", "9", "3"]})


def test_the_class_of_a_photo_counts(tmp_path, rng):
    labelled.write_class_folders(tmp_path, rng)
    config = tiny.classification("softmax", data__source=str(tmp_path))

    def digests():
        opened = splits.open_splits(config)
        return dict(fingerprint.contents((opened.training, opened.evaluation), threads=1))

    before = digests()
    for split in ("train", "val"):  # A class before all others changes every label.
        shutil.copytree(tmp_path / split / "n00", tmp_path / split / "a")
    config.task.classes = 4
    after = digests()
    kept = before.keys() & after.keys()
    assert kept and all(after[name] != before[name] for name in kept)
