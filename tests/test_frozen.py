"""Frozen features are scored on a layer that training photos choose; results say how."""

import json
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_encoder
import tiny

import colorize_jax
from colorize_jax import extract, frozen, probe
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError
from colorize_jax.extract import Extraction, some_batches
from colorize_jax.features import feature_files, features
from colorize_jax.models import registry
from colorize_jax.training import results, same_run, saving
from colorize_jax.training.step import TrainState

CLASSES = ("cat", "dog", "owl")


def _write(folder, labels, **layers):
    shapes = {name: values.shape[1:] for name, values in layers.items()}
    with feature_files.Writer(str(folder), CLASSES, shapes) as writer:
        writer.add([f"{folder.name}{i}.jpg" for i in range(len(labels))], labels, layers)
    return feature_files.Features(str(folder))


def _network():
    """A config, its encoder, and random variables."""
    config = tiny.config(model__name=small_encoder.NAME, model__width=0.0625, model__norm="batch")
    encoder = registry.make_encoder(config.model)
    return config, encoder, jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


@pytest.fixture
def pair(tmp_path, rng):
    """Features whose layer "trap" separates the test photos only, and "good" both."""

    def layers(labels, trap):
        shown = np.eye(3)[labels] + 0.1 * rng.normal(size=(len(labels), 3))
        noise = rng.normal(size=(len(labels), 3))
        # Good features are on a grid of 2 x 2 cells, whose mean neighbors compare.
        return {
            "trap": np.eye(3)[labels] if trap else noise,
            "good": np.stack([shown] * 4, 1).reshape(-1, 2, 2, 3),
        }

    labels, labels_test = np.repeat(np.arange(3), 20), np.repeat(np.arange(3), 5)
    train = _write(tmp_path / "train", labels, **layers(labels, trap=False))
    return train, _write(tmp_path / "test", labels_test, **layers(labels_test, trap=True))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("knn", {"neighbors": 5}), ("linear", {"regularization": 0.01, "iterations": 20}),
     ("svm", {"costs": (1.0,)})],
)  # fmt: skip
def test_training_photos_choose_the_layer(pair, kind, options):
    train, test = pair
    everything = np.arange(60)
    found = frozen.score(kind, train, test, ("trap", "good"), everything, options)
    assert found["layer"] == "good" and found[frozen.measure(kind)] > 0.9
    assert found["held_out"]["good"] > 0.9 > found["held_out"]["trap"]
    assert found["train_photos"] == 60 and found["test_photos"] == 15
    alone = frozen.score(kind, train, test, ("trap",), everything, options)
    assert alone["layer"] == "trap" and "held_out" not in alone


def test_fewer_neighbors_vote_where_there_are_fewer_photos(pair):
    found = frozen.score("knn", *pair, ("good",), np.arange(60), {"neighbors": 200})
    assert found["neighbors"] == 30 and found["top1"] > 0.9  # half a class, times three classes
    found = frozen.score("knn", *pair, ("good",), np.arange(60), {"neighbors": 60})
    assert found["neighbors"] == 60  # It is possible, and was asked for.


def test_one_photo_of_a_class_cannot_choose_the_layer(pair):
    options = {"neighbors": 1}
    with pytest.raises(ConfigError, match="name one of --layers"):
        frozen.score("knn", *pair, ("trap", "good"), np.array([0, 20, 40]), options)
    found = frozen.score("knn", *pair, ("good",), np.array([0, 20, 40]), options)
    assert found["train_photos"] == 3


def test_a_class_that_the_photos_do_not_have_is_named(pair):
    with pytest.raises(ConfigError, match="cow"):
        frozen.score("svm", *pair, ("good",), np.arange(60), {}, classes=("cat", "cow"))


def test_new_averages_of_batch_norm_are_those_of_the_photos(rng):
    _, encoder, variables = _network()
    photos = rng.integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    found = features.with_fresh_norm(encoder, variables, photos)
    # The first layer sees the input itself: its moments can be computed at once.
    gray = encoder.network_input(photos.reshape(-1, 32, 32, 3))
    kernel = variables["params"]["conv1"]["kernel"]
    conv = np.asarray(
        jax.lax.conv_general_dilated(
            gray, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    averages = found["batch_stats"]["batch_conv1"]
    np.testing.assert_allclose(averages["mean"], conv.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(averages["var"], conv.var((0, 1, 2)), rtol=1e-3)
    assert found["params"] is variables["params"]


def test_batches_for_new_averages_are_fixed_by_names(tmp_path, rng):
    tiny.write_photos(tmp_path / "train", 8, rng)
    tiny.write_photos(tmp_path / "test", 3, rng)
    photos = sources.open_all(str(tmp_path))
    seen = Extraction(shortest=32, crop=32, batch_size=3, split="train")
    some = list(some_batches(photos, seen, 7))
    assert [batch.shape for batch in some] == [(3, 32, 32, 3)] * 2
    assert [len(batch) for batch in some_batches(photos, seen, 2)] == [2]
    np.testing.assert_array_equal(some[0], next(some_batches(photos, seen, 3)))


@pytest.mark.parametrize("folders", [True, False])
def test_only_photos_that_may_be_learned_from_are_read(folders):
    names = [f"train/{name}/{i}.jpg" for name in CLASSES for i in range(9)] + ["val/cat/1.jpg"]
    labels = np.repeat(np.arange(3), 9)
    objects = None if folders else (labels, CLASSES)
    seen = Extraction(split="train", per_class=4, seed=5)
    numbers, found, classes = extract._chosen(names[: 28 if folders else 27], seen, objects)
    everything = mock.Mock(names=names[:27], labels=labels)
    # What `frozen` then takes of them is what it would take of all photos.
    read = mock.Mock(names=[names[i] for i in numbers], labels=found)
    for count in (4, 2):
        chosen = probe.some_labels(everything, seed=5, per_class=count)
        assert numbers[probe.some_labels(read, seed=5, per_class=count)].tolist() == chosen.tolist()
    assert np.bincount(found).tolist() == [4, 4, 4] and classes == CLASSES


@pytest.mark.parametrize(("asked", "most"), [("4,2", 4), ("0,2", 0)])
def test_all_photos_to_score_are_read_and_all_to_learn_from_if_all_labels_are_asked_for(
    asked, most, tmp_path, monkeypatch
):
    read = {}

    def written(checkpoint, photos, output, extraction, *rest, **others):
        read[extraction.split] = extraction.per_class, extraction.seed
        _write(pathlib.Path(output), np.arange(3), top=np.zeros((3, 2)))

    monkeypatch.setattr(extract, "extract", written)
    monkeypatch.setattr(extract, "open_photos", lambda *asked: (None, None))
    monkeypatch.setattr(colorize_jax, "load_encoder", lambda path: (None, None))
    monkeypatch.setattr(probe, "check_pair", mock.Mock(side_effect=ConfigError("enough")))
    with pytest.raises(SystemExit, match="enough"):
        frozen.main([
            "--checkpoint=x", "--source=y", "--split=a", "--eval_split=b", "--seed=7",
            f"--output={tmp_path}", f"--per_class={asked}",
        ])  # fmt: skip
    assert read == {"a": (most, 7), "b": (0, 0)}


def test_the_command_leaves_scores_and_no_features(tmp_path, rng, capsys):
    config, _, variables = _network()
    state = TrainState(
        step=jnp.int32(1), params={"encoder": variables["params"]},
        collections={"batch_stats": {"encoder": variables["batch_stats"]}}, opt_state=(),
        nonfinite=jnp.int32(0),
    )  # fmt: skip
    saving.write(tmp_path / "run/checkpoints/1", state, {"config": same_run.plain(config)})
    for split, count in (("train", 8), ("val", 4)):
        tiny.write_photos(tmp_path / "photos" / split, count, rng)
    output = tmp_path / "scores"
    frozen.main([
        f"--checkpoint={tmp_path / 'run'}", f"--source={tmp_path / 'photos'}", "--split=train",
        "--eval_split=val", f"--output={output}", "--layers=conv2,conv3", "--shortest=32",
        "--crop=32", "--values=16", "--kinds=knn,lowshot", "--neighbors=2", "--per_class=0,2",
        "--share=0.5", "--shots=1", "--draws=2", "--cost=1", "--norm_photos=4", "--threads=1",
    ])  # fmt: skip
    head, *table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head[:2] == ["probe", "layer"] and len(table) == 9
    lines = (("knn", *table[:2]), ("knn_2", *table[2:4]), ("knn_0.5", *table[4:6]))
    for name, taken, other in (*lines, ("lowshot", table[6], table[8])):
        assert taken[0] == name and {taken[1], other[0]} == {"conv2", "conv3"}
        # The other layer was scored on the photos that chose, and on no test photo.
        assert float(other[1][:-1]) <= float(taken[2][:-1]) and other[2:] == ["-"]
    found = json.loads((output / results.FILE).read_text())
    assert {name for name in found if name.startswith("eval/")} == {
        "eval/knn/top1", "eval/knn_2/top1", "eval/knn_0.5/top1", "eval/lowshot/map",
        "eval/lowshot_1/map",
    }  # fmt: skip
    assert table[7][0] == "1" and found["eval/lowshot_1/map"] == found["eval/lowshot/map"]
    assert found["metric"]["value"] == found["eval/knn/top1"] and found["options"]["crop"] == 32
    assert found["probes"]["knn"]["train_photos"] == 8
    assert found["probes"]["knn_2"]["train_photos"] == 4
    assert found["probes"]["knn_0.5"]["train_photos"] == 4
    assert [path.name for path in output.iterdir()] == [results.FILE]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--kinds=knn,tree", "tree"),
        ("--per_class=some", "per_class"),
        ("--kinds=", "known"),
        ("--labels=lists --per_class=3", "lists"),  # before anything is extracted
        ("--labels=lists --share=0.1", "lists"),
        ("--shots=0.5", "shots"),
    ],
)
def test_options_that_make_no_sense_are_sentences(option, message):
    words = [
        "--checkpoint=x",
        "--source=y",
        "--split=a",
        "--eval_split=b",
        "--output=z",
        *option.split(),
    ]
    with pytest.raises(SystemExit, match=message):
        frozen.main(words)
