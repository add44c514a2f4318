"""Photos are colored at full size with their own gray, whatever the network and the batch."""

import caffe_files
import colorizers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import colorize_jax
from colorize_jax import convert
from colorize_jax.color import spaces
from colorize_jax.colorize import colorizer as module
from colorize_jax.colorize import network
from colorize_jax.colorize.colorizer import Colorizer
from colorize_jax.errors import CheckpointError, ConfigError, PhotoError
from colorize_jax.tasks.task import Colors

KINDS = {
    "histogram": {},
    "regression": {"task__loss": "regression"},
    "gamut": {"task__name": "gamut"},
    "zhang": {"task__name": "zhang", "model__name": "zhang", "model__width": 1 / 64},
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def any_colorizer(kind, tmp_path_factory):
    workdir = colorizers.save(tmp_path_factory.mktemp(kind), **KINDS[kind])
    return Colorizer.load(workdir, size=64)


@pytest.fixture(scope="module")
def colorizer(tmp_path_factory):
    return Colorizer.load(colorizers.save(tmp_path_factory.mktemp("histogram")), size=64)


def _photo(rng, height=90, width=131):
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, 8, 0), 8, 1)[:height, :width].copy()


def test_the_gray_stays_and_there_are_colors(any_colorizer, rng):
    photo = _photo(rng)
    colored = any_colorizer(photo)
    assert colored.shape == photo.shape and colored.dtype == np.uint8
    gray = any_colorizer.network.colors.gray
    shown, there = (np.asarray(gray(x / np.float32(255))) * 255 for x in (colored, photo))
    # By less than a level, to which red, green and blue are rounded: with one gray by half of it,
    # the mean; with Lab's a dark color's rounding shows more.
    np.testing.assert_allclose(shown, there, atol=1.0)
    assert np.abs(shown - there).mean() < 0.3
    assert np.ptp(colored.astype(int), axis=-1).mean() > 4


def test_gray_and_colors_of_the_same_gray_are_the_same_photo(colorizer, rng):
    gray = _photo(rng)[..., 0]
    shifted = np.clip(gray.astype(int), 40, 200)
    rgb = np.stack([shifted - 30, shifted + 10, shifted + 20], -1).astype(np.uint8)
    gray = shifted.astype(np.uint8)
    np.testing.assert_array_equal(colorizer(rgb), colorizer(gray))
    np.testing.assert_array_equal(colorizer(gray[..., None]), colorizer(gray))
    np.testing.assert_array_equal(colorizer(gray / np.float32(255)), colorizer(gray))


def test_sixteen_bits_stay_sixteen_bits(colorizer):
    gray = np.arange(96 * 96, dtype=np.uint16).reshape(96, 96) * 6 + 2000
    colored = colorizer(gray)
    assert colored.dtype == np.uint16
    np.testing.assert_allclose(colored.mean(-1), gray, atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (513, 2), (37, 41)])
def test_any_size_has_an_answer_and_black_and_white_stay(colorizer, shape):
    assert colorizer(np.full(shape, 90, np.uint8)).shape == (*shape, 3)
    for value in (0, 255):
        assert (colorizer(np.full(shape, value, np.uint8)) == value).all()


def test_an_answer_does_not_depend_on_the_batch(any_colorizer, rng):
    photos = [_photo(rng) for _ in range(3)]
    small = [any_colorizer.small(any_colorizer.gray(photo)) for photo in photos]
    how = [any_colorizer.decoding()]
    if any_colorizer.network.colors.distributions:
        how.append(any_colorizer.decoding(seed=3))
    alone = [any_colorizer.planes([each], how)[0] for each in small]
    together = any_colorizer.planes(small, how, rows=4)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        # To far less than rounding to 8 bits shows: other batches are compiled otherwise.
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a).max()))


def test_decodings_differ_and_saturation_0_is_gray(colorizer, rng):
    photo = _photo(rng)
    usual = colorizer(photo)
    for name in ("mean", "mode", "annealed"):
        assert (colorizer(photo, decode=name) != usual).any(), name
    assert (colorizer(photo, temperature=0.1) != colorizer(photo, temperature=0.9)).any()
    np.testing.assert_array_equal(np.ptp(colorizer(photo, saturation=0.0), axis=-1), 0)
    assert (colorizer(photo, seed=1) == colorizer(photo, seed=1)).all()
    assert (colorizer(photo, seed=1) != colorizer(photo, seed=2)).any()


def test_what_a_head_cannot_do_is_refused(kind, any_colorizer):
    if kind == "regression":
        for settings in ({"seed": 0}, {"temperature": 0.5}, {"decode": "median"}):
            with pytest.raises(ConfigError, match="one color|knows mean"):
                any_colorizer.decoding(**settings)
        with pytest.raises(ConfigError, match="no distributions"):
            any_colorizer.histograms(np.zeros((8, 8), np.uint8))
    if kind in ("gamut", "zhang"):
        with pytest.raises(ConfigError, match="knows annealed, mean, mode"):
            any_colorizer.decoding("median")
    with pytest.raises(ConfigError, match="negative"):
        any_colorizer.decoding(saturation=-1.0)
    if kind == "histogram":
        with pytest.raises(ConfigError, match="temperature"):
            any_colorizer.decoding("mode", temperature=0.5)


def test_histograms_are_distributions_of_what_the_network_sees(colorizer, rng):
    found = colorizer.histograms(_photo(rng, 100, 150))
    assert found["hue"].shape == (16, 24, 8) and found["chroma"].shape == (16, 24, 8)
    np.testing.assert_allclose(found["hue"].sum(-1), 1, atol=1e-5)


def test_what_the_network_sees_keeps_the_aspect_and_is_bounded():
    assert module.seen_size(512, 768, 256) == (256, 384)
    assert module.seen_size(1000, 250, 256) == (500, 125)
    assert module.seen_size(1, 20_000, 256) == (1, 500)
    assert module.seen_size(40, 60, 0) == (40, 60)


def test_a_network_as_one_file_answers_nearly_the_same(any_colorizer, tmp_path, rng):
    size = any_colorizer.save(tmp_path / "net.safetensors")
    assert size == (tmp_path / "net.safetensors").stat().st_size
    again = Colorizer.load(tmp_path / "net.safetensors")
    assert again.size == 64
    photo = _photo(rng)
    difference = np.abs(again(photo).astype(int) - any_colorizer(photo))
    assert difference.mean() < 3


class _Untidy:
    """Colors that are another constant at every call: tiles of it have seams where they meet."""

    def __init__(self):
        self.calls = 0

    def predict(self, variables, image):
        def level(_):
            self.calls += 1
            return np.float32(self.calls % 2)

        constant = jax.pure_callback(
            level, jax.ShapeDtypeStruct((), jnp.float32), image[0, 0, 0, 0]
        )
        return {"ab": jnp.full((*image.shape[:3], 2), constant)}


def test_tiles_have_no_seam():
    colors = Colors(
        spaces.gray,
        _Untidy().predict,
        lambda predicted, *_: predicted["ab"],
        lambda plane, gray: plane,
        decodings=("mean",),
        stride=4,
        distributions=False,
    )
    made = Colorizer(network.Network("nowhere", colors, {}, {}), size=0, tile=256)
    small = np.zeros((300, 700), np.float32)
    ((plane,),) = made.planes([small], [made.decoding()])
    assert plane.shape == (300, 700, 2) and np.ptp(plane) > 0.9
    # Overlaps of 64 pixels go over from 0 to 1: no step between neighbors is larger than that.
    for axis in (0, 1):
        assert np.abs(np.diff(plane, axis=axis)).max() <= 1 / 64 + 1e-6


def test_tiles_of_a_real_network_are_near_the_whole(colorizer, rng):
    photo = _photo(rng, 256, 640)
    whole = Colorizer(colorizer.network, size=0)(photo)
    tiled = Colorizer(colorizer.network, size=0, tile=256)(photo)
    assert np.abs(whole.astype(int) - tiled).mean() < 2


def test_the_authors_file_colors_after_its_conversion(tmp_path, rng):
    layers = caffe_files.colorizer(width=1 / 32, fc6=1, hidden=8, bins=8)
    path = caffe_files.write(tmp_path / "colorizer.h5", layers, rng)
    convert.main(["caffe", str(path), str(tmp_path / "out")])
    made = Colorizer.load(tmp_path / "out", size=64)
    photo = _photo(rng)
    np.testing.assert_allclose(made(photo).mean(-1), photo.mean(-1), atol=0.51)
    assert made.network.settings["model"]["alignment"] == "center"


def test_checkpoints_that_cannot_color_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no head that predicts colors"):
        Colorizer.load(colorizers.save(tmp_path / "encoder", head=False))
    with pytest.raises(CheckpointError, match="predicts no colors"):
        Colorizer.load(colorizers.save(tmp_path / "other", task__name="rotation"))
    with pytest.raises(CheckpointError, match="three channels"):
        seen = {"model__in_channels": 3, "task__name": "rotation"}
        Colorizer.load(colorizers.save(tmp_path / "colors", **seen))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="no network that colors"):
        Colorizer.load(tmp_path / "text")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Colorizer.load(tmp_path / "nothing")


def test_what_is_no_photo_is_refused(colorizer):
    for array, word in (
        (np.zeros((4, 4, 4), np.uint8), "RGBA"),
        (np.full((4, 4), 200.0), "divided by 255"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.zeros((4, 4), np.int64), "int64"),
    ):
        with pytest.raises(PhotoError, match=word):
            colorizer(array)


def test_the_network_of_the_package_is_used_where_none_is_named(colorizer, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "DEFAULT", tmp_path / "default.safetensors")
    with pytest.raises(CheckpointError, match="no network of its own"):
        Colorizer.default()
    colorizer.save(network.DEFAULT)
    assert Colorizer.default().network.path == network.DEFAULT and Colorizer.load("").size == 64


def test_the_package_has_a_small_network():
    assert network.DEFAULT.stat().st_size < 10e6
    found = Colorizer.default()
    assert found.size == 128 and set(found.network.colors.decodings) >= {"mean", "annealed"}
    assert found.network.settings["model"]["dtype"] == "bfloat16"


def test_it_is_a_name_of_the_package():
    assert colorize_jax.Colorizer is Colorizer
