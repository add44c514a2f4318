"""Zip, tar, ArrayRecord and TFDS give the same photos as a folder."""

import io
import os
import pathlib
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import tiny

from colorize_jax.data import records, sources
from colorize_jax.data.archives import Tar, Zip
from colorize_jax.data.folder import Folder
from colorize_jax.data.names import Names
from colorize_jax.data.records import ArrayRecords, Tfds
from colorize_jax.errors import DataError


@pytest.fixture
def folder(tmp_path, rng):
    tiny.write_photos(tmp_path / "photos", 5, rng)
    return Folder(str(tmp_path / "photos"))


def _images(source):
    return [source[i].image for i in range(len(source.names))]


def _copies(source):
    return (source, pickle.loads(pickle.dumps(source)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path, folder, compression):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", compression) as archive:
        archive.writestr("readme.txt", "")
        archive.writestr("__MACOSX/._photo.jpg", "")
        for i, name in enumerate(folder.names):
            archive.writestr(name, folder[i].image)
    for source in _copies(Zip(str(tmp_path / "photos.zip"))):
        assert list(source.names) == list(folder.names)
        assert _images(source) == _images(folder)


def test_folder_in_a_zip(tmp_path, folder):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for place in ("set/train", "set/val", "set/training"):
            archive.writestr(f"{place}/a.png", folder[0].image)
        archive.writestr("set/train/dogs/b.png", folder[1].image)
    for inside in ("set/train", "set/train/"):
        for source in _copies(sources.open_source(f"{path}/{inside}")):
            assert list(source.names) == ["a.png", "dogs/b.png"]
            assert _images(source) == [folder[0].image, folder[1].image]
    with pytest.raises(DataError, match=r"no photo in .*photos.zip/set/test"):
        sources.open_source(f"{path}/set/test")


def test_zip_of_a_devkit(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "kit.zip", "w") as archive:
        for place in ("VOC2012/JPEGImages", "VOC2012/SegmentationClass", "SegmentationClass"):
            archive.writestr(f"{place}/a.png", folder[0].image)
    names = list(Zip(str(tmp_path / "kit.zip")).names)
    assert names == ["SegmentationClass/a.png", "VOC2012/JPEGImages/a.png"]


def test_damaged_member_of_a_zip_is_an_error_of_that_photo_alone(tmp_path, folder):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(folder.names):
            archive.writestr(name, folder[i].image)
    data = bytearray(path.read_bytes())
    at = bytes(data).index(folder[1].image) + 100
    data[at] ^= 255
    path.write_bytes(data)
    source = Zip(str(path))
    with pytest.raises(DataError, match="damaged in the archive"):
        source[1]
    assert source[2].image == folder[2].image


def test_tar_shards(tmp_path, folder):
    halves = (range(3), range(3, 5))
    for number, half in enumerate(halves):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            archive.add(__file__, "notes.txt")
            for i in half:
                archive.add(tmp_path / "photos" / folder.names[i], f"key{i}.jpg")
    paths = [str(tmp_path / f"{number}.tar") for number in range(2)]
    for source in (*_copies(Tar(paths)), Tar(paths)):  # The last one is read from the index.
        assert list(source.names)[2:4] == ["0.tar/key2.jpg", "1.tar/key3.jpg"]
        assert _images(source) == _images(folder)
    with tarfile.open(paths[1], "w") as archive:
        archive.add(tmp_path / "photos" / folder.names[0], "other.jpg")
    assert list(Tar(paths).names)[3:] == ["1.tar/other.jpg"]


def test_tar_that_was_cut_off(tmp_path, folder):
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as archive:
        for i, name in enumerate(folder.names):
            archive.add(tmp_path / "photos" / name, f"{i}.jpg")
    source = Tar([str(path)])
    os.truncate(path, 700)
    with pytest.raises(DataError, match="ends before"):
        source[0]


def test_compressed_tar_is_refused_with_the_reason(tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w:gz") as archive:
        archive.add(__file__, "x.jpg")
    with pytest.raises(DataError, match="unpack them first"):
        Tar([str(tmp_path / "photos.tar")])


def _write(path, data):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in data:
        writer.write(record)
    writer.close()


def test_array_records_of_bare_photos_are_named_by_their_number(tmp_path, folder):
    images = _images(folder)
    _write(tmp_path / "a.array_record", images[:2])
    _write(tmp_path / "b.array_record", images[2:])
    paths = [str(tmp_path / f"{name}.array_record") for name in "ab"]
    for source in _copies(ArrayRecords(paths)):
        assert _images(source) == images
        assert source.names[1] == "a.array_record#1" and source.names[2] == "b.array_record#0"


def test_array_records_keep_the_names_of_packed_photos(tmp_path, folder):
    shard = tmp_path / "p.array_record"
    encoded = [folder.names.encoded(i) for i in range(5)]
    data = zip(encoded, _images(folder), strict=True)
    _write(shard, [records.encode_record(name, image) for name, image in data])
    records.save_names(str(shard), Names.of(encoded))
    source = ArrayRecords([str(shard)])
    assert list(source.names) == list(folder.names) and _images(source) == _images(folder)
    records.save_names(str(shard), Names.of(encoded[:3]))
    with pytest.raises(DataError, match="lists 3 photos.*holds 5"):
        ArrayRecords([str(shard)])


def test_file_that_is_no_array_record(tmp_path):
    (tmp_path / "x.array_record").write_text("no")
    with pytest.raises(DataError, match="ArrayRecord"):
        ArrayRecords([str(tmp_path / "x.array_record")])


def test_names_in_two_arrays():
    names = Names.of([b"a", b"", "ü".encode(), b"\xff"])
    assert len(names) == 4 and names[2] == "ü" and names[-1] == "\udcff" and names[1] == ""
    assert list(names) == [names[i] for i in range(4)]
    with pytest.raises(IndexError):
        names[4]
    hashes = names.hashes()
    np.testing.assert_array_equal(hashes[2:], Names.of(["ü".encode(), b"\xff"]).hashes())
    many = Names.of(b"%d" % i for i in range(20000)).hashes()
    assert abs((many < 0.1).mean() - 0.1) < 0.01


@pytest.fixture
def data_set(tmp_path, folder, monkeypatch):
    """A TFDS data set of encoded photos, prepared without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    images = _images(folder)

    class TinyPhotos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(len(images)):
                yield i, {"image": str(tmp_path / "photos" / folder.names[i])}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    builder = TinyPhotos(data_dir=tmp_path / "tfds")
    builder.download_and_prepare(file_format="array_record")
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    return images


@pytest.mark.filterwarnings("ignore")  # TFDS itself warns.
def test_tfds_gives_encoded_bytes_without_tensorflow(data_set):
    import sys

    for source in _copies(Tfds("tiny_photos:train")):
        assert sorted(_images(source)) == sorted(data_set)
        assert source.names[3] == "tiny_photos:train#3"
    assert len(Tfds("tiny_photos:train[:2]").names) == 2
    assert "tensorflow" not in sys.modules


def test_tfds_data_set_that_is_not_there():
    with pytest.raises(DataError, match="tfds:no_such_data_set.*download_and_prepare"):
        Tfds("no_such_data_set")


def test_damaged_names_of_a_shard_are_an_error(tmp_path):
    shard = str(tmp_path / "photos.array_record")
    records.save_names(shard, Names.of([b"a", b"bc"]))
    path = pathlib.Path(records.names_file(shard))
    whole, foreign = path.read_bytes(), io.BytesIO()
    np.savez(foreign, blob=np.zeros(3, np.uint8), ends=np.array([5, 3]))
    assert list(records._names(shard, 2)) == ["a", "bc"]
    for damage in (b"", b"nonsense", whole[:50], whole[:-60], foreign.getvalue()):
        path.write_bytes(damage)
        with pytest.raises(DataError, match="names is damaged"):
            records._names(shard, 2)
