"""Batches of labelled photos, in training and evaluation, with bad photos and bad masks."""

import contextlib
import json
import os
import re

import labelled
import numpy as np
from PIL import Image
import pytest
import tiny

from colorize_jax.data import canvases, masks, pipeline, splits
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.data.views import Reading
from colorize_jax.errors import DataError


@pytest.fixture
def kit(tmp_path, rng):
    labelled.write_devkit(tmp_path / "kit", rng)
    return tmp_path / "kit"


def _config(path, labels, classes, **settings):
    named = {
        "data__split": "train", "data__eval_split": "val", "data__scaling": "none",
        "data__batch_size": 4, "eval__view": "whole" if labels == "masks" else "center",
    } | settings  # fmt: skip
    config = tiny.config(
        data__source=str(path), data__labels=labels, task__classes=classes, **named
    )
    pipeline.check(config)
    return config


def _read(make, photos, config, **options):
    with contextlib.closing(make(photos, config, **options)) as batches:
        return list(batches)


def _training(photos, config, stop=4):
    return _read(pipeline.training_batches, photos, config, start=0, stop=stop)


def _evaluation(photos, config, limit=0, **options):
    return _read(pipeline.evaluation_batches, photos, config, limit=limit, **options)


def _shapes(batch):
    return {name: (value.shape, value.dtype.name) for name, value in batch.items()}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_training_batches_with_masks_are_the_same_in_workers(kit, tmp_path, kind):
    path = kit if kind == "folder" else labelled.zipped(kit, tmp_path / "kit.zip", "VOC2012/")
    config = _config(path, "masks", 3, data__crop=56)
    photos = splits.open_splits(config).training
    batches = _training(photos, config)
    for batch in batches:
        assert batch["image"].shape == (4, 56, 56, 3)
        assert batch["mask"].shape == (4, 56, 56) and batch["mask"].dtype == np.uint8
        assert (batch["mask"][:, [0, -1]] == 255).all()  # The photo fills 48 rows of 56.
        assert batch["image"][:, [0, -1]].max() == 0
        for label in (1, 2):  # The photo's colors show its classes.
            shown = batch["image"][batch["mask"] == label].mean(0)
            np.testing.assert_allclose(shown, labelled.color(label, 3), atol=12)
    config.data.workers = 0 if kind == "folder" else 2
    config.data.threads = 5
    tiny.assert_same_batches(_training(photos, config), batches)


def test_labels_of_lists_and_folders_are_batched(kit, tmp_path, rng):
    config = _config(kit, "lists", 2, data__scaling="factor")
    opened = splits.open_splits(config)
    batch = _training(opened.training, config, 1)[0]
    assert _shapes(batch)["labels"] == ((4, 2), "int8")
    order = opened.training.order(config.seed)
    np.testing.assert_array_equal(
        batch["labels"], [opened.training.labels[order[i]] for i in range(4)]
    )
    labelled.write_class_folders(tmp_path / "set", rng, per_class=3)
    config = _config(tmp_path / "set", "folders", 3, eval__view="ten", data__scaling="factor")
    opened = splits.open_splits(config)
    assert _shapes(_training(opened.training, config, 1)[0])["labels"] == ((4,), "int32")
    batch = _evaluation(opened.evaluation, config)[0]
    assert batch["image"].shape == (4, 10, 32, 32, 3)
    assert batch["labels"].tolist() == [*opened.evaluation.labels, 0]
    assert batch["valid"].tolist() == [True, True, True, False]


def test_random_crops_of_evaluation_depend_on_seed_and_position_alone(kit):
    config = _config(kit, "lists", 2, data__scaling="factor", eval__view="random10")
    photos = splits.open_splits(config).evaluation
    one = _evaluation(photos, config)
    config.data.batch_size = 2
    two = _evaluation(photos, config)
    np.testing.assert_array_equal(one[0]["image"], np.concatenate([b["image"] for b in two]))
    config.seed = 1
    assert not np.array_equal(_evaluation(photos, config)[0]["image"], two[0]["image"])


@pytest.fixture
def mixed(tmp_path, rng):
    """Photos of three canvases in a fixed order: val has 7, of which 4 are 128 x 128."""
    labelled.write_devkit(tmp_path / "kit", rng, photos=14)
    sizes = [(48, 64), (130, 64), (48, 64), (48, 64), (64, 130), (48, 64), (64, 130)]
    for i, size in enumerate(sizes):
        path = tmp_path / f"kit/JPEGImages/2008_{i:06}.jpg"
        Image.fromarray(np.full((*size, 3), 10 * (i + 1), np.uint8)).save(path)
        mask = masks.encode_mask(np.full(size, i % 3, np.uint8))
        (tmp_path / f"kit/SegmentationClass/2008_{i:06}.png").write_bytes(mask)
    return tmp_path / "kit"


def test_whole_photos_are_grouped_by_canvas(mixed):
    config = _config(mixed, "masks", 3, data__batch_size=2)
    photos = splits.open_splits(config).evaluation
    batches = _evaluation(photos, config)
    assert [b["image"].shape[1:3] for b in batches] == [(128, 128)] * 2 + [(128, 256), (256, 128)]
    assert [b["position"].tolist() for b in batches] == [[0, 2], [3, 5], [4, 6], [1, -1]]
    for batch in batches:
        np.testing.assert_array_equal(batch["valid"], batch["position"] >= 0)
        np.testing.assert_array_equal(batch["photo"], np.maximum(batch["position"], 0))
        assert (batch["bad"] == pipeline.GOOD).all()
        for row in range(2):
            index, (height, width) = batch["position"][row], batch["size"][row]
            image, mask = batch["image"][row], batch["mask"][row]
            assert (mask != 255).sum() == height * width  # A row that is not valid has only void.
            if index >= 0:
                assert set(np.unique(mask)) - {255} == {index % 3}
                assert image[mask != 255].mean() == pytest.approx(10 * (index + 1), abs=1)
            assert image[mask == 255].max() == 0
    assert batches[3]["size"].tolist() == [[130, 64], [0, 0]]
    assert [b["position"].tolist() for b in _evaluation(photos, config, limit=3)] == [
        [0, 2],
        [1, -1],
    ]
    config.data.longest_side = 64
    small = _evaluation(photos, config)
    assert {b["image"].shape for b in small} == {(2, 128, 128, 3)} and len(small) == 4


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_whole_photos(mixed, hosts):
    config = _config(mixed, "masks", 3)
    photos = splits.open_splits(config).evaluation
    whole = _evaluation(photos, config)
    parts = [_evaluation(photos, config, host=host, hosts=hosts) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[name] for part in batch]) for name in whole[0]}
        for batch in zip(*parts, strict=True)
    ]
    tiny.assert_same_batches(joined, whole)


def test_headers_are_read_once(mixed, monkeypatch):
    config = _config(mixed, "masks", 3)
    photos = splits.open_splits(config).evaluation
    options = {"batch_size": 2, "crop": 32, "reading": Reading(), "threads": 2}
    first = canvases.plan(photos, 7, **options)
    monkeypatch.setattr(type(photos), "_size", lambda self, index: 1 / 0)
    again = canvases.plan(photos, 7, **options)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert first.canvases == again.canvases


def test_rows_that_cannot_be_read_are_black_void_and_not_valid(mixed):
    config = _config(mixed, "masks", 3, data__batch_size=2)
    photos = splits.open_splits(config).evaluation
    # It is the only photo of its canvas size.
    (mixed / "JPEGImages/2008_000001.jpg").write_bytes(b"damaged")
    (mixed / "SegmentationClass/2008_000004.png").write_bytes(b"damaged")
    batches = _evaluation(photos, config)
    rows = {row["position"]: row for b in batches for row in _rows_of(b) if row["position"] >= 0}
    assert sorted(rows) == list(range(7))
    for index, row in rows.items():
        bad = index in (1, 4)
        assert row["valid"] == (not bad) and row["bad"] == (index if bad else pipeline.GOOD)
        assert row["photo"] == index
        if bad:
            assert row["image"].max() == 0 and row["mask"].min() == 255 and row["size"].max() == 0
    assert rows[1]["image"].shape == (128, 128, 3)


def _rows_of(batch):
    return [{name: value[i] for name, value in batch.items()} for i in range(len(batch["valid"]))]


def test_labels_of_a_photo_that_cannot_be_read_are_zero(kit):
    config = _config(kit, "lists", 2)
    photos = splits.open_splits(config).evaluation
    (kit / "JPEGImages/2008_000001.jpg").write_bytes(b"damaged")
    batch = _evaluation(photos, config)[0]
    assert batch["valid"].tolist() == [True, False, True, True]
    assert batch["labels"][1].tolist() == [0, 0] and batch["bad"][1] == 1
    assert batch["labels"][0].any()


def _rgb(path):
    Image.new("RGB", (64, 48)).save(path)


def _other_size(path):
    path.write_bytes(masks.encode_mask(np.zeros((10, 20), np.uint8)))


def _out_of_range(path):
    path.write_bytes(masks.encode_mask(np.full((48, 64), 3, np.uint8)))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_out_of_range, "its mask has the value 3; classes are 0 to 2 and 255"),
        (_other_size, "its mask is 20 x 10, the photo 64 x 48"),
        (_rgb, "its mask is RGB: the values of a palette or gray PNG are expected"),
        (lambda path: path.write_bytes(b"no"), "its mask is damaged"),
        (os.unlink, "its mask SegmentationClass/2007_000003.png: .*No such file"),
    ],
)
def test_photo_with_a_bad_mask_is_replaced_and_named(kit, tmp_path, spoil, reason):
    config = _config(kit, "masks", 3)
    photos = splits.open_splits(config).training
    before = _training(photos, config)
    spoil(kit / "SegmentationClass/2007_000003.png")
    after = _training(photos, config)
    bad = np.stack([batch["bad"] for batch in after])
    order = photos.order(config.seed)
    expected = [3 if order[i] == 3 else pipeline.GOOD for i in range(16)]
    np.testing.assert_array_equal(bad.ravel(), expected)
    for b, a, replaced in zip(before, after, bad != pipeline.GOOD, strict=True):
        np.testing.assert_array_equal(a["image"][~replaced], b["image"][~replaced])
        np.testing.assert_array_equal(a["mask"][~replaced], b["mask"][~replaced])
        assert a["mask"].shape == (4, 32, 32) and a["valid"].all()
    list(BadRecords(tmp_path / "bad.jsonl", 1.0).watch((batch for batch in after), photos))
    (row,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert row["name"] == "JPEGImages/2007_000003.jpg" and row["source"] == str(kit)
    assert re.match(reason, row["reason"])


def test_photos_that_all_have_a_bad_mask_stop_the_run(kit):
    config = _config(kit, "masks", 3, data__threads=0)
    photos = splits.open_splits(config).training
    for path in (kit / "SegmentationClass").iterdir():
        _rgb(path)
    with pytest.raises(DataError, match="photos in a row"):
        _training(photos, config)
