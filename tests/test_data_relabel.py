"""Other labels for class folders: noise, random buckets, WordNet, and tables of the user's own."""

import json
import os
import pathlib

import labelled
import numpy as np
from PIL import Image
import pytest
import tiny

import colorize_jax.data
from colorize_jax.data import __main__ as command
from colorize_jax.data import label_samples, pipeline, relabel, sources, splits
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.names import Names
from colorize_jax.data.record import Record
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.training import beginning, known, loop

DATA = pathlib.Path(colorize_jax.data.__file__).parent
IMAGENET, TINY = (relabel._shipped(file)[0] for file in reversed(relabel._TABLES))


class _Named:
    """A source of photos that have a name and nothing else."""

    def __init__(self, count):
        self.names = Names.of(f"train/{i % 100:03}/{i}.jpg".encode() for i in range(count))

    def __getitem__(self, index):
        return Record(self.names[index], b"")


def _photos(count):
    """Photos of 100 classes."""
    photos = sources.Photos([_Named(count)], [np.arange(count)])
    return Labelled(photos, np.arange(count), labels=np.arange(count, dtype=np.int32) % 100)


CLASSES = [f"{i:03}" for i in range(100)]


@pytest.fixture
def folder(tmp_path, rng):
    labelled.write_class_folders(tmp_path / "set", rng, classes=5, per_class=4)
    return tmp_path / "set"


def _config(path, spec, **settings):
    return tiny.classification(
        "softmax", data__source=str(path), data__relabel=spec, task__classes=0, **settings
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_noise_draws_a_share_of_the_labels_anew(share):
    photos = _photos(4000)
    found = relabel.find(f"noise:{share}", CLASSES, 0)
    assert found.classes == tuple(CLASSES) and not found.buckets
    labels = relabel.noised(photos, found, 0)
    assert labels.dtype == np.int32
    wrong = labels != photos.labels
    # A redrawn label is the photo's own by chance once in a hundred times.
    expected, spread = share * 0.99, np.sqrt(share * 0.99 * (1 - share * 0.99) / 4000)
    assert abs(wrong.mean() - expected) < 4 * spread
    # All classes are drawn about equally often.
    drawn = np.bincount(labels[wrong], minlength=100)
    assert (drawn == 0).sum() < 6 and drawn.max() < 4 * drawn.mean()


def test_noise_depends_on_seed_and_name_alone():
    photos = _photos(2000)
    found = relabel.find("noise:0.5", CLASSES, 0)
    labels = relabel.noised(photos, found, 3)
    order = np.random.default_rng(0).permutation(2000)[:400]
    np.testing.assert_array_equal(relabel.noised(photos.part(order), found, 3), labels[order])
    assert (relabel.noised(photos, found, 4) != labels).mean() > 0.3
    # It is independent of which photos data.per_class would choose, whose hashes are smallest.
    first = np.argsort(photos.hashes((3 + 1).to_bytes(16, "little")))[:1000]
    wrong = labels != photos.labels
    assert abs(wrong[first].mean() - wrong.mean()) < 0.08


@pytest.mark.parametrize("count", [2, 16, 50, 100])
def test_random_buckets_are_as_large_as_each_other(count):
    found = relabel.find(f"random:{count}", CLASSES, 0)
    sizes = np.unique(list(found.buckets.values()), return_counts=True)[1]
    assert len(found.classes) == len(sizes) == count and np.ptp(sizes) <= 1
    assert list(found.buckets) and set(found.buckets) == set(CLASSES) and sizes.sum() == 100
    assert relabel.find(f"random:{count}", CLASSES, 0) == found


def test_buckets_of_another_partition_have_other_names():
    found, other, fewer = (
        relabel.find("random:16", classes, seed)
        for classes, seed in ((CLASSES, 0), (CLASSES, 1), (CLASSES[1:], 0))
    )
    assert not set(found.classes) & (set(other.classes) | set(fewer.classes))
    # A changed hash would change what stored checkpoints have learned.
    assert found.classes[0] == "random 00 of 16, 9ca983"
    first = ["025", "051", "057", "058", "085", "089", "090"]
    assert [name for name in CLASSES if found.buckets[name] == found.classes[0]] == first


@pytest.mark.parametrize(
    ("table", "count", "sizes"),
    [
        (IMAGENET, 2, [516, 484]),
        (IMAGENET, 3, [484, 347, 169]),
        (IMAGENET, 16, [97, 90, 80, 79, 74, 72, 67, 63, 60, 60, 55, 52, 48, 40, 36, 27]),
        (TINY, 2, [118, 82]),
        (TINY, 4, [74, 46, 44, 36]),
        (TINY, 16, [21, 18, 17, 15, 14, 13, 13, 13, 12, 11, 11, 10, 9, 9, 9, 5]),
    ],
)
def test_wordnet_has_the_buckets_of_its_rule(table, count, sizes):
    found = relabel.find(f"wordnet:{count}", sorted(table), 0)
    counted = np.unique(list(found.buckets.values()), return_counts=True)[1]
    assert sorted(counted, reverse=True) == sizes and len(found.classes) == count
    assert set(found.buckets) == set(table) and not found.remarks


def test_wordnet_joins_what_belongs_together():
    found = relabel.find("wordnet:16", sorted(TINY), 0).buckets
    # German shepherd, persian cat; school bus, sports car; ladybug.
    assert found["n02106662"] == found["n02123394"] == "carnivore"
    assert found["n04146614"] == found["n04285008"] == "conveyance, transport"
    assert found["n02165456"] == "insect"


def test_some_of_the_classes_of_wordnet_fill_some_buckets():
    found = relabel.find("wordnet:16", sorted(TINY)[:40], 0)
    assert len(found.classes) < 16
    (line,) = found.remarks
    assert f"in {len(found.classes)} of the 16 buckets" in line


def test_wordnet_ships_with_its_licence():
    assert "Princeton University" in (DATA / "WORDNET_LICENSE").read_text()
    for file in relabel._TABLES:
        assert "Copyright 2006 by Princeton University" in (DATA / file).read_text()


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("noise", ConfigError, "'' is no number"),
        ("noise:0", ConfigError, "noise:0: the share must lie above 0"),
        ("noise:1.5", ConfigError, "at most 1"),
        ("noise:nan", ConfigError, "at most 1"),
        ("random:1.5", ConfigError, "'1.5' is no number"),
        ("random:1", ConfigError, "at least 2 buckets"),
        ("random:101", ConfigError, "101 buckets are more than the 100 classes"),
        ("wordnet:2", DataError, "100 classes have no bucket.*'000'.*file:PATH"),
        ("file:", ConfigError, "known: noise:0.1"),
        ("classes:3", ConfigError, "classes:3: known: noise:0.1.*random:50.*wordnet:16.*file:PATH"),
        ("file:/nowhere", DataError, "there is no file /nowhere"),
    ],
)
def test_a_wrong_value_is_an_error_by_name(spec, error, message):
    with pytest.raises(error, match=message) as raised:
        relabel.find(spec, CLASSES, 0)
    assert f"config.data.relabel={spec}" in str(raised.value)


def test_wordnet_says_which_numbers_of_buckets_there_are():
    with pytest.raises(ConfigError, match="there are wordnet:2, wordnet:3, wordnet:4, wordnet:16$"):
        relabel.find("wordnet:5", sorted(TINY), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"000\ta\n001 b\n", "line '001 b' is no class, a tab and a bucket"),
        (b"000\ta\tb\n", "is no class, a tab"),
        (b"000\ta\n000\tb\n", "the class '000' into two buckets"),
        (b"000\ta\n001\tb\n", "98 classes have no bucket in .*'002', '003', '004', ..."),
        (b"", "100 classes have no bucket"),
        (b"\0\1\2", "is no text"),
        (b"".join(b"%03d\ta\n" % i for i in range(100)), "all classes into one bucket, 'a'"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_it(tmp_path, text, message):
    (tmp_path / "table.tsv").write_bytes(text)
    with pytest.raises(DataError, match=message) as raised:
        relabel.find(f"file:{tmp_path}/table.tsv", CLASSES, 0)
    assert "table.tsv" in str(raised.value)


def test_a_table_of_ones_own_joins_classes_and_both_splits(folder, tmp_path):
    # Written on Windows, with a comment, an empty line and a class that is not here.
    (tmp_path / "own.tsv").write_bytes(
        b"\xef\xbb\xbf# mine\r\n\r\nn00\tsmall\r\nn01\tlarge\r\nn02\tlarge\r\nn03\tsmall\r\n"
        b"n04\tsmall\r\nn99\tother\r\n"
    )
    opened = splits.open_splits(_config(folder, f"file:{tmp_path}/own.tsv"))
    assert opened.classes == ("large", "small")
    for photos in (opened.training, opened.evaluation):
        folders = [photos.name(i).split("/")[1] for i in range(len(photos))]
        labels = dict(zip(folders, photos.labels.tolist(), strict=True))
        assert labels == {"n00": 1, "n01": 0, "n02": 0, "n03": 1, "n04": 1}
    assert any("5 classes are joined to 2" in line for line in opened.warnings)


def test_scored_photos_keep_their_labels(folder):
    plain, noisy = (splits.open_splits(_config(folder, spec)) for spec in ("", "noise:1"))
    assert noisy.classes == plain.classes
    assert (noisy.training.labels != plain.training.labels).mean() > 0.5
    np.testing.assert_array_equal(noisy.evaluation.labels, plain.evaluation.labels)
    assert noisy.training.digest() != plain.training.digest()
    assert any("100.0% of the training photos" in line for line in noisy.warnings)
    # A search scores a part of the training split, by its own labels too.
    searched, own = (
        splits.open_splits(_config(folder, spec, early_stopping__mode="search")).evaluation
        for spec in ("noise:1", "")
    )
    np.testing.assert_array_equal(searched.labels, own.labels)


@pytest.mark.parametrize("settings", [{"data__per_class": 2}, {"early_stopping__mode": "search"}])
def test_the_same_photos_are_chosen_with_any_labels(folder, settings):
    specs = "", "random:2", "noise:1"
    opened = [splits.open_splits(_config(folder, spec, **settings)) for spec in specs]
    names = [
        [[part.name(i) for i in range(len(part))] for part in (one.training, one.evaluation)]
        for one in opened
    ]
    assert names[0] == names[1] == names[2]


def test_labels_without_folders_cannot_be_changed(folder):
    config = _config(folder, "random:2", data__labels="lists")
    with pytest.raises(ConfigError, match="relabel='random:2' says nothing.*'folders'"):
        pipeline.check(config)


def test_number_of_classes_is_that_of_the_buckets(folder):
    config = _config(folder, "random:2")
    opened = splits.open_splits(config)
    assert splits.ask_classes(config, opened)[0].startswith("config.task.classes=2")
    config.task.classes = 5
    with pytest.raises(ConfigError, match="classes=5, but .* has 2 classes"):
        splits.open_splits(config)


def test_a_run_writes_its_buckets_as_a_table_that_can_be_used(folder, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def stop(*_):
        raise Enough

    monkeypatch.setattr(beginning, "resume", stop)
    for split in ("train", "val"):  # A name that is no text.
        os.rename(folder / split / "n04", os.fsencode(folder / split) + b"/n\xfc")
    for spec in ("random:2", "noise:0.5"):
        with pytest.raises(Enough):
            loop.train(_config(folder, spec), tmp_path / spec)
    assert not (tmp_path / "noise:0.5/buckets.tsv").exists()
    written = tmp_path / "random:2/buckets.tsv"
    again = splits.open_splits(_config(folder, f"file:{written}"))
    opened = splits.open_splits(_config(folder, "random:2"))
    assert again.classes == opened.classes
    assert again.training.digest() == opened.training.digest()


def _note(config):
    opened = splits.open_splits(config)
    return {"config": json.loads(config.to_json_best_effort()), "classes": list(opened.classes)}


def test_an_evaluation_has_the_buckets_of_the_training(folder, tmp_path):
    trained = _config(folder, "random:2", seed=3)
    note = _note(trained)
    config, said = known.for_evaluation(_config(folder, ""), note, {"data.source"})
    assert (config.data.relabel, config.seed) == ("random:2", 3)
    assert "data.relabel='random:2'" in said[0] and "seed=3" in said[0]
    scored = known.to_score(config, note, {"data.source"}).opened
    assert scored.classes == tuple(note["classes"])
    # Buckets of another seed are other classes.
    config.seed = 4
    with pytest.raises(DataError, match="other classes than the network was trained on"):
        known.to_score(config, note, {"data.source"})
    # An older checkpoint has no such setting.
    del note["config"]["data"]["relabel"]
    config, _ = known.for_evaluation(_config(folder, ""), note, {"data.source"})
    assert config.data.relabel == ""


def test_photos_from_elsewhere_are_scored_by_the_table(folder, tmp_path, rng):
    whole = {"data__split": "", "data__eval_split": ""}
    note = _note(_config(folder / "train", "random:2", **whole))
    labelled.write_class_folders(tmp_path / "other", rng, classes=3, per_class=2)
    config = _config(tmp_path / "other/train", "random:2", **whole)
    with pytest.raises(DataError, match="the network does not know, such as 'random"):
        splits.open_whole(config, note["classes"])
    spec, opened = "random:2", splits.open_splits(_config(folder / "train", "random:2", **whole))
    (tmp_path / "buckets.tsv").write_bytes(relabel.table(spec, 0, opened.buckets))
    config.data.relabel = f"file:{tmp_path}/buckets.tsv"
    found = splits.open_whole(config, note["classes"])
    assert found.classes == opened.classes and len(found.evaluation) == 6
    for i in range(6):
        name = found.evaluation.name(i).split("/")[0]
        assert opened.classes[found.evaluation[i].labels] == opened.buckets[name]


def test_check_shows_samples_of_every_bucket(folder, tmp_path, capsys):
    words = ["check", str(folder), "--split=train", f"--sheet={tmp_path}/sheet.png"]
    command.main([*words, "--relabel=random:2"])
    text = capsys.readouterr().out
    assert "5 classes are joined to 2" in text and "2 classes, 8 photos: n0" in text
    assert "3 classes, 12 photos: n0" in text and text.count("    train/n0") == 6
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    rows = 2 * label_samples._SIDE
    assert picture.shape == (rows, label_samples._TEXT + 8 * label_samples._SIDE, 3)
    command.main([*words, "--relabel=noise:1"])
    assert "becomes n0" in capsys.readouterr().out
    red = (np.asarray(Image.open(tmp_path / "sheet.png")) == (255, 0, 0)).all(-1)
    assert red.sum() > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--relabel=random:9"], "9 buckets are more"), (["--sheet=a.png"], "are for --relabel")],
)
def test_check_names_a_mistake(folder, words, message):
    with pytest.raises(SystemExit, match=message):
        command.main(["check", str(folder / "train"), *words])
