"""CIFAR-10, SVHN and Oxford Flowers in the layouts that they are published in."""

import os
import pickle
import shutil
import struct
import zlib

import numpy as np
import published as tiny_sets
import pytest
import scipy.io
import tiny

from colorize_jax.data import decode, plain_pickle, published, sources, splits
from colorize_jax.data.class_folders import ClassFolders
from colorize_jax.errors import ColorizeError, DataError

CIFAR = published._CIFAR_CLASSES


def _read(photos, classes):
    """[(class, pixels)] of all photos of a split."""
    records = (photos[i] for i in range(len(photos)))
    return [(classes[record.labels], decode.decode(record.image)) for record in records]


def test_batches_of_cifar_as_python_2_wrote_them(tmp_path, rng):
    written = tiny_sets.write_cifar(tmp_path / "set", rng)
    # Python's own unpickler reads the same of what the tests write.
    path = tmp_path / "set/data_batch_1"
    whole = pickle.loads(path.read_bytes(), encoding="bytes")
    np.testing.assert_array_equal(
        whole[b"data"].reshape(-1, 3, 32, 32), written["data_batch_1"][0].transpose(0, 3, 1, 2)
    )
    folders = ClassFolders(str(tmp_path / "set"))
    photos, classes = folders.split("train")
    assert len(photos) == 50 and classes == CIFAR
    assert photos.name(11).split("/")[0] == "train" and "data_batch_2-00001" in photos.name(11)
    expected = [written[f"data_batch_{i}"] for i in range(1, 6)]
    found = _read(photos, classes)
    assert [name for name, _ in found] == [CIFAR[i] for _, labels in expected for i in labels]
    np.testing.assert_array_equal([p for _, p in found], np.concatenate([p for p, _ in expected]))
    test, _ = folders.split("test")
    np.testing.assert_array_equal([p for _, p in _read(test, classes)], written["test_batch"][0])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_batches_that_python_3_wrote(tmp_path, rng, protocol):
    labels = rng.permutation(10)
    pixels = tiny_sets.photos(rng, labels)
    data = pixels.transpose(0, 3, 1, 2).reshape(10, -1).copy()
    content = {b"data": data, "labels": labels.tolist(), "note": [1.5, None, True, (1, 2, 3, "é")]}
    (tmp_path / "some").write_bytes(pickle.dumps(content, protocol))
    photos, classes = ClassFolders(str(tmp_path / "some")).split("")
    assert classes == CIFAR and photos.name(0) == f"some/{CIFAR[labels[0]]}/some-00000"
    np.testing.assert_array_equal([p for _, p in _read(photos, classes)], pixels)


def test_single_files_leave_the_test_photos_out(tmp_path, rng):
    tiny_sets.write_cifar(tmp_path / "set", rng)
    photos = sources.open_all(f"{tmp_path}/set/data_batch_*")
    assert len(photos) == 50 and all(photos.name(i).startswith("train/") for i in range(50))
    training, held_out = sources.open_splits(f"{tmp_path}/set", 0.2)
    assert len(training) + len(held_out) == 60


def test_digits_of_svhn(tmp_path, rng):
    written = tiny_sets.write_svhn(tmp_path / "set", rng)
    folders = ClassFolders(str(tmp_path / "set"))
    for split, (pixels, digits) in written.items():
        photos, classes = folders.split(split)
        assert classes == tuple("0123456789")
        found = _read(photos, classes)
        assert [int(name) for name, _ in found] == digits.tolist()
        np.testing.assert_array_equal([p for _, p in found], pixels)
    photos, classes = ClassFolders(f"{tmp_path}/set/test_32x32.mat").split("")
    assert len(classes) == 10 and photos.name(0).startswith("test/")


def test_flowers_in_their_official_splits(tmp_path, rng):
    labels = tiny_sets.write_flowers(tmp_path / "set", rng)
    folders = ClassFolders(str(tmp_path / "set"))
    sizes = {split: len(folders.split(split)[0]) for split in ("train", "val", "test")}
    assert sizes == {"train": 3, "val": 3, "test": 6}
    photos, classes = folders.split("test")
    assert classes == ("001", "002", "003")
    for i in range(6):
        number = int(photos.name(i)[-9:-4])
        assert classes[photos.labels[i]] == f"{labels[number - 1]:03}"
        file = tmp_path / f"set/jpg/image_{number:05}.jpg"
        assert photos[i].image == file.read_bytes()
    assert len(sources.open_all(str(tmp_path / "set/jpg"))) == 12


def test_a_run_opens_them_by_split(tmp_path, rng):
    tiny_sets.write_svhn(tmp_path / "set", rng)
    config = tiny.config(
        data__source=str(tmp_path / "set"), data__labels="folders", data__split="train",
        data__eval_split="test", data__per_class=1, task__classes=10,
    )  # fmt: skip
    opened = splits.open_splits(config)
    assert [len(opened.training), len(opened.evaluation)] == [10, 20]
    again = pickle.loads(pickle.dumps(opened.training))  # for worker processes
    np.testing.assert_array_equal(again[3].image, opened.training[3].image)


def test_splits_are_no_classes(tmp_path, rng):
    tiny_sets.write_cifar(tmp_path / "set", rng)
    with pytest.raises(DataError, match="set has the splits test, train: name one"):
        ClassFolders(str(tmp_path / "set")).split("")
    assert len(ClassFolders(f"{tmp_path}/set/data_batch_*").split("")[1]) == 10


def test_a_file_that_changes_is_told(tmp_path, rng):
    tiny_sets.write_svhn(tmp_path / "set", rng)
    source = sources.open_source(str(tmp_path / "set/test_32x32.mat"))
    again = pickle.loads(pickle.dumps(source))
    tiny_sets.write_svhn(tmp_path / "other", rng, count=30)
    shutil.copy(tmp_path / "other/test_32x32.mat", tmp_path / "set")
    with pytest.raises(DataError, match="has changed since it was opened"):
        again[0]


class _Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/colorize_jax_was_here",)


def _pickled(**changes):
    content = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]} | changes
    return pickle.dumps({k: v for k, v in content.items() if v is not None}, 4)


LAYOUT = "is a pickle, but no batch of CIFAR-10, which has `data`"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_pickled(labels=None, fine_labels=[0, 1]), LAYOUT),  # CIFAR-100
        (_pickled(labels=[0, 10]), LAYOUT),
        (_pickled(labels=[0, 1, 2]), LAYOUT),
        (_pickled(labels=["a", "b"]), LAYOUT),
        (_pickled(data=np.zeros((2, 3072))), LAYOUT),
        (_pickled(data=np.zeros((2, 3071), np.uint8)), LAYOUT),
        (_pickled(data=np.zeros((2, 3072), np.uint8, order="F")), LAYOUT),
        (_pickled(data=b"x"), LAYOUT),
        (_pickled(labels=[]), LAYOUT),
        (pickle.dumps([1, 2], 2), LAYOUT),
        (_pickled(more=_Evil()), "it asks for posix.system, which is no plain value"),
        (_pickled(data=np.array(["a", 3], object)), LAYOUT),
        (_pickled()[:-40], "it is no whole pickle"),
        (b"\x80\x04\x95", "it is no whole pickle"),
        (b"\x80\x04.", "it is no whole pickle"),
        (b"\x80\x02(K\x01K\x02", "it is no whole pickle"),
        (b"\x80\x02]K\x01s.", "it is no whole pickle"),
        (b"\x80\x02}(]]u.", "it is no whole pickle"),  # a list as a key
        (b"\x80\x02e.", "it is no whole pickle"),
        (b"\x80\x02h\x07.", "it is no whole pickle"),  # nothing was kept there
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "it is no whole pickle"),
        (b"\x80\x04r\xff\xff\xff\xff.", "it is no whole pickle"),  # a large place in the memo
        (b"\x80\x02\x82\x07.", "it asks for the instruction EXT1"),
        (b"\x80\x02cbuiltins\nexec\n.", "it asks for builtins.exec"),
        (b"\x80\x02(U\x02lsios\nsystem\n.", "it asks for the instruction INST"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "it asks for the instruction NEWOBJ"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "it asks for a call of ndarray"),
        (b"\x80" + bytes(range(256)), "it is no whole pickle"),
    ],
)
def test_pickles_that_are_no_batches_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} .*{message}"):
        sources.open_source(str(path))
    assert not os.path.exists("/tmp/colorize_jax_was_here")


def test_instructions_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(plain_pickle, "_MOST", 100)
    with pytest.raises(DataError, match="more than 100 instructions"):
        plain_pickle.load(b"\x80\x02" + b"N" * 200 + b".")


def test_a_nest_of_tuples_takes_no_time():
    nested = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"."  # two of the one before, sixty times
    found = plain_pickle.load(nested.replace(b")", b"K\x01", 1))
    assert isinstance(found, tuple)
    with pytest.raises(DataError, match="a tuple in the place of a str"):
        plain_pickle.load(b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"Ns.")


def _svhn(**changes):
    return {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.array([[1], [2], [10], [9]])} | changes


@pytest.mark.parametrize(
    "content",
    [
        {"Z": np.zeros(3)},
        _svhn(X=np.zeros((32, 32, 3, 4))),
        _svhn(X=np.zeros((4, 32, 32, 3), np.uint8)),
        _svhn(y=np.array([[0], [1], [2], [3]])),
        _svhn(y=np.array([[11], [1], [2], [3]])),
        _svhn(y=np.array([[1], [2], [3]])),
        _svhn(y=np.array([[1.5], [1], [2], [3]])),
        _svhn(y=np.array([[np.nan], [1], [2], [np.inf]])),
        _svhn(y=np.array(["a", "b"], object)),
        _svhn(y={"deep": {"er": 1}}),
    ],
)
def test_matlab_files_of_another_layout_are_refused_by_name(tmp_path, content):
    path = tmp_path / "train_32x32.mat"
    scipy.io.savemat(path, content)
    with pytest.raises(DataError, match=f"{path} (does not hold SVHN's|is of another layout)"):
        sources.open_source(str(path))


def _damage(kind, data):
    if kind == "short":
        return data[: len(data) // 2]
    if kind == "head":
        return data[:60]
    if kind == "noise":
        return data[:128] + np.random.default_rng(0).bytes(len(data))
    body = struct.pack("<IIIIII", 6, 8, 6, 0, 5, 16)  # a header that claims much
    body += struct.pack("<4i", 32, 32, 3, 2**18) + struct.pack("<HH", 1, 1) + b"X\0\0\0"
    body += struct.pack("<II", 2, 32 * 32 * 3 * 2**18) + bytes(8)
    element = zlib.compress(struct.pack("<II", 14, len(body)) + body)
    return data[:128] + struct.pack("<II", 15, len(element)) + element


@pytest.mark.parametrize("kind", ["short", "head", "noise", "claim"])
@pytest.mark.parametrize("name", ["train_32x32.mat", "imagelabels.mat", "setid.mat"])
def test_damaged_matlab_files_are_sentences(tmp_path, rng, kind, name):
    if name.startswith("train"):
        tiny_sets.write_svhn(tmp_path / "set", rng)
    else:
        tiny_sets.write_flowers(tmp_path / "set", rng)
    path = tmp_path / "set" / name
    path.write_bytes(_damage(kind, path.read_bytes()))
    with pytest.raises(DataError, match=name):
        sources.open_source(str(tmp_path / "set"))


def test_bytes_that_are_changed_never_give_a_trace(tmp_path, rng):
    tiny_sets.write_cifar(tmp_path / "set", rng, per_batch=2)
    tiny_sets.write_svhn(tmp_path / "digits", rng, count=2)
    for path in (tmp_path / "set/data_batch_1", tmp_path / "digits/train_32x32.mat"):
        data = path.read_bytes()
        for place in rng.integers(0, 400, 40):
            changed = bytearray(data)
            changed[int(place)] = rng.integers(256)
            path.write_bytes(changed)
            try:
                source = sources.open_source(str(path))
                for i in range(len(source.names)):
                    source[i]
            except ColorizeError:
                pass


def test_what_is_missing_is_named(tmp_path, rng):
    tiny_sets.write_cifar(tmp_path / "set", rng)
    (tmp_path / "set/data_batch_3").unlink()
    with pytest.raises(DataError, match="holds files of CIFAR-10, but not data_batch_3: unpack"):
        sources.open_source(str(tmp_path / "set"))
    tiny_sets.write_flowers(tmp_path / "flowers", rng)
    (tmp_path / "flowers/jpg/image_00002.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 12 photos .* are not in .*: image_00002.jpg"):
        sources.open_source(str(tmp_path / "flowers"))
    shutil.rmtree(tmp_path / "flowers/jpg")
    with pytest.raises(DataError, match="12 of the 12 photos"):
        sources.open_source(str(tmp_path / "flowers"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": np.array([[1.0]])}, "photo 1 is in trnid and in valid"),
        ({"tstid": np.array([[99.0]])}, "tstid names photo 99, and .* has 12 labels"),
        ({"valid": np.array([[0.0]])}, "valid names photo 0, and"),
        ({"valid": "none"}, "of another layout: `valid` must be one row"),
    ],
)
def test_lists_of_flowers_are_checked(tmp_path, rng, changes, message):
    tiny_sets.write_flowers(tmp_path / "set", rng)
    path = tmp_path / "set/setid.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("_")}
    scipy.io.savemat(path, content | changes)
    with pytest.raises(DataError, match=f"setid.mat.*{message}"):
        sources.open_source(str(tmp_path / "set"))


def test_a_folder_in_the_place_of_a_file_is_a_sentence(tmp_path, rng):
    tiny_sets.write_cifar(tmp_path / "set", rng)
    (tmp_path / "set/test_batch").unlink()
    (tmp_path / "set/test_batch").mkdir()
    with pytest.raises(DataError, match="test_batch"):
        sources.open_source(str(tmp_path / "set"))
