"""Masks: read from PNG and SBD, written as VOC wants them, refused when they are none."""

import io

import numpy as np
from PIL import Image
import pytest
import scipy.io

from colorize_jax.data import decode, masks
from colorize_jax.errors import DataError


def _png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _matlab(mask, name="GTcls", field="Segmentation"):
    file = io.BytesIO()
    scipy.io.savemat(file, {name: {field: mask, "Boundaries": np.zeros(2)}})
    return file.getvalue()


@pytest.fixture
def mask(rng):
    return rng.choice(np.array([0, 1, 7, 20, 255], np.uint8), (13, 9))


def test_written_mask_reads_back_and_is_a_palette_png(mask):
    data = masks.encode_mask(mask)
    np.testing.assert_array_equal(masks.decode_mask(data, 21), mask)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "P")
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), masks.palette()[mask])


def test_gray_and_deep_masks(mask):
    for image in (Image.fromarray(mask), Image.fromarray(mask.astype(np.uint16))):
        read = masks.decode_mask(_png(image), 21)
        np.testing.assert_array_equal(read, mask)
        assert read.dtype == np.uint8
    two = Image.fromarray(mask == 7)
    assert two.mode == "1"
    np.testing.assert_array_equal(masks.decode_mask(_png(two), 21), mask == 7)


def test_sbd_mask(mask):
    mask[mask == 255] = 0
    np.testing.assert_array_equal(masks.decode_mask(_matlab(mask), 21), mask)


def test_palette_is_that_of_voc():
    # The first colors as the VOC development kit lists them, and that of void.
    known = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
        (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0),
    ]  # fmt: skip
    colors = masks.palette()
    np.testing.assert_array_equal(colors[: len(known)], known)
    np.testing.assert_array_equal(colors[[20, 255]], [(0, 64, 128), (224, 224, 192)])
    assert colors.shape == (256, 3) and colors.dtype == np.uint8
    few = masks.palette(3)
    np.testing.assert_array_equal(few[[0, 1, 2, 255]], colors[[0, 1, 2, 255]])
    assert few[3:255].max() == 0


def test_value_that_is_no_class_is_named(mask):
    mask[3, 3] = 40
    message = "its mask has the value 40; classes are 0 to 20 and 255"
    for data in (masks.encode_mask(mask), _matlab(mask)):
        with pytest.raises(DataError, match=message):
            masks.decode_mask(data, 21)
    assert masks.decode_mask(masks.encode_mask(mask), 41).max() == 255
    deep = np.full((2, 2), 300, np.uint16)  # would be 44 in 8 bits
    with pytest.raises(DataError, match="value 300"):
        masks.decode_mask(_png(Image.fromarray(deep)), 100)
    with pytest.raises(DataError, match="value -1"):
        masks.decode_mask(_matlab(np.full((2, 2), -1, np.int16)), 21)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_of_colors_are_refused(mode):
    with pytest.raises(DataError, match=f"its mask is {mode}: .*palette or gray PNG"):
        masks.decode_mask(_png(Image.new(mode, (3, 2))), 21)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        masks.encode_mask(np.zeros((64, 64), np.uint8))[:60],
        b"MATLAB 5.0 MAT-file, and nothing else",
        _matlab(np.zeros((2, 2), np.uint8), name="GTinst"),
        _matlab(np.zeros((2, 2), np.uint8), field="Boundary"),
    ],
)
def test_damaged_masks(data):
    with pytest.raises(DataError, match="its mask is damaged"):
        masks.decode_mask(data, 21)


def test_sbd_mask_of_fractions_is_refused():
    with pytest.raises(DataError, match="float64 .* instead of whole numbers"):
        masks.decode_mask(_matlab(np.full((2, 2), 0.5)), 21)


def test_mask_must_have_the_size_of_the_upright_photo():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    photo = decode.open_photo(file.getvalue())
    upright = masks.encode_mask(np.ones((8, 4), np.uint8))
    assert masks.matching_mask(upright, photo, 21).shape == photo.pixels().shape[:2] == (8, 4)
    with pytest.raises(DataError, match="its mask is 8 x 4, the photo 4 x 8"):
        masks.matching_mask(masks.encode_mask(np.ones((4, 8), np.uint8)), photo, 21)
    assert masks.matching_mask(None, photo, 21) is None
