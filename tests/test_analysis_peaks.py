"""The strongest answers of units, and which units are shown."""

import jax
import numpy as np
import pytest
from skimage.color import rgb2lab

from colorize_jax.analysis import peaks, units
from colorize_jax.analysis.receptive import Field
from colorize_jax.errors import ConfigError


def test_windows_lie_around_the_centers_of_fields_and_within_the_crop():
    vgg = Field(404, 32, -186)  # fc7, whose first cell has its center at 15.5
    where = peaks.places(vgg, 11, 176, 352)
    assert where.starts[5] == 15.5 + 5 * 32 - 87.5 == 88
    assert where.starts[0] == 0 and where.starts[-1] == 352 - 176
    conv = peaks.places(Field(3, 1, -1), 8, 3, 8)
    assert conv.starts.tolist() == [0, 0, 1, 2, 3, 4, 5, 5]
    whole = peaks.places(None, 2, 5, 64)
    assert whole.window == 64 and whole.starts.tolist() == [0, 0]


def test_peaks_are_found_with_the_colors_around_them(rng):
    where = peaks.places(Field(4, 4, 0), 4, 4, 16)
    image = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    maps = rng.normal(size=(3, 4, 4, 2)).astype(np.float32)
    maps[0, 2, 1, 0] = 9
    maps[2] = -99  # This photo is none.
    valid = np.array([True, True, False])
    found = jax.jit(lambda *x: peaks.peaks(*x, where))(maps, image, valid)
    assert found["value"][0, 0] == 9 and found["cell"][0, 0] == 2 * 4 + 1
    np.testing.assert_allclose(found["low"], maps[:2].min((0, 1, 2)))
    patch = where.cut(image[0], 9)
    np.testing.assert_array_equal(patch, image[0, 8:12, 4:8])
    ab = rgb2lab(patch)[..., 1:]
    expected = [*ab.mean((0, 1)), np.hypot(ab[..., 0], ab[..., 1]).mean()]
    np.testing.assert_allclose(found["color"][0, 0], expected, rtol=1e-3, atol=1e-2)


def _best(values, batches, count):
    best, start = peaks.Best(values.shape[1], count), 0
    for size in batches:
        rows = values[start : start + size]
        filler = np.full((2, values.shape[1]), 1e9, np.float32)
        found = {
            "value": np.concatenate([rows, filler]),
            "cell": np.zeros((size + 2, values.shape[1]), int),
            "color": np.zeros((size + 2, values.shape[1], 3), np.float32),
            "low": rows.min(0, initial=np.inf),
        }
        best.add(np.arange(start, start + size), found)
        start += size
    return best


def test_the_best_of_a_stream_are_the_best_of_all(rng):
    values = rng.integers(0, 20, (60, 7)).astype(np.float32)  # with equal ones
    best = _best(values, (13, 20, 1, 26), 5)
    order = np.argsort(-values, 0, kind="stable")[:5].T
    np.testing.assert_array_equal(best.photo, order)
    np.testing.assert_array_equal(best.value, np.take_along_axis(values.T, order, 1))
    assert best.value.nbytes + best.photo.nbytes == 7 * 5 * 12  # whatever the number of photos


def test_a_photo_without_an_answer_is_none():
    values = np.array([[0, 0], [3, 0], [1, 0]], np.float32)
    best = _best(values, (3,), 4)
    assert best.answered.tolist() == [[True, True, False, False], [False] * 4]
    assert best.photo[0, :2].tolist() == [1, 2]


def _colored(spreads):
    """Units with four patches, whose colors lie so far apart."""
    values = np.arange(4, dtype=np.float32)[:, None] + np.ones(len(spreads), np.float32)
    best = _best(np.concatenate([values * 0, values]), (8,), 4)
    for unit, spread in enumerate(spreads):
        best.color[unit] = [[s * spread + 10, 5, 40 - spread] for s in (-1, 1, -1, 1)]
    return best


def test_units_at_the_ends_of_color_are_chosen():
    best = _colored([7, 1, 5, 3, 9, 2])
    np.testing.assert_allclose(peaks.color_spread(best), [7, 1, 5, 3, 9, 2], rtol=1e-6)
    np.testing.assert_allclose(peaks.mean_chroma(best), [33, 39, 35, 37, 31, 38], rtol=1e-6)
    assert units.Rule("spread:3", 6).choose(best).tolist() == [1, 0, 4]
    assert units.Rule("chroma:4", 6).choose(best).tolist() == [4, 0, 5, 1]
    best.value[4, -1] = 0  # A unit with one patch less is not compared.
    assert units.Rule("spread:3", 6).choose(best).tolist() == [1, 2, 0]
    with pytest.raises(ConfigError, match="5 of 6 units answer in 4 photos"):
        units.Rule("chroma:6", 6).choose(best)
    assert units.Rule("every:4", 6).early.tolist() == [0, 4]
    assert units.Rule("5,2,5", 6).early.tolist() == [5, 2]
    assert units.Rule("", 4096).early.tolist() == list(range(0, 4096, 64))
    assert "by hand" in str(units.Rule("5", 6)) and str(units.Rule("", 6)) == "all units"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("every:0", "from 1 to 6"), ("every:7", "units 0 to 5"), ("3,6", "no unit 6"),
        ("spread:1", "2 or more"), ("some", "every:N"), ("-1", "every:N"), ("every:x", "every:N"),
    ],
)  # fmt: skip
def test_what_is_no_rule_for_units_is_refused(text, reason):
    with pytest.raises(ConfigError, match=reason):
        units.Rule(text, 6)


def test_units_are_sorted_by_their_correlation():
    found = units.kinds(np.array([0.7, 0.69, 0.3, 0.29, -1, np.nan]), 0.3, 0.7)
    assert found.tolist() == [*("reused", "specialized", "specialized"), "replaced", "replaced",
                              "dead"]  # fmt: skip
