"""The photos that are trained on and scored, for every kind of labels."""

import pickle

import labelled
import numpy as np
import pytest
import tiny

from colorize_jax.data import masks, sources, splits, voc
from colorize_jax.errors import ConfigError, DataError

# The five of thirty photos that the seed 0 chooses.
FIVE = [
    "sub0/photo004.jpg", "sub0/photo008.jpg", "sub0/photo010.jpg", "sub0/photo020.jpg",
    "sub1/photo005.jpg",
]  # fmt: skip


@pytest.fixture
def kit(tmp_path, rng):
    labelled.write_devkit(tmp_path / "kit", rng, photos=20)
    return tmp_path / "kit"


@pytest.fixture
def folder(tmp_path, rng):
    labelled.write_class_folders(tmp_path / "set", rng, per_class=10)
    return tmp_path / "set"


def _config(path, labels, classes, **settings):
    named = {"data__split": "train", "data__eval_split": "val"} | settings
    return tiny.config(data__source=str(path), data__labels=labels, task__classes=classes, **named)


def _names(photos):
    return [photos.name(i) for i in range(len(photos))]


def test_photos_without_labels_are_split_as_ever(tmp_path, rng):
    tiny.write_photos(tmp_path, 12, rng)
    opened = splits.open_splits(tiny.config(data__source=str(tmp_path), data__holdout=0.3))
    training, evaluation = sources.open_splits(str(tmp_path), 0.3)
    assert opened.classes == () and opened.warnings == ()
    assert opened.training.digest() == training.digest()
    assert opened.evaluation.digest() == evaluation.digest()


def test_some_photos_without_labels_are_nested_and_told(tmp_path, rng):
    tiny.write_photos(tmp_path, 30, rng)

    def opened(photos, **settings):
        return splits.open_splits(
            tiny.config(
                data__source=str(tmp_path), data__holdout=0.3, data__photos=photos, **settings
            )
        )

    whole, some, more = opened(0), opened(5), opened(12)
    assert len(some.training) == 5 and len(more.training) == 12
    assert set(_names(some.training)) < set(_names(more.training)) < set(_names(whole.training))
    # A changed hash would change what a stored command trains on.
    assert _names(some.training) == FIVE
    assert some.evaluation.digest() == whole.evaluation.digest()
    assert some.training[0].image == (tmp_path / FIVE[0]).read_bytes()
    assert _names(opened(5, seed=1).training) != FIVE
    (line,) = some.warnings
    count = len(whole.training)
    assert line == (
        f"trained on 5 of {count} photos, which the seed 0 chooses (config.data.photos)"
    )
    assert opened(count).training.digest() == whole.training.digest()
    with pytest.raises(
        DataError, match=f"photos={count + 1}, but without those held out there are {count} "
    ):
        opened(count + 1)


def test_some_photos_of_joined_and_weighted_sources(tmp_path, rng):
    for name in "ab":
        (tmp_path / name).mkdir()
        tiny.write_photos(tmp_path / name, 10, rng)
    weighted, _ = sources.open_splits(f"{tmp_path}/a@0.9,{tmp_path}/b@0.1", 0.2)
    some = weighted.some(8, 0)
    assert len(some) == 8 and len({some.path(i) for i in range(8)}) == 2
    drawn = [some.order(0)[i] for i in range(200)]
    shares = np.bincount([some.path(i).endswith("a") for i in drawn])
    assert shares[1] > 150  # The weights stay.
    with pytest.raises(DataError, match="leaves no photo of a weighted source"):
        weighted.some(1, 0)


def test_some_photos_of_labelled_ones_are_asked_for_by_class(folder):
    with pytest.raises(ConfigError, match="photos=4 takes some photos without labels.*per_class"):
        splits.open_splits(_config(folder, "folders", 3, data__photos=4))


def test_few_held_out_photos_give_a_warning_and_the_split_stays(tmp_path, rng):
    tiny.write_photos(tmp_path, 30, rng)
    config = tiny.config(data__source=str(tmp_path), data__holdout=0.001)
    opened = splits.open_splits(config)
    assert len(opened.evaluation) == 1
    (warning,) = opened.warnings
    assert warning.startswith("only 1 photo is held out of 30") and "data.holdout=0.2" in warning
    # A quarter of every photo is always held out.
    assert splits.open_splits(tiny.config()).warnings == ()


@pytest.mark.parametrize(
    ("training", "evaluation", "share"),
    [(95, 1, "0.2"), (999, 1, "0.1"), (39_960, 40, "0.005"), (49_951, 49, "0.002")],
)
def test_the_named_share_holds_out_enough(training, evaluation, share):
    said = splits.few_held_out(training, evaluation)
    assert f"--config.data.holdout={share}, " in said
    assert float(share) * (training + evaluation) >= min(
        splits.FEWEST, (training + evaluation) / 10
    )


@pytest.mark.parametrize(("training", "evaluation"), [(9, 1), (87, 9), (950, 50), (10**6, 50)])
def test_enough_held_out_photos_give_no_warning(training, evaluation):
    assert splits.few_held_out(training, evaluation) == ""


def test_masks(kit):
    opened = splits.open_splits(_config(kit, "masks", 3))
    assert [len(opened.training), len(opened.evaluation)] == [20, 10]
    assert opened.classes == ("class 0", "class 1", "class 2") and opened.warnings == ()
    assert opened.training.path(3) == str(kit) and opened.training.order(0)[5] < 20
    mask = masks.decode_mask(opened.evaluation[2].mask, 3)
    assert set(np.unique(mask)) == {0, 1, 2, 255}
    assert opened.training.classes == 3
    blank = opened.training.unreadable()
    assert masks.decode_mask(blank.mask, 3).min() == 255 and blank.labels is None


def test_lists_and_their_warnings(kit):
    opened = splits.open_splits(_config(kit, "lists", 2))
    assert opened.classes == ("aeroplane", "bicycle") and opened.warnings == ()
    np.testing.assert_array_equal(opened.training.unreadable().labels, np.zeros(2, np.int8))
    for split in ("train", "val"):
        path = kit / f"ImageSets/Main/bicycle_{split}.txt"
        path.write_text(path.read_text().replace(" 1\n", " 0\n"))
    opened = splits.open_splits(_config(kit, "lists", 2))
    assert opened.warnings == (
        f"no training photo of {kit} shows 'bicycle': it cannot be learned",
        f"no evaluation photo of {kit} shows 'bicycle': it has no average precision",
    )


def test_photos_that_are_trained_on_and_scored_are_counted(kit):
    config = tiny.config(
        data__source=str(kit), data__labels="masks", data__split="train", data__eval_split="train",
        task__classes=3, eval__view="whole",
    )  # fmt: skip
    opened = splits.open_splits(config)
    (warning,) = opened.warnings
    assert warning.startswith(f"{len(opened.training)} of the {len(opened.training)} photos")


def test_folders(folder):
    opened = splits.open_splits(_config(folder, "folders", 3))
    assert opened.classes == ("n00", "n01", "n02")
    assert [len(opened.training), len(opened.evaluation)] == [30, 15]
    label = opened.training.unreadable().labels
    assert label.shape == () and label.dtype == np.int32 and label == 0
    # A limit on evaluation photos keeps all classes.
    assert len(np.unique(opened.evaluation.labels[:8])) == 3
    few = splits.open_splits(_config(folder, "folders", 3, data__per_class=4))
    np.testing.assert_array_equal(np.bincount(few.training.labels), [4, 4, 4])
    assert _names(few.evaluation) == _names(opened.evaluation)
    shares = [
        splits.open_splits(_config(folder, "folders", 3, data__label_share=share)).training
        for share in (0.01, 0.4, 1.0)
    ]
    assert [np.bincount(x.labels).tolist() for x in shares] == [[1] * 3, [4] * 3, [10] * 3]
    assert set(_names(shares[0])) < set(_names(shares[1])) < set(_names(shares[2]))
    assert _names(shares[1]) == _names(few.training)  # The same hash chooses.
    other = splits.open_splits(_config(folder, "folders", 3, data__per_class=4, seed=1))
    assert _names(other.training) != _names(few.training)


def test_folders_without_splits_hold_a_share_of_every_class_out(folder):
    config = _config(
        folder / "train", "folders", 3, data__split="", data__eval_split="", data__holdout=0.2
    )
    opened = splits.open_splits(config)
    np.testing.assert_array_equal(np.bincount(opened.training.labels), [8, 8, 8])
    np.testing.assert_array_equal(np.bincount(opened.evaluation.labels), [2, 2, 2])
    assert set(_names(opened.training)).isdisjoint(_names(opened.evaluation))
    config.data.holdout = 0.001
    assert len(splits.open_splits(config).evaluation) == 3
    config.early_stopping.mode = "search"
    searched = splits.open_splits(config)  # The held-out photos take no part in the search.
    assert len(searched.training) + len(searched.evaluation) == 27


@pytest.mark.parametrize(("labels", "classes"), [("masks", 3), ("lists", 2), ("folders", 3)])
def test_search_divides_the_training_split_and_opens_no_other(kit, folder, labels, classes):
    path = folder if labels == "folders" else kit
    whole = splits.open_splits(_config(path, labels, classes)).training
    config = _config(
        path, labels, classes, data__eval_split="absent",
        early_stopping__mode="search", early_stopping__holdout=0.2,
    )  # fmt: skip
    opened = splits.open_splits(config)
    training, evaluation = _names(opened.training), _names(opened.evaluation)
    assert sorted(training + evaluation) == sorted(_names(whole))
    assert len(evaluation) == len(whole) // 5
    numbers = {name: i for i, name in enumerate(_names(whole))}
    for part, names in ((opened.training, training), (opened.evaluation, evaluation)):
        for i, name in enumerate(names):
            record, same = part[i], whole[numbers[name]]
            assert record.mask == same.mask and record.image == same.image
            np.testing.assert_array_equal(record.labels, same.labels)
    if labels == "folders":
        np.testing.assert_array_equal(np.bincount(opened.evaluation.labels), [2, 2, 2])
    assert _names(splits.open_splits(config).evaluation) == evaluation
    config.seed = 7  # The division depends on the data, not on the seed.
    assert _names(splits.open_splits(config).evaluation) == evaluation


def test_search_takes_the_smallest_hashes(kit):
    config = _config(kit, "masks", 3, early_stopping__mode="search", early_stopping__holdout=0.26)
    opened = splits.open_splits(config)
    assert len(opened.evaluation) == 5  # 5.2
    assert opened.evaluation.hashes().max() < opened.training.hashes().min()
    assert (np.diff(opened.evaluation.hashes()) > 0).all()


def test_search_needs_two_photos_and_a_share(folder):
    config = _config(folder, "folders", 3, data__per_class=1, early_stopping__mode="search")
    with pytest.raises(DataError, match="leaves nothing to train on of 1 photos, train/n00"):
        splits.open_splits(config)
    config.early_stopping.holdout = 1.0
    with pytest.raises(ConfigError, match=r"early_stopping\.holdout=1\.0 must lie between"):
        splits.open_splits(config)


def test_digest_changes_with_labels_masks_and_choice(kit, folder, tmp_path):
    def digest(config):
        opened = splits.open_splits(config)
        again = pickle.loads(pickle.dumps(opened))
        assert again.training.digest() == opened.training.digest()
        return opened.training.digest()

    seen = [digest(_config(kit, "masks", 3)), digest(_config(kit, "lists", 2))]
    assert digest(_config(kit, "masks", 3)) == seen[0]
    seen.append(digest(_config(kit, "masks", 3, early_stopping__mode="search")))
    path = kit / "ImageSets/Main/bicycle_train.txt"
    path.write_text(path.read_text().replace(" 0\n", " 1\n", 1))
    seen.append(digest(_config(kit, "lists", 2)))
    (tmp_path / "aug").mkdir()
    mask = kit / "SegmentationClass/2007_000004.png"
    mask.rename(tmp_path / "aug" / mask.name)
    seen.append(digest(_config(kit, "masks", 3, data__sbd=str(tmp_path / "aug"))))
    seen.append(digest(_config(folder, "folders", 3)))
    seen.append(digest(_config(folder, "folders", 3, data__per_class=4)))
    for name in ("n01_1", "n01_2"):  # Other classes have the same names.
        (folder / f"train/n01/{name}.JPEG").rename(folder / f"train/n00/{name}.JPEG")
    seen.append(digest(_config(folder, "folders", 3)))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("labels", "classes", "settings", "message"),
    [
        ("folders", 1000, {}, r"classes=1000, but .*set has 3 classes: add .*task\.classes=3"),
        ("lists", 20, {}, r"classes=20, but .*kit has 2 classes: add --config\.task\.classes=2"),
        ("masks", 1, {}, "classes=1: say how many classes the masks have"),
        ("masks", 256, {}, "classes=256: say"),
        ("masks", 3, {"data__split": ""}, r"data\.split is empty: name the list"),
        ("lists", 2, {"data__eval_split": ""}, r"data\.eval_split is empty: name the list"),
        ("folders", 3, {"data__split": ""}, r"eval_split=val, but config\.data\.split is empty"),
        ("folders", 3, {"data__eval_split": ""}, r"config\.data\.eval_split is empty"),
    ],
)
def test_settings_that_do_not_fit(kit, folder, labels, classes, settings, message):
    path = folder if labels == "folders" else kit
    with pytest.raises(ConfigError, match=message):
        splits.open_splits(_config(path, labels, classes, **settings))


@pytest.mark.parametrize(("labels", "number"), [("masks", 3), ("lists", 2), ("folders", 3)])
def test_the_number_of_classes_is_taken_from_the_data(kit, folder, labels, number):
    config = _config(folder if labels == "folders" else kit, labels, 0)
    opened = splits.open_splits(config)
    assert splits.ask_classes(config, opened) == [
        f"config.task.classes={number}, as in {config.data.source}"
    ]
    assert config.task.classes == len(opened.classes) == number
    assert splits.ask_classes(config, opened) == []
    if labels == "masks":
        assert opened.training.classes == number


def test_the_classes_of_masks_are_named_or_counted(kit):
    def number():
        return len(splits.open_splits(_config(kit, "masks", 0)).classes)

    rare = kit / "SegmentationClass/2008_000009.png"  # Only val has it.
    rare.write_bytes(masks.encode_mask(np.full((48, 64), 7, np.uint8)))
    assert number() == 8
    (kit / "SegmentationClass/2007_000003.png").write_bytes(b"damaged")
    assert number() == 8
    main = kit / "ImageSets/Main"
    for name in voc.OBJECTS:
        (main / f"{name}_train.txt").touch()
    assert number() == 21
    (kit / "classes.txt").write_text("road\nsky\n")
    assert number() == 2


def test_masks_of_one_class_and_void_have_two_classes(kit):
    for path in (kit / "SegmentationClass").iterdir():
        mask = np.zeros((48, 64), np.uint8)
        mask[:9] = masks.VOID
        path.write_bytes(masks.encode_mask(mask))
    assert splits.open_splits(_config(kit, "masks", 0)).classes == ("class 0", "class 1")


def test_without_sbd_a_recipe_for_it_trains_on_the_list_train(kit, tmp_path):
    config = _config(kit, "masks", 3, data__split="train_aug")
    (line,) = splits.fall_back(config)
    assert config.data.split == "train" and "has no list train_aug" in line and str(kit) in line
    assert splits.fall_back(config) == []
    assert len(splits.open_splits(config).training) == 20
    for settings in ({"data__sbd": str(tmp_path)}, {"data__split": "trainval"}):
        other = _config(kit, "masks", 3, **{"data__split": "train_aug"} | settings)
        before = other.data.split
        assert splits.fall_back(other) == [] and other.data.split == before
    (kit / "ImageSets/Segmentation/train_aug.txt").write_text("2007_000001\n")
    config.data.split = "train_aug"
    assert splits.fall_back(config) == []
    assert _names(splits.open_splits(config).training) == ["JPEGImages/2007_000001.jpg"]


def test_another_folder_of_the_same_classes_is_taken_whole_with_the_labels_that_were_learned(
    folder,
):
    config = tiny.config(data__source=str(folder / "val"), data__labels="folders", task__classes=3)
    learned = ("a", "n00", "n01", "n02")
    opened = splits.open_whole(config, learned)
    assert opened.classes == learned and len(opened.evaluation) == 15
    for i in range(15):
        name = opened.evaluation.name(i)
        assert learned[opened.evaluation[i].labels] == name.partition("/")[0]
    with pytest.raises(DataError, match="1 classes that the network does not know, such as 'n02'"):
        splits.open_whole(config, learned[:3])
    with pytest.raises(ConfigError, match=r"classes=4, but .* has 3 classes"):
        config.task.classes = 4
        splits.open_whole(config)


def test_splits_of_other_classes(folder, kit):
    for name in ("n01", "n02"):
        (folder / "val" / name).rename(folder / "val" / f"{name}x")
    with pytest.raises(DataError, match="'val' lacks 2 of the classes of 'train': n01, n02$"):
        splits.open_splits(_config(folder, "folders", 3))
    for name in ("n01", "n02"):
        (folder / "train" / name).rename(folder / "train" / f"{name}x")
        (folder / "val" / f"{name}y").mkdir()
        (folder / f"val/{name}x/{name}_0.JPEG").rename(folder / f"val/{name}y/{name}_0.JPEG")
    with pytest.raises(DataError, match="'train' lacks 2 of the classes of 'val': n01y, n02y$"):
        splits.open_splits(_config(folder, "folders", 3))
    (kit / "ImageSets/Main/bicycle_val.txt").unlink()
    with pytest.raises(DataError, match="'val' lacks 1 of the classes of 'train': bicycle"):
        splits.open_splits(_config(kit, "lists", 2))
