"""Scale, crop and mirror: the random draws, and the result of the single resampling."""

import numpy as np
from PIL import Image
import pytest

from colorize_jax.data import transforms
from colorize_jax.data.transforms import Window


def _photo(rng, height, width, blocks=8):
    small = rng.integers(0, 256, (blocks, blocks, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _plain_bilinear(image, height, width):
    """The definition: source = (target + 1/2) (in / out) - 1/2, clamped, rounded to 8 bits."""
    pixels = np.asarray(image, np.float64)

    def axis(out, size):
        at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    y0, y1, fy = axis(height, pixels.shape[0])
    x0, x1, fx = axis(width, pixels.shape[1])
    rows = pixels[y0] * (1 - fy)[:, None, None] + pixels[y1] * fy[:, None, None]
    return rows[:, x0] * (1 - fx)[:, None] + rows[:, x1] * fx[:, None]


@pytest.mark.parametrize("size", [(90, 120), (50, 40), (64, 64), (100, 60)])
@pytest.mark.parametrize("mirror", [False, True])
def test_cut_is_the_crop_of_the_plain_bilinear_resize(rng, size, mirror):
    image = _photo(rng, *size)
    height, width = transforms.scaled_size(*size, 56)
    expected = _plain_bilinear(image, height, width)[5 : 5 + 48, 3 : 3 + 48]
    actual = transforms.cut(np.asarray(image), Window(height, width, 5, 3, 48, mirror))
    assert actual.shape == (48, 48, 3) and actual.dtype == np.uint8
    np.testing.assert_allclose(actual[:, ::-1] if mirror else actual, expected, atol=1.01)


@pytest.mark.parametrize("factor", [2, 3, 7.3])
def test_large_photos_are_averaged_not_aliased(rng, factor):
    fine = rng.integers(0, 2, (int(60 * factor), int(80 * factor), 1), dtype=np.uint8) * 255
    image = Image.fromarray(np.repeat(fine, 3, 2))
    height, width = transforms.scaled_size(image.height, image.width, 60)
    crop = transforms.cut(np.asarray(image), Window(height, width, 4, 9, 48)).astype(float)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BOX), float)
    # Pixel noise averages out as under exact area averaging.
    assert crop.std() < 1.6 * expected.std()
    np.testing.assert_allclose(crop.mean(), 127.5, atol=6)


def test_reduced_photos_lie_where_the_plain_resize_puts_them(rng):
    image = _photo(rng, 610, 830)
    height, width = transforms.scaled_size(610, 830, 60)
    smooth = _plain_bilinear(image, height, width)
    for y, x in ((0, 0), (12, width - 48), (7, 20)):
        for mirror in (False, True):
            actual = transforms.cut(np.asarray(image), Window(height, width, y, x, 48, mirror))
            expected = smooth[y : y + 48, x : x + 48]
            difference = np.abs((actual[:, ::-1] if mirror else actual) - expected)
            assert difference.mean() < 2 and difference.max() < 12


def test_scaled_size_truncates_the_longer_side():
    assert transforms.scaled_size(333, 500, 352) == (352, 528)
    assert transforms.scaled_size(500, 333, 352) == (528, 352)
    assert transforms.scaled_size(1, 10000, 4) == (4, 40000)


def test_draws_cover_the_range_and_never_its_end(rng):
    drawn = [
        transforms.random_window(rng, 400, 600, scale=(352, 600), crop=352, mirror=True)
        for _ in range(4000)
    ]
    shortest = {w.height for w in drawn}
    assert min(shortest) == 352 and max(shortest) == 599 and len(shortest) == 248
    assert all(0 <= w.y <= max(w.height - 353, 0) for w in drawn)
    assert all(0 <= w.x <= w.width - 353 for w in drawn)
    assert 0.45 < np.mean([w.mirror for w in drawn]) < 0.55


def test_mirror_can_be_off(rng):
    drawn = [
        transforms.random_window(rng, 40, 60, scale=(40, 41), crop=32, mirror=False).mirror
        for _ in range(50)
    ]
    assert not any(drawn)


def test_central_window():
    assert transforms.central_window(400, 600, 100) == Window(100, 150, 0, 25, 100)
    assert transforms.central_window(600, 400, 100) == Window(150, 100, 25, 0, 100)
