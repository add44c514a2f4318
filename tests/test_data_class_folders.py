"""Class folders: the classes of photos in folders, archives and TFDS."""

import tarfile

import labelled
import numpy as np
import pytest

from colorize_jax import extract
from colorize_jax.data.class_folders import ClassFolders, class_of, some_of_every_class
from colorize_jax.data.records import Tfds
from colorize_jax.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, rng):
    labelled.write_class_folders(tmp_path / "set", rng)
    return tmp_path / "set"


def _found(spec, split):
    """{name: class} of a split."""
    photos, classes = ClassFolders(str(spec)).split(split)
    assert photos.labels.dtype == np.int32
    return {photos.name(i): classes[photos[i].labels] for i in range(len(photos))}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_class_is_the_folder_below_the_split(folder, tmp_path, kind):
    prefix = "tiny_imagenet/" if kind == "zip" else ""
    path = labelled.zipped(folder, tmp_path / "a.zip", prefix) if prefix else folder
    expected = {f"{prefix}train/n0{c}/n0{c}_{i}.JPEG": f"n0{c}" for c in range(3) for i in range(6)}
    assert _found(path, "train") == expected
    assert len(_found(path, "val")) == 9
    photos, classes = ClassFolders(str(path)).split("val")
    assert classes == ("n00", "n01", "n02")
    data = (folder / photos.name(4).removeprefix(prefix)).read_bytes()
    assert photos[4].image == data and photos[4].labels.shape == ()


def test_split_is_found_at_any_depth_and_only_as_a_whole_name(folder, tmp_path):
    (folder / "train").rename(folder / "my train")
    with pytest.raises(DataError, match="no photo.*folder 'train'"):
        ClassFolders(str(folder)).split("train")
    (folder / "images").mkdir()
    (folder / "my train").rename(folder / "images" / "train")
    found = _found(folder, "images/train")
    assert found == _found(folder, "train") and len(found) == 18


def test_a_class_may_be_called_as_the_split_is():
    names = [
        "x/train/cat/1.jpg",
        "x/val/train/2.jpg",
        "x/val/train/deep/3.jpg",
        "x/train/train/4.jpg",
    ]
    assert class_of(names, "train") == {0: "cat", 3: "train"}
    assert class_of(names, "val") == {1: "train", 2: "train"}


def test_shards_are_no_classes(folder, tmp_path):
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as shard:
            shard.add(folder / "train", "")
    _, classes = ClassFolders(f"{tmp_path}/a.tar,{tmp_path}/b.tar").split("")
    assert classes == ClassFolders(str(folder / "train")).split("")[1]


def test_folders_below_the_class_belong_to_it(folder):
    (folder / "train/n01/images").mkdir()
    photo = folder / "train/n01/n01_3.JPEG"
    photo.rename(folder / "train/n01/images/3.JPEG")  # This is the layout of Tiny ImageNet.
    assert _found(folder, "train")["train/n01/images/3.JPEG"] == "n01"


def test_without_a_split_the_first_folder_that_is_not_common_is_the_class(folder, tmp_path):
    assert set(_found(folder, "").values()) == {"train", "val"}
    assert set(_found(folder / "train", "").values()) == {"n00", "n01", "n02"}
    archive = labelled.zipped(folder / "train", tmp_path / "a.zip", "deep/down/")
    assert set(_found(archive, "").values()) == {"n00", "n01", "n02"}


def test_sources_are_joined_by_the_names_of_their_classes(folder, tmp_path, rng):
    labelled.write_class_folders(tmp_path / "more", rng, classes=4, per_class=2)
    (tmp_path / "more/train/n00").rename(tmp_path / "more/train/a first one")
    photos, classes = ClassFolders(f"{folder},{tmp_path / 'more'}").split("train")
    assert classes == ("a first one", "n00", "n01", "n02", "n03")
    np.testing.assert_array_equal(np.bincount(photos.labels), [2, 6, 8, 8, 2])
    for i in range(len(photos)):
        assert photos.name(i).split("/")[1] == classes[photos[i].labels]
    with pytest.raises(ConfigError, match="cannot be weighted"):
        ClassFolders(f"{folder}@1,{tmp_path / 'more'}@2")


def test_photo_beside_the_folders_of_the_classes(folder):
    (folder / "train/n01/n01_3.JPEG").rename(folder / "train/stray.JPEG")
    for path, split, where in (
        (folder, "train", "in the folder 'train'"),
        (folder / "train", "", "beside the folders of the classes"),
    ):
        with pytest.raises(DataError, match=f"stray.JPEG in .* lies directly {where}"):
            ClassFolders(str(path)).split(split)
    with pytest.raises(DataError, match="beside the folders"):
        ClassFolders(str(folder / "train/n00")).split("")


def test_exactly_k_of_every_class_and_fewer_are_a_part_of_more(folder):
    photos, classes = ClassFolders(str(folder)).split("train")

    def names(k, seed=0):
        chosen = some_of_every_class(photos, classes, k, seed)
        np.testing.assert_array_equal(np.bincount(chosen.labels), [k] * 3)
        return {chosen.name(i) for i in range(len(chosen))}

    assert names(1) < names(3) < names(5) < names(6)
    assert names(3) == names(3) and any(names(3) != names(3, seed) for seed in (1, 2))
    with pytest.raises(DataError, match=r"per_class=7, but class 'n00' has 6 photos"):
        names(7)


def test_choice_does_not_depend_on_other_classes(folder):
    few = some_of_every_class(*ClassFolders(str(folder)).split("train"), 2, 5)
    before = {few.name(i) for i in range(6) if few.labels[i] == 2}
    for i in range(6):
        (folder / f"train/n00/n00_{i}.JPEG").rename(folder / f"train/n00/other{i}.JPEG")
    few = some_of_every_class(*ClassFolders(str(folder)).split("train"), 2, 5)
    assert {few.name(i) for i in range(6) if few.labels[i] == 2} == before


@pytest.fixture
def data_set(tmp_path, folder, monkeypatch):
    """A TFDS data set with classes, prepared without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyClasses(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names=["n02", "n00", "n01"]),
                    "other": tfds.features.Scalar(np.int64),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in ("train", "val")}

        def _generate_examples(self, split):
            for path in sorted((folder / split).rglob("*.JPEG")):
                yield path.name, {"image": str(path), "label": path.parent.name, "other": 1}

    builder = TinyClasses(data_dir=tmp_path / "tfds")
    builder.download_and_prepare(file_format="array_record")
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    return folder


@pytest.mark.filterwarnings("ignore")  # TFDS itself warns.
def test_classes_of_a_tfds_data_set(data_set, monkeypatch):
    images = {path.read_bytes(): path.parent.name for path in data_set.rglob("train/*/*.JPEG")}
    for spec, split in (("tfds:tiny_classes", "train"), ("tfds:tiny_classes:train", "")):
        photos, classes = ClassFolders(spec).split(split)
        assert classes == ("n00", "n01", "n02") and len(photos) == 18
        for i in range(18):
            assert images[photos[i].image] == classes[photos[i].labels]
            assert photos.name(i) == f"tiny_classes:train#{i}"
    assert len(ClassFolders("tfds:tiny_classes").split("val")[0]) == 9
    found, (labels, names) = extract.open_photos("tfds:tiny_classes", "train", "folders")
    assert names == classes and labels.tolist() == photos.labels.tolist() and len(found) == 18
    with pytest.raises(ConfigError, match="names a split"):
        ClassFolders("tfds:tiny_classes:train").split("val")
    # They are read once; the second time they come from the cache.
    monkeypatch.setattr(Tfds, "_label", lambda self, number: 1 / 0)
    assert len(Tfds("tiny_classes:train").labels()) == 18
    source = Tfds("tiny_classes:train")
    monkeypatch.setattr(source, "_features", {"image": None})
    with pytest.raises(DataError, match="feature 'label'"):
        source.labels()
    read = Tfds.labels
    monkeypatch.setattr(Tfds, "labels", lambda self: read(source))
    unlabelled, labels = extract.open_photos("tfds:tiny_classes:train", "", "folders")
    assert len(unlabelled) == 18 and labels is None


def test_classes_that_look_the_same_are_the_same():
    folders = ("train/Caf\u00e9", "./train/Cafe\u0301", "train/Tee")
    names = [f"{folder}/1.jpg" for folder in folders]
    for split in ("", "train"):
        assert list(class_of(names, split).values()) == ["Caf\u00e9", "Caf\u00e9", "Tee"]
    names = ["M\u00fcll/x/1.jpg", "Mu\u0308ll/y/2.jpg"]
    for split in ("M\u00fcll", "Mu\u0308ll"):
        assert list(class_of(names, split).values()) == ["x", "y"]


def test_hidden_folders_of_packed_photos_are_no_classes():
    names = ["cat/1.jpg", ".ipynb_checkpoints/1.jpg", "dog/@eaDir/1.jpg", "dog/1.jpg"]
    assert class_of(names, "") == {0: "cat", 3: "dog"}
