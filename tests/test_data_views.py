"""Views of a photo: scale, crop, padding and mirror, and the same for its mask."""

import dataclasses
import io
import pickle

import numpy as np
from PIL import Image
import pytest
import tiny

from colorize_jax.data import jpeg, masks, pipeline, transforms, views
from colorize_jax.data.record import Record
from colorize_jax.data.views import (
    CentralCrop,
    RandomCrop,
    RandomCrops,
    RandomResizedCrop,
    RandomWindow,
    Reading,
    TenCrops,
    Whole,
)
from colorize_jax.errors import ConfigError, DataError

CLASSES = 250
READING = Reading(classes=CLASSES)
BOXES = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def _record(rng, height, width, labels=None):
    """A photo whose red channel equals its mask, so that both can be compared."""
    mask = rng.integers(1, CLASSES, (height, width), dtype=np.uint8)
    pixels = rng.integers(1, 256, (height, width, 3), dtype=np.uint8)
    pixels[..., 0] = mask
    return Record("photo", pixels, masks.encode_mask(mask), labels)


def _assert_same_pixels(actual, expected):
    """Equal up to OpenCV's rounding, which depends on where a resampling begins."""
    np.testing.assert_allclose(actual.astype(int), expected, atol=2)


def _plain(rng, height, width, labels=None):
    return dataclasses.replace(_record(rng, height, width, labels), mask=None)


def test_golden_padding(golden):
    sizes, expected = golden["pad_sizes"], golden["pad_before_after"]
    for (size, crop), (before, after) in zip(sizes.tolist(), expected.tolist(), strict=True):
        axis = transforms.padded_axis(size, crop)
        assert (axis.before, crop - axis.before - axis.length) == (before, after)


@pytest.mark.parametrize(("height", "width"), [(20, 50), (50, 20), (21, 17), (38, 36), (32, 33)])
@pytest.mark.parametrize("pad", [255, 0])
def test_crop_as_stored_is_a_part_of_the_padded_photo(rng, height, width, pad):
    record = _record(rng, height, width)
    view = pickle.loads(pickle.dumps(RandomCrop(32, True, pad=pad, reading=READING)))
    before = [max(32 - n, 0) // 2 for n in (height, width)]
    after = [max(32 - n, 0) - b for n, b in zip((height, width), before, strict=True)]
    around = list(zip(before, after, strict=True))
    photo = np.pad(record.image, [*around, (0, 0)])
    mask = np.pad(masks.decode_mask(record.mask, CLASSES), around, constant_values=pad)
    places = {}
    for y in range(photo.shape[0] - 31):
        for x in range(photo.shape[1] - 31):
            crop = photo[y : y + 32, x : x + 32], mask[y : y + 32, x : x + 32]
            places[crop[0].tobytes()] = (y, x, False, crop[1])
            places[crop[0][:, ::-1].tobytes()] = (y, x, True, crop[1][:, ::-1])
    seen = set()
    for _ in range(12 * len(places)):
        drawn = view(record, rng)
        assert drawn.keys() == {"image", "mask"}
        *place, expected = places[drawn["image"].tobytes()]
        np.testing.assert_array_equal(drawn["mask"], expected)
        assert drawn["mask"].dtype == np.uint8
        seen.add(tuple(place))
    assert len(seen) == len(places)  # All offsets occur, with and without mirror.


def test_without_mirror_none_is_mirrored(rng):
    record = _plain(rng, 16, 16)
    view = RandomCrop(16, False)
    for _ in range(20):
        np.testing.assert_array_equal(view(record, rng)["image"], record.image)


def test_mirroring_shifts_no_other_draw(rng):
    record = _plain(rng, 40, 60)
    on, off = (
        [RandomCrop(32, mirror)(record, np.random.default_rng(k))["image"] for k in range(20)]
        for mirror in (True, False)
    )
    same = [np.array_equal(a, b) for a, b in zip(on, off, strict=True)]
    assert 0 < sum(same) < 20
    for a, b, plain in zip(on, off, same, strict=True):
        np.testing.assert_array_equal(a if plain else a[:, ::-1], b)


def test_order_of_the_draws(rng):
    record = _record(rng, 60, 80)
    drawn = RandomCrop(32, True, (0.8, 1.9), reading=READING)(record, np.random.default_rng(4))
    again = np.random.default_rng(4)
    factor = again.uniform(0.8, 1.9)
    mirror = bool(again.integers(2))
    height, width = int(60 * factor), int(80 * factor)
    y, x = (int(again.integers(n - 32 + 1)) for n in (height, width))
    whole = transforms.resampled(record.image, height, width)
    crop = whole[y : y + 32, x : x + 32]
    _assert_same_pixels(drawn["image"], crop[:, ::-1] if mirror else crop)
    mask = transforms.nearest(masks.decode_mask(record.mask, CLASSES), height, width)
    mask = mask[y : y + 32, x : x + 32]
    np.testing.assert_array_equal(drawn["mask"], mask[:, ::-1] if mirror else mask)


def test_small_factors_pad_in_the_middle_and_large_ones_do_not(rng):
    record = _plain(rng, 40, 60)
    half = RandomCrop(32, False, (0.5, 0.5))(record, rng)["image"]
    rows = np.flatnonzero(half.any((1, 2)))
    assert (rows[0], rows[-1]) == (6, 25)  # The photo fills 20 rows of 32.
    # The photo fills 30 columns.
    assert half.any((0, 2))[1:31].all() and not half[:, [0, 31]].any()
    assert RandomCrop(32, False, (2.0, 2.0))(record, rng)["image"].min() > 0


def test_factors_are_spread_over_their_range():
    # The share of a white photo in the crop shows the factor.
    record = Record("white", np.full((40, 40, 3), 255, np.uint8))
    rng = np.random.default_rng(0)
    view = RandomCrop(100, False, (0.5, 2.0))
    sides = [(view(record, rng)["image"][..., 0] > 0).any(0).sum() for _ in range(300)]
    assert 20 <= min(sides) < 23 and 77 < max(sides) < 80 and 47 < np.mean(sides) < 53


def test_photo_of_one_pixel(rng):
    record = _record(rng, 1, 1)
    drawn = RandomCrop(8, True, (0.5, 0.6), reading=READING)(record, rng)
    assert (drawn["mask"] != 255).sum() == 1
    assert CentralCrop(8)(_plain(rng, 1, 1), rng)["image"].shape == (8, 8, 3)


@pytest.mark.parametrize("size", [(90, 120), (50, 40), (64, 64)])
@pytest.mark.parametrize("mirror", [False, True])
def test_masks_lie_where_their_photos_do(rng, size, mirror):
    """Photo and mask show the same disc; after any cut their centers still agree."""
    y, x = np.mgrid[: size[0], : size[1]]
    disc = ((y - 0.4 * size[0]) ** 2 + (x - 0.6 * size[1]) ** 2 < (0.2 * min(size)) ** 2) * 1
    record = Record("disc", np.repeat(disc[..., None] * 255, 3, 2).astype(np.uint8),
                    masks.encode_mask(disc.astype(np.uint8)))  # fmt: skip
    views_ = (
        RandomWindow((40, 56), 40, mirror, READING),
        RandomCrop(40, mirror, (0.6, 1.7), 0, READING),
        RandomResizedCrop(40, mirror, **BOXES, reading=READING),
    )
    for view in views_:
        for _ in range(5):
            drawn = view(record, rng)
            assert (drawn["mask"] == (drawn["image"][..., 0] > 127)).mean() > 0.985
            assert set(np.unique(drawn["mask"])) <= {0, 1}


def test_nearest_is_what_pillow_gives(rng):
    mask = rng.integers(0, 21, (37, 53), dtype=np.uint8)
    for height, width in ((37, 53), (20, 30), (64, 91), (1, 1), (111, 10)):
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(transforms.nearest(mask, height, width), resized)


def _boxes(count, height, width, **settings):
    return [
        transforms.random_box(
            np.random.default_rng(i), height, width, **BOXES | {"mirror": True} | settings
        )
        for i in range(count)
    ]


def test_areas_are_uniform_and_ratios_in_their_logarithm():
    # Small boxes of any ratio fit at the first try, so none is drawn again.
    boxes = _boxes(2000, 900, 600, area=(0.1, 0.4), ratio=(0.5, 2.0))
    areas = np.array([box.height * box.width for box in boxes]) / (900 * 600)
    ratios = np.log2([box.width / box.height for box in boxes])
    np.testing.assert_allclose(np.quantile(areas, [0, 0.25, 0.5, 0.75, 1]),
                               [0.1, 0.175, 0.25, 0.325, 0.4], atol=0.012)  # fmt: skip
    np.testing.assert_allclose(np.quantile(ratios, [0, 0.25, 0.5, 0.75, 1]),
                               [-1, -0.5, 0, 0.5, 1], atol=0.07)  # fmt: skip
    assert abs(np.corrcoef(areas, ratios)[0, 1]) < 0.07
    assert 0.46 < np.mean([box.mirror for box in boxes]) < 0.54
    for start, length, side in (("y", "height", 900), ("x", "width", 600)):
        free = [getattr(b, start) / max(side - getattr(b, length), 1) for b in boxes]
        np.testing.assert_allclose(np.quantile(free, [0, 0.5, 1]), [0, 0.5, 1], atol=0.05)


def test_boxes_that_do_not_fit_are_drawn_again():
    boxes = _boxes(500, 100, 100)
    areas = np.array([box.height * box.width for box in boxes]) / 100**2
    assert areas.max() <= 1 and areas.min() < 0.1 and areas.max() > 0.9
    # A uniform draw would give 0.54, but the largest boxes seldom fit.
    assert 0.42 < areas.mean() < 0.53
    assert all(box.y + box.height <= 100 and box.x + box.width <= 100 for box in boxes)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((30, 300), transforms.Box(0, 130, 30, 40)),
        ((300, 30), transforms.Box(130, 0, 40, 30)),
        ((1, 500), transforms.Box(0, 249, 1, 1)),
        ((40, 45), transforms.Box(0, 0, 40, 45)),
    ],
)
def test_if_no_box_fits_the_middle_within_the_ratios_is_taken(size, box):
    assert _boxes(1, *size, area=(1.0, 1.0), mirror=False) == [box]


@pytest.mark.parametrize("size", [(100, 100), (60, 100), (3, 200), (200, 3), (1, 1)])
def test_no_box_is_smaller_than_the_smallest(size):
    rows, columns = transforms.smallest_box(*size, **BOXES)
    boxes = _boxes(300, *size) + _boxes(100, *size, area=(0.08, 0.08))
    assert 1 <= rows <= min(box.height for box in boxes)
    assert 1 <= columns <= min(box.width for box in boxes)


def test_each_side_of_a_box_is_averaged_by_its_own_factor(rng):
    photo = rng.integers(0, 256, (100, 200, 3), dtype=np.uint8)
    box = transforms.Box(6, 20, 64, 128)
    expected = photo[6:70, 20:148].reshape(32, 2, 32, 4, 3).mean((1, 3))
    crop = transforms.cut_box(photo, (100, 200), box, 32)
    np.testing.assert_allclose(crop, expected, atol=0.51)
    mirrored = transforms.cut_box(photo, (100, 200), dataclasses.replace(box, mirror=True), 32)
    _assert_same_pixels(mirrored, crop[:, ::-1])
    # The photo is used as stored, and reduced by two by the decoder.
    as_stored = transforms.cut_box(photo, (100, 200), transforms.Box(5, 7, 32, 32), 32)
    np.testing.assert_array_equal(as_stored, photo[5:37, 7:39])
    small = photo.reshape(50, 2, 100, 2, 3).mean((1, 3)).astype(np.uint8)
    np.testing.assert_allclose(transforms.cut_box(small, (100, 200), box, 32), expected, atol=2)
    between = transforms.cut_box(small, (100, 200), transforms.Box(5, 8, 64, 64), 32)
    expected = (small[2:34, 4:36].astype(int) + small[3:35, 4:36]) / 2  # It is half a pixel lower.
    np.testing.assert_allclose(between, expected, atol=1)


VIEWS = {
    "shortest": RandomWindow((64, 150), 32, True),
    "factor": RandomCrop(32, True, (0.2, 0.9)),
    "none": RandomCrop(32, True),
    "resized": RandomResizedCrop(32, True, **BOXES),
}


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the decoded JPEGs, in their order."""
    sizes, plain = [], jpeg.decode

    def counted(*args):
        pixels = plain(*args)
        sizes.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(jpeg, "decode", counted)
    return sizes


def _jpeg(rng, height, width):
    small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((width, height)).save(file, "JPEG")
    return Record("photo", file.getvalue(), labels=np.array([3]))


@pytest.mark.parametrize("scaling", VIEWS)
@pytest.mark.parametrize("size", [(40, 56), (240, 320), (800, 600)])
def test_several_views_equal_single_views_to_the_bit(rng, decoded, scaling, size):
    view, record = VIEWS[scaling], _jpeg(rng, *size)
    alone = [view(record, np.random.default_rng(i))["image"] for i in range(6)]
    levels, decoded[:] = set(decoded), []
    seen = views.several(view, record, [np.random.default_rng(i) for i in range(6)])
    np.testing.assert_array_equal(seen["image"], alone)
    assert len({crop.tobytes() for crop in alone}) == 6
    assert seen["labels"].tolist() == [3]
    # A photo is decoded once; a large one once in every size that the views need.
    assert sorted(decoded) == sorted(levels)
    assert len(levels) == 1 or scaling in ("shortest", "factor")


@pytest.mark.parametrize("scaling", ["shortest", "factor", "none", "resized"])
def test_longest_side_comes_first(rng, scaling):
    config = tiny.config(
        data__longest_side=64, data__scaling=scaling, data__mirror=False, task__classes=CLASSES
    )
    view = views.training_view(config)
    photo, mask = view.reading(_record(rng, 100, 201))
    assert (photo.height, photo.width) == mask.shape == (31, 64)
    record = _record(rng, 100, 200)
    assert view(record, rng)["mask"].shape == (32, 32)
    if scaling == "none":
        small = transforms.resampled(record.image, 32, 64)
        crop = view(record, np.random.default_rng(1))["image"]
        assert any(np.array_equal(crop, small[:, x : x + 32]) for x in range(33))


def test_large_photos_are_scaled_to_their_longest_side_by_averages(rng):
    noise = np.repeat(rng.integers(0, 2, (300, 400, 1), dtype=np.uint8) * 255, 3, 2)
    photo, _ = Reading(longest_side=100)(Record("noise", noise))
    assert (photo.height, photo.width) == (75, 100)
    expected = noise.reshape(75, 4, 100, 4, 3).mean((1, 3))
    np.testing.assert_allclose(photo.pixels(), expected, atol=1)


def test_labels_pass_through(rng):
    labels = np.array([1, 0, -1], np.int8)
    record = _plain(rng, 40, 50, labels)
    config = tiny.config(data__labels="lists", data__scale=(32, 40))
    for view in (
        views.training_view(config), RandomCrop(32, True), CentralCrop(32), TenCrops(32),
        RandomCrops(RandomCrop(32, True)), Whole((128, 128)),
    ):  # fmt: skip
        assert view(record, rng)["labels"] is labels
    unreadable = Record("", np.zeros((1, 1, 3), np.uint8), labels=np.zeros(3, np.int8))
    for view in (CentralCrop(32), TenCrops(32), RandomCrops(RandomCrop(32, True)), Whole((9, 8))):
        seen, blank = view(_plain(rng, 9, 8, labels), rng), view.blank(unreadable)
        assert {k: (v.shape, v.dtype) for k, v in seen.items()} == {
            k: (v.shape, v.dtype) for k, v in blank.items()
        }
        assert not any(v.any() for v in blank.values())


def test_central_crop_at_a_scale_of_its_own(rng):
    record = _plain(rng, 60, 80)
    whole = transforms.resampled(record.image, 48, 64)
    _assert_same_pixels(CentralCrop(32, 48)(record, rng)["image"], whole[8:40, 16:48])
    whole = transforms.resampled(record.image, 32, 42)
    _assert_same_pixels(CentralCrop(32)(record, rng)["image"], whole[:, 5:37])


def test_ten_crops_are_the_corners_and_the_middle_and_these_mirrored(rng):
    record = _plain(rng, 60, 80)
    ten = TenCrops(32, 48)(record, rng)["image"]
    whole = transforms.resampled(record.image, 48, 64)
    assert ten.shape == (10, 32, 32, 3)
    places = ((0, 0), (0, 32), (16, 0), (16, 32), (8, 16))
    for crop, mirrored, (y, x) in zip(ten[:5], ten[5:], places, strict=True):
        _assert_same_pixels(crop, whole[y : y + 32, x : x + 32])
        np.testing.assert_array_equal(mirrored, crop[:, ::-1])


def test_random_crops_are_drawn_as_in_training(rng):
    record = _plain(rng, 60, 80)
    view = RandomCrop(32, True, (0.5, 2.0))
    ten = RandomCrops(view)(record, np.random.default_rng(3))["image"]
    again = np.random.default_rng(3)
    np.testing.assert_array_equal(ten, [view(record, again)["image"] for _ in range(10)])
    assert len({crop.tobytes() for crop in ten}) == 10


def test_whole_photo_lies_in_the_middle_of_its_canvas(rng):
    record = _record(rng, 100, 129)
    canvas = views.canvas_of(100, 129, 32)
    assert canvas == (128, 256) and views.canvas_of(128, 1, 32) == (128, 128)
    assert views.canvas_of(375, 500, 448) == (512, 512)
    seen = Whole(canvas, READING)(record, rng)
    assert seen["image"].shape == (128, 256, 3) and seen["size"].tolist() == [100, 129]
    assert seen["size"].dtype == np.int32
    y, x = (np.array(canvas) - seen["size"]) // 2
    inside = slice(y, y + 100), slice(x, x + 129)
    np.testing.assert_array_equal(seen["image"][inside], record.image)
    np.testing.assert_array_equal(seen["mask"][inside], record.image[..., 0])
    seen["image"][inside], seen["mask"][inside] = 0, 255
    assert seen["image"].max() == 0 and seen["mask"].min() == 255


@pytest.mark.parametrize(
    "view", [RandomWindow((32, 40), 32, True, READING), RandomCrop(32, True, reading=READING),
             Whole((128, 128), READING)]
)  # fmt: skip
def test_mask_that_does_not_fit_its_photo(rng, view):
    record = _record(rng, 40, 50)
    other = dataclasses.replace(record, mask=masks.encode_mask(np.zeros((50, 40), np.uint8)))
    with pytest.raises(DataError, match="its mask is 40 x 50, the photo 50 x 40"):
        view(other, rng)
    wrong = dataclasses.replace(record, mask=masks.encode_mask(np.full((40, 50), 251, np.uint8)))
    with pytest.raises(DataError, match="its mask has the value 251; classes are 0 to 249"):
        view(wrong, rng)


def test_config_chooses_the_view():
    def training(**settings):
        return views.training_view(tiny.config(**settings))

    assert training() == RandomWindow((40, 50), 32, True)
    assert training(data__scaling="none", data__longest_side=9, task__classes=21) == RandomCrop(
        32, True, (1.0, 1.0), 255, Reading(9, 21)
    )
    assert training(data__scaling="factor", data__pad_label="background") == RandomCrop(
        32, True, (0.5, 2.0), 0
    )

    assert training(data__scaling="resized", data__area=(0.2, 1.0)) == RandomResizedCrop(
        32, True, (0.2, 1.0), (3 / 4, 4 / 3)
    )

    def evaluation(**settings):
        return views.evaluation_view(tiny.config(**settings))

    assert evaluation() == CentralCrop(32)
    assert evaluation(eval__view="ten", eval__shortest=50) == TenCrops(32, 50)
    assert evaluation(eval__view="random10") == RandomCrops(RandomWindow((40, 50), 32, True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__labels": "boxes"}, "labels='boxes' is unknown; known: '', 'masks', 'lists'"),
        ({"data__scaling": "longest"}, "scaling='longest' is unknown; known: 'shortest'"),
        ({"data__pad_label": "sky"}, "pad_label='sky' is unknown; known: 'void', 'background'"),
        ({"eval__view": "five"}, "view='five' is unknown; known: 'center', 'random10', 'ten'"),
        ({"data__scaling": "factor", "data__factor": (2.0, 0.5)}, r"factor=\(2\.0, 0\.5\) must"),
        ({"data__scaling": "factor", "data__factor": (0.0, 0.5)}, r"factor=\(0\.0, 0\.5\) must"),
        ({"data__scaling": "factor", "data__factor": (1.0,)}, r"factor=\(1\.0,\) must be"),
        ({"data__scaling": "resized", "data__area": (0.0, 0.5)}, r"area=\(0\.0, 0\.5\) must be"),
        ({"data__scaling": "resized", "data__area": (0.5, 0.1)}, r"area=\(0\.5, 0\.1\) must be"),
        ({"data__scaling": "resized", "data__area": (0.5, 1.5)}, r"area=.* largest <= 1"),
        ({"data__scaling": "resized", "data__ratio": (0.0, 1.0)}, r"ratio=.* 0 < smallest"),
        ({"data__scaling": "resized", "data__ratio": (2.0, 1.0)}, r"ratio=\(2\.0, 1\.0\) must"),
        ({"data__scaling": "resized", "data__ratio": (1.0,)}, r"ratio=\(1\.0,\) must"),
        ({"data__labels": "masks", "data__views": 2, "eval__view": "whole"}, "views=2 .*masks"),
        (
            {
                "data__labels": "masks",
                "data__scaling": "resized",
                "eval__view": "whole",
                "data__pad_label": "background",
            },
            "pad_label='background' is of masks that are padded",
        ),
        (
            {"eval__view": "whole"},
            "view='whole' is for photos with labels",
        ),
        ({"data__labels": "masks"}, "view='center' with .*'masks'.*add --config.eval.view=whole"),
        ({"data__labels": "masks", "eval__view": "ten"}, "add --config.eval.view=whole"),
        ({"eval__view": "ten"}, r"view='ten' is for photos with labels"),
        ({"eval__view": "random10"}, r"view='random10' is for photos with labels"),
        ({"eval__shortest": 31}, r"eval\.shortest=31 is smaller than config\.data\.crop=32"),
        ({"data__split": "train"}, r"data\.split='train' says nothing about .*labels=''"),
        ({"data__labels": "lists", "data__per_class": 3}, r"per_class=3 says .* for 'folders'"),
        ({"data__labels": "folders", "data__sbd": "/sbd"}, r"sbd='/sbd' says .* for 'masks'"),
    ],
)
def test_settings_that_make_no_view(settings, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.check(tiny.config(**settings))


def test_scale_matters_to_one_scaling_alone():
    for scaling in ("factor", "none", "resized"):
        pipeline.check(tiny.config(data__scaling=scaling, data__crop=64))
    pipeline.check(tiny.config(data__labels="lists", eval__view="ten", eval__shortest=32))
    pipeline.check(tiny.config(data__labels="masks", eval__view="whole", data__sbd="/sbd"))
