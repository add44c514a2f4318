"""Any kind of picture becomes 8-bit RGB, anything else one clear error."""

import io

import cv2
import numpy as np
from PIL import Image, ImageOps
import pytest

from colorize_jax.data import decode, transforms
from colorize_jax.errors import DataError


def _encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _ramp(mode):
    return Image.fromarray(np.arange(0, 240, 10, np.uint8).reshape(4, 6)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_modes_become_rgb(mode):
    pixels = decode.decode(_encode(_ramp(mode)))
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    if mode != "1":
        np.testing.assert_array_equal(pixels, np.asarray(_ramp("RGB")))


def test_cmyk_jpeg():
    assert decode.decode(_encode(_ramp("CMYK"), "JPEG")).shape == (4, 6, 3)


def test_transparent_pixels_lie_on_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    np.testing.assert_array_equal(decode.decode(_encode(image)), [[[200, 0, 0], [255] * 3]])


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 32768, 65535]], np.uint16)
    pixels = decode.decode(_encode(Image.fromarray(deep)))
    np.testing.assert_allclose(pixels[0, :, 0], [0, 127, 255], atol=1)


def test_floating_point_gray_from_0_to_1_is_not_black():
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    np.testing.assert_allclose(decode.decode(_encode(unit, "TIFF"))[0, :, 0], [0, 127, 255], atol=1)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    data = _encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode.decode(data).shape == (8, 4, 3)


@pytest.mark.parametrize("data", [b"", b"<html>not a photo</html>", b"\xff\xd8\xff\xe0junk"])
def test_what_is_no_picture_is_one_clear_error(data):
    with pytest.raises(DataError, match="not an image|damaged|empty"):
        decode.decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_picture(rng, kind):
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = _encode(image, kind)
    with pytest.raises(DataError, match="damaged"):
        decode.decode(data[: len(data) // 2])


def test_jpegs_are_decoded_as_pillow_does(rng):
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize((150, 120))
    for mode in ("RGB", "L"):
        data = _encode(image.convert(mode), "JPEG", quality=80)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode.decode(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(rng, orientation):
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = _encode(image, kind, exif=exif)
        opened = Image.open(io.BytesIO(data))
        opened.load()  # turns a TIFF, and clears its tag
        expected = np.asarray(ImageOps.exif_transpose(opened))
        photo = decode.open_photo(data)
        assert (photo.height, photo.width) == expected.shape[:2]
        np.testing.assert_array_equal(photo.pixels(), expected)


def test_large_jpegs_come_reduced_but_never_below_what_is_needed():
    data = _encode(Image.new("RGB", (1500, 1200), (10, 200, 90)), "JPEG")
    photo = decode.open_photo(data)
    assert (photo.height, photo.width) == (1200, 1500)
    for height, width in ((0, 0), (700, 875), (600, 750), (352, 440), (151, 30), (1, 1)):
        pixels = photo.pixels(height, width)
        assert pixels.shape[0] >= height and pixels.shape[1] >= width
        assert (pixels.shape[0] < 1200) == (0 < height <= 600)
        np.testing.assert_allclose(pixels.mean((0, 1)), (10, 200, 90), atol=2)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode.decode(data)[0, 0], (255, 0, 0))


def test_gray_with_transparency_and_deep_rgb(rng):
    image = Image.new("LA", (2, 1), (40, 255))
    image.putpixel((1, 0), (40, 0))
    np.testing.assert_array_equal(decode.decode(_encode(image)), [[[40] * 3, [255] * 3]])
    deep = np.full((4, 4, 3), 0x8000, np.uint16)  # OpenCV writes what Pillow cannot
    data = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_allclose(decode.decode(data), 128, atol=1)


def test_decompression_bomb_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("1", (20000, 20000)).save(file, "PNG")
    assert len(file.getvalue()) < 10**6
    with pytest.raises(DataError, match="decompression bomb"):
        decode.decode(file.getvalue())


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1), (2, 40000), (3, 2)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photos_of_absurd_shape_still_give_crops(rng, size, kind):
    data = _encode(Image.new("RGB", size, (90, 160, 30)), kind)
    photo = decode.open_photo(data)
    window = transforms.random_window(
        rng, photo.height, photo.width, scale=(352, 600), crop=352, mirror=True
    )
    crop = transforms.cut(photo.pixels(window.height, window.width), window)
    assert crop.shape == (352, 352, 3)
    np.testing.assert_allclose(crop.mean((0, 1)), (90, 160, 30), atol=3)


def _fuzz(rng, count):
    """Mutated photos are decoded or refused with a sentence: no crash, no hang, nothing else."""
    noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [
        _encode(noise, "JPEG", exif=exif), _encode(noise, "JPEG", progressive=True),
        _encode(noise.convert("L"), "JPEG"), _encode(noise), _encode(noise.convert("P")),
        _encode(noise.convert("RGBA")), _encode(noise, "WEBP"), _encode(noise, "GIF"),
        _encode(noise, "TIFF"), _encode(noise, "BMP"),
    ]  # fmt: skip
    outcomes = {"decoded": 0, "refused": 0}
    for i in range(count):
        data = bytearray(seeds[i % len(seeds)])
        kind = rng.integers(4)
        if kind == 0:
            data = data[: rng.integers(len(data))]
        elif kind == 1:
            start = rng.integers(len(data))
            del data[start : start + rng.integers(1, 40)]
        else:
            for _ in range(rng.integers(1, 12)):
                data[rng.integers(len(data))] = rng.integers(256)
        try:
            photo = decode.open_photo(bytes(data))
            if photo.height * photo.width > 10**7:  # a mutated size: only slow
                continue
            pixels = photo.pixels(24, 32)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes["decoded"] += 1
        except DataError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > count // 20
    return outcomes


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata
def test_mutated_photos(rng):
    _fuzz(rng, 500)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_mutated_photos(rng):
    print(_fuzz(rng, 10_000))
