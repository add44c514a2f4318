"""Photos in memory: an array, a list, a generator."""

import io
import pickle

import numpy as np
from PIL import Image
import pytest
import tiny

import colorize_jax
from colorize_jax.data import arrays, pipeline, sources, splits
from colorize_jax.errors import CheckpointError, ConfigError, DataError, PhotoError


@pytest.fixture
def photos(rng):
    return rng.integers(0, 256, (12, 40, 50, 3), dtype=np.uint8)


def _names(given):
    with arrays.as_source(given) as name:
        opened = sources.open_all(name)
        return [opened.name(i) for i in range(len(opened))], name


def test_an_array_is_a_source(photos):
    with arrays.as_source(photos) as name:
        training, held_out = sources.open_splits(name, 0.2)
        assert len(training) + len(held_out) == 12 and len(held_out) >= 1
        whole = sources.open_all(name)
        for i in range(12):
            np.testing.assert_array_equal(whole[i].image, photos[i])
        config = tiny.config(data__source=name, data__holdout=0.2)
        opened = splits.open_splits(config)
        batches = pipeline.training_batches(opened.training, config, start=0, stop=1)
        assert next(batches)["image"].shape == (8, 32, 32, 3)
        batches.close()
        again = pickle.loads(pickle.dumps(training))  # Data workers get a copy like this.
        np.testing.assert_array_equal(again[3].image, training[3].image)
    with pytest.raises(DataError, match="give them again"):
        sources.open_all(name)


def test_arrays_lists_and_generators_of_the_same_photos_are_the_same_source(photos):
    expected = _names(photos)
    assert expected[0][0].startswith("000000-")
    floats = (photos / 255).astype(np.float32)
    others = (
        list(photos), iter(photos), (photo for photo in photos), tuple(floats), floats,
        (Image.fromarray(photo) for photo in photos),
    )  # fmt: skip
    for given in others:
        assert _names(given) == expected
    changed = photos.copy()
    changed[3, 2, 1, 0] ^= 1
    names, name = _names(changed)
    assert name != expected[1] and sum(a != b for a, b in zip(names, expected[0], strict=True)) == 1
    assert _names(photos[::-1])[1] != expected[1]


def test_photos_may_differ_in_size_and_be_files(photos, rng):
    file = io.BytesIO()
    Image.fromarray(photos[0]).save(file, "PNG")
    with arrays.as_source([file.getvalue(), photos[1, :20], photos[2, :, :7]]) as name:
        opened = sources.open_all(name)
        assert opened[0].image == file.getvalue() and opened[2].image.shape == (40, 7, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda x: x[0], r"photos= is \[40, 50, 3\], not \[batch, height, width, 3\]"),
        (lambda x: x.transpose(0, 3, 1, 2), "channels come first"),
        (
            lambda x: [x[0], x[1].astype(np.float32)],
            "photo 1 of photos= holds floats from 0 to 255",
        ),
        (lambda x: (p for p in [x[0], x[1, ..., 0]]), r"photo 1 of photos= is \[40, 50\]"),
        (lambda x: [], "there is no photo"),
        (lambda x: "/data/photos", "is a str: give an array.*config.data.source"),
        (lambda x: {"a": x[0]}, "is a dict"),
        (lambda x: 3, "is a int"),
        (lambda x: [None], "photo 0"),
    ],
)
def test_what_is_no_photo_is_named_by_its_number(photos, given, words):
    with pytest.raises(DataError, match=words), arrays.as_source(given(photos)):
        pass


def test_a_generator_without_end_does_not_fill_the_memory(photos, monkeypatch):
    monkeypatch.setattr(arrays, "_memory", lambda: 10 * photos[0].nbytes)

    def endless():
        while True:
            yield photos[0]

    with pytest.raises(DataError, match="first 6 photos.*folder"):
        arrays.ArrayPhotos(endless())


def test_labels_are_of_photos_with_a_place(photos, tmp_path):
    config = tiny.classification("softmax")
    with pytest.raises(ConfigError, match="photos= have no labels"):
        colorize_jax.train(config, tmp_path, photos=photos)


@pytest.mark.slow
def test_a_run_on_an_array_resumes_only_with_the_same_photos(photos, tmp_path):
    settings = {"data__holdout": 0.2, "eval__every": 2, "checkpoint__every": 1}
    whole = colorize_jax.train(tiny.config(steps=2, **settings), tmp_path / "whole", photos=photos)
    assert np.isfinite(whole["eval/loss"])
    config = tiny.config(steps=2, **settings)
    (tmp_path / "whole" / "results.json").unlink()
    again = colorize_jax.train(config, tmp_path / "whole", photos=iter(photos))
    assert again == whole and config.data.source == "builtin:photos"
    with pytest.raises(CheckpointError, match=r"data\.source: 'memory:.* there, 'memory:.* here"):
        colorize_jax.train(config, tmp_path / "whole", photos=photos[1:])
    with pytest.raises(PhotoError):
        colorize_jax.train(config, tmp_path / "whole", photos=photos[0])
