"""Files of weights that declare more than they hold, link elsewhere, or are damaged."""

import argparse
import os
import pickle
import random
import sys
import zipfile
import zlib

import caffe_files
import h5py
import numpy as np
import pytest
from safetensors import numpy as safetensors

from colorize_jax.errors import WeightsError
from colorize_jax.weights import foreign

GIB = 1 << 30


def refusal(path, **how):
    """The message about a file that is refused."""
    with pytest.raises(WeightsError) as found:
        foreign.read(path, **how)
    said = str(found.value)
    assert str(path) in said and "\n" not in said
    return said


@pytest.fixture
def hdf5(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["data/conv1_1/0"] = np.ones((2, 1, 3, 3), np.float32)
    return path


def _huge(file):
    file.create_dataset("data/fc6/0", (GIB,), "f4")


def _never_written(file):
    file.create_dataset("data/fc6/0", (4, 4), "f4")


def _half_written(file):
    file.create_dataset("data/fc6/0", (8,), "f4", chunks=(4,))[:4] = 1


def _huge_chunks(file):
    blob = file.create_dataset(
        "data/fc6/0", (1,), "f4", maxshape=(None,), chunks=(GIB // 8,), compression="gzip"
    )
    blob.id.write_direct_chunk((0,), zlib.compress(b""))


def _bomb(file):
    blob = file.create_dataset("data/fc6/0", (16,), "f4", chunks=(16,), compression="gzip")
    blob.id.write_direct_chunk((0,), zlib.compress(b"\0" * 10_000))


def _other_compression(file):
    file.create_dataset("data/fc6/0", (16,), "f4", chunks=(16,), compression="lzf", data=[1] * 16)


def _text(file):
    file["data/fc6/0"] = "one"


def _in_itself(file):
    file["data/again"] = file["data"]


def _without_end(file):
    """Two paths in every group, so that thousands of paths lead to the last one."""
    below = file["data"]
    for _ in range(12):
        following = below.create_group("a")
        below["b"] = following
        below = following


def _deep(file):
    file.create_group("data" + "/a" * 2000)


HDF5 = {
    _huge: "declares 4,294,967,296 for fc6/0",
    _never_written: "does not hold all of fc6/0",
    _half_written: "does not hold all of fc6/0",
    _huge_chunks: "declares 536,870,912 for a chunk of fc6/0",
    _bomb: "a chunk of fc6/0 unpacks to too much",
    _other_compression: "not with gzip",
    _text: "fc6/0 holds no numbers",
    _in_itself: "same content",
    _without_end: "same content",
    _deep: "more than 16 groups",
}


@pytest.mark.parametrize("spoil", HDF5)
def test_hdf5_that_claims_more_than_it_holds_is_refused(spoil, hdf5):
    with h5py.File(hdf5, "a") as file:
        spoil(file)
    assert HDF5[spoil] in refusal(hdf5)


def test_compressed_hdf5_is_read(tmp_path, rng):
    path, array = tmp_path / "weights.h5", rng.normal(size=(30, 50))
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", data=array, chunks=(7, 9), compression="gzip", shuffle=True)
        file.create_dataset("data/b/0", data=array, chunks=(7, 9), fletcher32=True)
        file["data/c/0"] = np.ones((0, 3))
    found = foreign.read(path).arrays
    np.testing.assert_array_equal(found["a/0"], array)
    np.testing.assert_array_equal(found["b/0"], array)
    assert found["c/0"].shape == (0, 3)


@pytest.mark.parametrize("place", ["data", "colorize_jax", "data/conv9", "data/conv1_1/1"])
@pytest.mark.parametrize("kind", ["external", "soft", "pipe"])
def test_no_link_is_followed(place, kind, hdf5, tmp_path):
    target = tmp_path / "other.h5"
    if kind == "pipe":
        os.mkfifo(target)  # Opening it would wait forever.
    else:
        with h5py.File(target, "w") as file:
            file["secret/0"] = np.ones(3)
    with h5py.File(hdf5, "a") as file:
        if place in file:
            del file[place]
        soft = h5py.SoftLink("/data/conv1_1/0")
        file[place] = soft if kind == "soft" else h5py.ExternalLink(str(target), "/secret")
    assert f"has a link at {place.removeprefix('data/')}" in refusal(hdf5)


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_no_array_is_taken_out_of_another_file(kind, hdf5, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(hdf5, "a") as file:
        if kind == "external":
            file.create_dataset("data/b/0", (4,), "f4", external=[(str(tmp_path / "pipe"), 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4", maxshape=(None,))
            layout[:4] = h5py.VirtualSource(str(tmp_path / "pipe"), "x", (4,), maxshape=(None,))
            file.create_virtual_dataset("data/b/0", layout)
    assert "keeps b/0 in another file" in refusal(hdf5)


def test_pipe_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    assert "is no file" in refusal(tmp_path / "weights.pth")


@pytest.mark.parametrize("length", [1 << 40, 17 << 20, 200])
def test_safetensors_with_a_longer_header_than_sense_is_refused(length, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a": ')
    if length == 17 << 20:
        os.truncate(path, 20 << 20)  # It takes no space on the disk.
    assert f"{length:,} are declared as header" in refusal(path)


class _Touches:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def archive(path, pickled, **more):
    """A zip archive like those of torch.save."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in more.items():
            file.writestr(f"archive/{name}", content)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.h5", "weights.pth"])
def test_pickle_is_looked_through_before_it_is_read_whatever_it_is_called(
    name, zipped, protocol, tmp_path
):
    path = tmp_path / name
    harmless = {"lr": 0.1, "args": argparse.Namespace(lr=0.1)}
    pickled = pickle.dumps(harmless | {"model": _Touches(tmp_path / "touched")}, protocol)
    archive(path, pickled) if zipped else path.write_bytes(pickled)
    said = refusal(path)
    assert "argparse.Namespace, posix.mknod" in said and "nothing of it was run" in said
    assert os.listdir(tmp_path) == [name]


def test_file_of_another_format_than_wanted_is_not_opened(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(pickle.dumps({}))
    assert "is a PyTorch file, not HDF5" in refusal(path, formats=["HDF5"])


@pytest.mark.parametrize(
    "asked",
    ["builtins.bytearray", "torch.FloatTensor", "torch._utils._rebuild_meta_tensor_no_storage"],
)
def test_what_could_ask_for_any_memory_is_refused(asked, tmp_path):
    path = tmp_path / "weights.pth"
    module, _, name = asked.rpartition(".")
    # It is called with this number.
    size = b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R."
    archive(path, b"\x80\x02c" + f"{module}\n{name}\n".encode() + size)
    assert asked in refusal(path)


def _spreadsheet(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")


def _torchscript(path):
    archive(path, pickle.dumps({}, 2), **{"constants.pkl": pickle.dumps(())})


def _compressed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", b"\0" * 10**6)


def _wrong_number(path):
    archive(path, pickle.dumps({}, 2), **{"data/0": b"numbers"})
    path.write_bytes(path.read_bytes().replace(b"numbers", b"nunbers"))


ARCHIVES = {
    _spreadsheet: "none that torch.save wrote: it holds xl/workbook.xml",
    _torchscript: "a program of TorchScript",
    _compressed: "has compressed parts",
    _wrong_number: "the checksum of archive/data/0 does not hold",
}


@pytest.mark.parametrize("write", ARCHIVES)
def test_archives_that_are_no_state_dicts_are_refused(write, tmp_path):
    path = tmp_path / "weights.pth"
    write(path)
    assert ARCHIVES[write] in refusal(path)


def test_pickle_without_torch_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    archive(path, pickle.dumps({}, 2))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'colorize_jax[torch]'" in refusal(path)


def _write_safetensors(path, rng):
    arrays = {f"features.{i}.weight": rng.normal(size=(4, 3)).astype("f") for i in range(20)}
    safetensors.save_file(arrays, path, metadata={"format": "pt"})


def _write_hdf5(path, rng):
    caffe_files.write(path, caffe_files.vgg16(width=1 / 64, fc6=1, norm=True), rng)


def _write_torch(path, rng, **how):
    torch = pytest.importorskip("torch", reason="writes PyTorch's pickles")
    torch.save({"model": {f"conv{i}.weight": torch.ones(4, 3) for i in range(20)}}, path, **how)


def _write_old_torch(path, rng):
    _write_torch(path, rng, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [_write_safetensors, _write_hdf5, _write_torch, _write_old_torch])
def test_any_damage_ends_in_a_sentence(write, tmp_path, rng):
    path, dice = tmp_path / "weights", random.Random(0)
    write(path, rng)
    whole = path.read_bytes()
    refused = 0
    for i in range(60):
        damaged = bytearray(whole)
        place = dice.randrange(min(len(damaged), 6000))  # Names and shapes are there.
        if i % 4 == 0:
            del damaged[dice.randrange(len(damaged)) :]
        elif i % 4 == 1:
            damaged[place] ^= 1 << dice.randrange(8)
        elif i % 4 == 2:
            damaged[place : place + 8] = b"\xff" * 8
        else:
            del damaged[place : place + dice.randrange(1, 30)]
        path.write_bytes(damaged)
        try:
            foreign.read(path)
        except WeightsError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 15


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reads PyTorch's pickles")


def test_few_numbers_that_are_repeated_without_end_are_refused(tmp_path, torch):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1).expand(GIB)}, path)
    assert "declares 4,294,967,296 for a" in refusal(path)
    torch.save({"a": torch.zeros(1).expand(5)}, path)
    np.testing.assert_array_equal(foreign.read(path).arrays["a"], np.zeros(5))


def test_tensors_without_numbers_are_refused(tmp_path, torch):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3, device="meta")}, path)
    assert "tensors without numbers (of the device meta)" in refusal(path)
    torch.save({"a": torch.eye(2).to_sparse()}, path)
    assert "sparse" in refusal(path)


def test_dictionary_in_itself_is_refused(tmp_path, torch):
    path, state = tmp_path / "weights.pth", {"a": torch.ones(2)}
    state["again"] = [state]
    torch.save(state, path)
    assert "in itself" in refusal(path)


def test_array_beyond_its_part_of_the_file_is_never_read(tmp_path, torch):
    """A pickle may declare more numbers than follow."""
    path, changed = tmp_path / "weights.pth", tmp_path / "changed.pth"
    torch.save({"a": torch.ones(200)}, path)
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(changed, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename.endswith("data.pkl"):
                few, many = b"K\xc8", b"J\xff\xff\xff\x7f"  # 200, 2,147,483,647
                assert few in content
                content = content.replace(few, many)
            after.writestr(entry, content)
    assert "damaged" in refusal(changed)
