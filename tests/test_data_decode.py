"""Any kind of picture becomes 8-bit RGB, anything else one clear error."""

import io

import numpy as np
from PIL import Image
import pytest

from colorize_jax.data import decode
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


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    data = _encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode.decode(data).shape == (8, 4, 3)


@pytest.mark.parametrize("data", [b"", b"<html>not a photo</html>", b"\xff\xd8\xff\xe0junk"])
def test_what_is_no_picture_is_one_clear_error(data):
    with pytest.raises(DataError, match="not an image|damaged"):
        decode.decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_picture(rng, kind):
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = _encode(image, kind)
    with pytest.raises(DataError, match="damaged"):
        decode.decode(data[: len(data) // 2])
