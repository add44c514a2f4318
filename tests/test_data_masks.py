"""Masks: read from PNG and SBD, written in VOC's format, refused if invalid."""

import io
import struct
import zlib

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


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_gray_of_few_bits_is_read_as_it_was_stored(rng, depth):
    # Pillow cannot write such a gray PNG, so the packed row is written by hand.
    classes = 2**depth
    stored = rng.integers(0, classes, (5, 8), np.uint8)
    bits = np.unpackbits(stored[..., None], axis=2)[..., -depth:].reshape(5, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", 8, 5, depth, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    np.testing.assert_array_equal(masks.decode_mask(data, 21), stored)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000", "WEBP"])
def test_formats_that_change_values_are_refused(kind):
    file = io.BytesIO()
    Image.new("L", (16, 16), 3).save(file, kind)
    with pytest.raises(DataError, match=f"mask is a {kind}"):
        masks.decode_mask(file.getvalue(), 21)


def test_a_picture_that_is_a_program_is_no_mask():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"
    with pytest.raises(DataError, match="damaged.*PNG, BMP"):
        masks.decode_mask(eps, 21)


def _disks(labels, size=128):
    """A mask of disks of these classes."""
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), np.uint8)
    for i, label in enumerate(labels):
        at = (i % 2 * 2 + 1) * size // 4, (i // 2 * 2 + 1) * size // 4
        mask[(y - at[0]) ** 2 + (x - at[1]) ** 2 < (size / 5) ** 2] = label
    return mask


@pytest.mark.parametrize("scale", [0.4, 0.7, 1.3, 2.5])
@pytest.mark.parametrize("filter", ["NEAREST", "BOX", "BILINEAR", "BICUBIC", "LANCZOS"])
def test_interpolation_leaves_traces_and_the_nearest_neighbor_none(scale, filter):
    image = Image.fromarray(_disks((15, 9, 4, 20)))
    side = round(128 * scale)
    resized = image.resize((side, side), Image.Resampling[filter])
    ramps, edges = masks.interpolated(np.asarray(resized))
    assert edges > 100
    if filter == "NEAREST" or (filter == "BOX" and scale > 1):
        assert ramps == 0
    else:
        assert ramps > masks.INTERPOLATED * edges


def test_the_error_for_a_blurred_value_explains_its_origin():
    blurred = Image.fromarray(_disks((255, 15))).resize((90, 90), Image.Resampling.BILINEAR)
    with pytest.raises(DataError, match="0 to 20 and 255.*blurred"):
        masks.decode_mask(_png(blurred), 21)
    with pytest.raises(DataError, match=r"classes are 0 to 20 and 255$"):
        masks.decode_mask(_png(Image.fromarray(_disks((40, 15)))), 21)


def test_size_of_a_mask_is_compared_before_it_is_decoded(monkeypatch):
    data = _png(Image.new("L", (64, 48)))
    broken = data[: data.index(b"IDAT") + 4]
    with pytest.raises(DataError, match="its mask is 64 x 48, the photo 8 x 4"):
        masks.decode_mask(broken, 21, (4, 8))
    with pytest.raises(DataError, match="its mask is damaged"):
        masks.decode_mask(broken, 21, (48, 64))
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match="its mask has 64 x 48 pixels"):
        masks.decode_mask(broken, 21)


def test_sbd_mask(mask):
    mask[mask == 255] = 0
    np.testing.assert_array_equal(masks.decode_mask(_matlab(mask), 21), mask)


def test_palette_is_that_of_voc():
    # The first colors in the VOC development kit, and the color of void.
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
    deep = np.full((2, 2), 300, np.uint16)  # In 8 bits it would be 44.
    with pytest.raises(DataError, match="value 300"):
        masks.decode_mask(_png(Image.fromarray(deep)), 100)
    with pytest.raises(DataError, match="value -1"):
        masks.decode_mask(_matlab(np.full((2, 2), -1, np.int16)), 21)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_of_colors_are_refused(mode):
    with pytest.raises(DataError, match=f"mask is {mode}.*palette"):
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
    with pytest.raises(DataError, match="float64"):
        masks.decode_mask(_matlab(np.full((2, 2), 0.5)), 21)


def test_mask_must_have_the_size_of_the_upright_photo():
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned by 90 degrees.
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    photo = decode.open_photo(file.getvalue())
    upright = masks.encode_mask(np.ones((8, 4), np.uint8))
    assert masks.matching_mask(upright, photo, 21).shape == photo.pixels().shape[:2] == (8, 4)
    with pytest.raises(DataError, match="its mask is 8 x 4, the photo 4 x 8"):
        masks.matching_mask(masks.encode_mask(np.ones((4, 8), np.uint8)), photo, 21)
    assert masks.matching_mask(None, photo, 21) is None
