"""Pages of photos: large panels with headings, names, scores and a legend."""

import io

import numpy as np
from PIL import Image, ImageDraw
import pytest

from colorize_jax.training import pictures


def _rows(rng, count=2, panels=3, size=(40, 60), **more):
    shape = (count, panels, *size, 3)
    made = rng.integers(0, 255, shape, dtype=np.uint8)
    return [pictures.Row(f"photo {i}.jpg", list(row), **more) for i, row in enumerate(made)]


def _find(page, panel):
    """The first place (y, x) where the page shows the panel."""
    height, width = panel.shape[:2]
    for y in range(page.shape[0] - height + 1):
        for x in range(page.shape[1] - width + 1):
            if (page[y, x] == panel[0, 0]).all() and np.array_equal(
                page[y : y + height, x : x + width], panel
            ):
                return y, x
    raise AssertionError("the page does not show it")


def test_large_panels_are_shown_as_they_are_side_by_side_and_one_photo_below_the_other(rng):
    rows = _rows(rng, size=(130, 300))
    page = pictures.page(rows, ("gray", "predicted", "truth"))
    places = np.array([[_find(page, panel) for panel in row.panels] for row in rows])
    assert (np.ptp(places[..., 0], axis=1) == 0).all()
    assert (np.diff(places[..., 1], axis=1) >= 300).all()
    assert places[1, 0, 0] >= places[0, 0, 0] + 130 and page[-1].min() == 255


@pytest.mark.parametrize(("size", "shown"), [((64, 64), 128), ((40, 60), 160), ((300, 200), 200)])
def test_small_panels_are_enlarged_to_128_pixels_at_least(rng, size, shown):
    page = pictures.page(_rows(rng, 1, 1, size))
    ink = (page != 255).any(-1)
    # A row of pixels through the panel has a little white from noise.
    assert ink[-20].sum() >= shown - 5


@pytest.fixture
def written(monkeypatch):
    """All texts on a page, in order."""
    texts, plain = [], ImageDraw.ImageDraw.text

    def text(self, at, text, *arguments):
        texts.append(text)
        return plain(self, at, text, *arguments)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def test_headings_names_scores_and_one_legend_of_all_photos_are_written(rng, written):
    rows = [
        *_rows(rng, 1, 2, (128, 128), text="score 0.5", legend={"cat": (64, 0, 0)}),
        *_rows(rng, 1, 2, (128, 128), legend={"cat": (64, 0, 0), "dog": (64, 0, 128)}),
    ]
    page = pictures.page(rows, ("photo", "truth"))
    first, second = ["photo 0.jpg", "score 0.5"], ["photo 0.jpg"]
    assert written == [*first, "photo", "truth", *second, "photo", "truth", "cat", "dog"]
    for color in ((64, 0, 0), (64, 0, 128)):
        assert (page == color).all(-1).sum() >= 100


def test_small_photos_lie_side_by_side_as_long_as_the_page_is_no_wider_than_a_screen(rng):
    rows = _rows(rng, 5, 3, (128, 128))
    page = pictures.page(rows)
    assert 900 < page.shape[1] <= 1280 and page.shape[0] < 3 * 128
    assert _find(page, rows[0].panels[0])[0] == _find(page, rows[2].panels[2])[0]
    assert _find(page, rows[3].panels[0])[0] > 128


def test_long_names_are_wrapped_or_cut_and_what_is_no_text_is_written_as_escapes(rng, written):
    name = "d" * 200 + "/\x1b[31m\udcff.jpg"
    page = pictures.page([pictures.Row(name, [np.zeros((128, 128, 3), np.uint8)], "PSNR 20 dB")])
    assert page.shape[1] < 150
    assert written[0].startswith("…") and written[0].endswith(r"/\x1b[31m\xff.jpg")
    assert written[1:] == ["PSNR 20 dB"]


def test_png_is_read_back(rng):
    page = pictures.page(_rows(rng))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(pictures.png(page)))), page)
