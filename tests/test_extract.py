"""Features on disk: those of every photo's central crop, in the right order."""

import contextlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny

import colorize_jax
from colorize_jax import extract
from colorize_jax.data import decode, sources, transforms
from colorize_jax.errors import CheckpointError, ConfigError, DataError
from colorize_jax.features import feature_files, features
from colorize_jax.features.feature_files import Features
from colorize_jax.models import registry
from colorize_jax.training import same_run, saving
from colorize_jax.training.step import TrainState

LAYERS = ("conv2_1", "fc7")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a run that has saved its random start."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny.vgg()
    encoder = registry.make_encoder(config.model)
    variables = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    state = TrainState(
        step=jnp.int32(1),
        # Weights are doubled, so that some signal reaches the top.
        params={"encoder": jax.tree.map(lambda x: 2 * x, variables["params"])},
        collections={"batch_stats": {"encoder": variables["batch_stats"]}},
        opt_state=(),
        nonfinite=jnp.int32(0),
    )
    note = {"config": same_run.plain(config)}
    saving.write(folder / "checkpoints" / "1", state, note)
    return folder


@pytest.fixture
def photos(tmp_path, rng):
    """Six files in two classes below "train"; one is no photo, and one is in another folder."""
    tiny.write_photos(tmp_path / "photos" / "train", 6, rng)
    tiny.write_photos(tmp_path / "photos" / "test", 1, rng)
    (tmp_path / "photos" / "train" / "sub0" / "photo002.jpg").write_text("<html>")
    return sources.open_all(str(tmp_path / "photos"))


def _extract(workdir, photos, output, said=None, **changes):
    settings = {"layers": LAYERS, "shortest": 32, "crop": 32, "batch_size": 3} | changes
    extraction = extract.Extraction(**settings)
    say = print if said is None else said.append
    return extract.extract(str(workdir), photos, str(output), extraction, 2, say)


def _middle(photos, index, crop=32):
    pixels = decode.decode(photos[index].image)
    return transforms.cut(pixels, transforms.central_window(*pixels.shape[:2], crop))


def _cells(maps, values):
    """Means of the cells of a grid, one by one; it divides the map."""
    side = min(max(int((values / maps.shape[-1]) ** 0.5), 1), maps.shape[1])
    step = maps.shape[1] // side
    assert maps.shape[1] == side * step
    starts = range(0, maps.shape[1], step)
    rows = [[maps[:, y : y + step, x : x + step].mean((1, 2)) for x in starts] for y in starts]
    return np.stack([np.stack(row, 1) for row in rows], 1)


@pytest.mark.parametrize(
    ("shape", "cells"),
    [
        ((55, 55, 96), 10), ((27, 27, 256), 6), ((13, 13, 384), 5),  # AlexNet
        ((112, 112, 64), 12), ((56, 56, 256), 6), ((28, 28, 512), 4), ((14, 14, 1024), 3),
        ((7, 7, 2048), 2), ((1, 1, 4096), 1), ((1, 1, 20_000), 1), ((3, 2, 8), 2),
    ],
)  # fmt: skip
def test_grids_have_the_usual_sizes(shape, cells):
    assert features.grid(shape, features.VALUES) == cells


def test_features_are_activations_of_the_middle_pooled_over_positions(workdir, tmp_path, photos):
    names = [photos.name(i) for i in range(len(photos))]
    readable = [i for i, name in enumerate(names) if name != "train/sub0/photo002.jpg"]
    encoder, variables = colorize_jax.load_encoder(workdir)
    image = np.stack([_middle(photos, i) for i in readable])
    gray = colorize_jax.network_input(image)
    maps = jax.jit(encoder.apply, static_argnames="train")(variables, gray, train=False)
    for pool in features.POOLS:
        said = []
        assert _extract(workdir, photos, tmp_path / "x", said, pool=pool, values=16) == (6, 1)
        found = Features(str(tmp_path / "x"))
        assert found.layers == LAYERS and found.names == [names[i] for i in readable]
        assert said == ["left out: train/sub0/photo002.jpg: not an image"]
        for layer in LAYERS:
            expected = np.asarray(maps[layer])
            if pool == "grid":  # 16 values of 2 x 2 cells in conv2_1, of its 4 channels
                expected = _cells(expected, 16)
            elif pool != "none":
                expected = getattr(expected, pool)((1, 2))
            assert expected.std() > 1e-3 and found.layer(layer).dtype == np.float32
            np.testing.assert_allclose(
                found.layer(layer), expected, rtol=1e-3, atol=1e-4 * expected.max()
            )


def test_a_whole_photo_is_squeezed(rng):
    pixels = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
    pixels[:, :40], pixels[:, 40:] = 10, 200
    photos = [type("Record", (), {"image": pixels})]
    seen, reason = extract._read(photos, extract.Extraction(crop=16, squeeze=True), 0)
    assert reason == "" and seen.shape == (16, 16, 3)
    assert (seen[:, :6] == 10).all() and (seen[:, 10:] == 200).all()


def test_a_photo_is_scaled_to_the_shortest_side_and_cut_in_the_middle(rng):
    pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)

    class One:
        def __getitem__(self, index):
            return type("Record", (), {"image": pixels})

    view = extract.Extraction(shortest=40, crop=32)
    np.testing.assert_array_equal(extract._read(One(), view, 0)[0], pixels[4:36, 12:44])
    smaller = extract.Extraction(shortest=20, crop=16)
    expected = Image.fromarray(pixels).reduce(2).crop((6, 2, 22, 18))
    np.testing.assert_allclose(extract._read(One(), smaller, 0)[0], expected, atol=1)


def test_labels_are_the_folders_below_the_split(workdir, tmp_path, photos):
    assert _extract(workdir, photos, tmp_path / "x", split="train") == (5, 1)
    found = Features(str(tmp_path / "x"))
    assert found.classes == ("sub0", "sub1") and all(n.startswith("train/") for n in found.names)
    assert [found.classes[label] for label in found.labels] == [
        n.split("/")[1] for n in found.names
    ]


@pytest.mark.parametrize(
    ("names", "split", "numbers", "labels", "classes"),
    [
        (["b/1.jpg", "a/2.jpg", "b/c/3.jpg"], "", [0, 1, 2], [1, 0, 1], ("a", "b")),
        (["x/y/b/1.jpg", "x/y/a/z/2.jpg"], "", [0, 1], [1, 0], ("a", "b")),
        (["x/1.jpg", "x/2.jpg"], "", [0, 1], [-1, -1], ()),
        (["1.jpg", "a/2.jpg"], "", [0, 1], [-1, 0], ("a",)),
        (["train/1.jpg", "train/b/2.jpg", "val/b/3.jpg"], "train", [0, 1], [-1, 0], ("b",)),
        (
            ["s/train/b/1.jpg", "train2/b/2.jpg", "retrain/b/3.jpg", "train.jpg"],
            "train",
            [0],
            [0],
            ("b",),
        ),
        (["s/train/b/1.jpg", "s/a/2.jpg", "a/train/2.jpg"], "s/train", [0], [0], ("b",)),
        (["train/b/train/1.jpg"], "/train/", [0], [0], ("b",)),
        (["1.jpg"], "train", [], [], ()),
        ([], "", [], [], ()),
    ],
)
def test_the_class_is_the_folder_that_follows(names, split, numbers, labels, classes):
    found = features.folder_classes(names, split)
    assert (found[0].tolist(), found[1].tolist(), found[2]) == (numbers, labels, classes)


def test_a_folder_holds_an_array_for_every_layer_and_an_index(workdir, tmp_path, photos):
    _extract(workdir, photos, tmp_path / "x", pool="none")
    files = {p.name for p in (tmp_path / "x").iterdir()}
    assert files == {"index.json", *(f"{layer}.npy" for layer in LAYERS)}
    found = Features(str(tmp_path / "x"))
    for layer in LAYERS:
        values = np.load(tmp_path / "x" / f"{layer}.npy")
        assert values.shape == (6, *values.shape[1:]) and values.ndim == 4
        assert isinstance(found.layer(layer), np.memmap)
        np.testing.assert_array_equal(found.layer(layer), values)


def test_features_take_the_place_of_older_ones_at_the_end(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def write(layer, value, killed=False):
        labels, names = np.array([0, -1]), ["a.jpg", "\udcff.jpg"]
        with feature_files.Writer(str(tmp_path), ["cat"], {layer: (3,)}) as writer:
            writer.add(names, labels, {layer: np.full((2, 3), value)})
            if killed:
                raise Killed

    write("old", 1.0)
    (tmp_path / "mine.npy").touch()
    with pytest.raises(Killed):
        write("new", 2.0, killed=True)
    assert {p.name for p in tmp_path.iterdir()} == {"old.npy", "mine.npy", "index.json"}
    write("new", 2.0)
    assert {p.name for p in tmp_path.iterdir()} == {"new.npy", "mine.npy", "index.json"}
    found = Features(str(tmp_path))
    assert found.names == ["a.jpg", "\udcff.jpg"] and found.labels.tolist() == [0, -1]
    np.testing.assert_array_equal(found.layer("new"), np.full((2, 3), 2.0))

    def fail(path, text):
        raise Killed

    monkeypatch.setattr(feature_files, "atomic_write_text", fail)
    with pytest.raises(Killed):
        write("new", 3.0)
    with pytest.raises(DataError, match="there are no features"):  # The old index was removed.
        Features(str(tmp_path))


def test_the_command_writes_the_top_layer_by_default(workdir, tmp_path, photos, capsys):
    output = tmp_path / "new" / "x"
    extract.main(
        [f"--checkpoint={workdir}", f"--source={tmp_path / 'photos'}", f"--output={output}",
         "--split=train", "--shortest=40", "--crop=32", "--threads=2"]
    )  # fmt: skip
    shown = capsys.readouterr()
    assert shown.out == f"features of 5 photos in {output}, 1 left out\n"
    assert "left out: train/sub0/photo002.jpg: not an image" in shown.err
    assert "6/6" in shown.err
    assert Features(str(output)).layers == ("fc7",)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"layers": ("fc7", "fc9")}, ConfigError, "no layer 'fc9'; it has gray, conv1_1, .*, fc7"),
        ({"pool": "median"}, ConfigError, "--pool=median: known: mean, max, grid, none"),
        ({"values": 0}, ConfigError, "--values=0 must be at least 1"),
        ({"crop": 33}, ConfigError, "--crop=33 --shortest=32: the crop must be"),
        ({"crop": 0}, ConfigError, "--crop=0"),
        ({"batch_size": 0}, ConfigError, "--batch_size=0"),
        ({"split": "val"}, DataError, "--split=val: no photo lies in such a folder"),
    ],
)
def test_mistakes_are_sentences_and_leave_nothing(
    workdir, tmp_path, photos, changes, kind, message
):
    with pytest.raises(kind, match=message):
        _extract(workdir, photos, tmp_path / "out" / "x", **changes)
    assert not (tmp_path / "out").exists()


def test_a_crop_that_leaves_a_layer_without_positions_is_refused(tmp_path, photos, monkeypatch):
    class Valid:  # An encoder with a layer without padding.
        top, strides = "fc6", {"conv1": 1, "fc6": 1}

        def network_input(self, rgb):
            return rgb.mean(-1, keepdims=True)

        def apply(self, variables, gray, train):
            return {"conv1": gray, "fc6": gray[:, 32:, 32:]}

    monkeypatch.setattr(colorize_jax, "load_encoder", lambda _: (Valid(), {}), raising=False)
    with pytest.raises(ConfigError, match="--crop=32 is too small for fc6$"):
        _extract("", photos, tmp_path / "x", layers=("conv1", "fc6"))


def test_a_missing_checkpoint_is_a_sentence(tmp_path, photos):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        _extract(tmp_path, photos, tmp_path / "x")
    with pytest.raises(SystemExit, match="error.*source.*/nowhere"):
        extract.main(["--checkpoint=/nowhere", "--source=/nowhere", "--output=x"])


def test_a_split_without_a_readable_photo_leaves_no_features(workdir, tmp_path, photos):
    (tmp_path / "photos" / "bad").mkdir()
    (tmp_path / "photos" / "bad" / "0.jpg").write_bytes(b"")
    photos, said = sources.open_all(str(tmp_path / "photos")), []
    with pytest.raises(DataError, match="none of the photos"):
        _extract(workdir, photos, tmp_path / "x", said, split="bad")
    assert said == ["left out: bad/0.jpg: empty file"]
    left = [p for p in tmp_path.rglob("*") if p.suffix in (".npy", ".tmp", ".json")]
    assert left == []


def test_an_output_that_cannot_be_written_is_found_before_the_work(workdir, tmp_path, photos):
    (tmp_path / "file").touch()
    said = []
    for output in ("file", "file/x"):
        with pytest.raises(OSError):
            _extract(workdir, photos, tmp_path / output, said)
    assert said == []


def _features(folder):
    with feature_files.Writer(str(folder), ["one"], {"fc7": (3,)}) as writer:
        writer.add(["a", "b"], np.array([0, -1]), {"fc7": np.ones((2, 3))})
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: (x / "index.json").unlink(), "there are no features in"),
        (lambda x: (x / "index.json").write_text("{"), "no JSON.*write them again"),
        (lambda x: (x / "fc7.npy").unlink(), "fc7.npy cannot be read"),
        (lambda x: (x / "fc7.npy").write_bytes(b""), "fc7.npy cannot be read"),
        (lambda x: os.truncate(x / "fc7.npy", 140), "fc7.npy cannot be read"),
        (lambda x: np.save(x / "fc7.npy", np.ones((3, 3), np.float32)), r"\(3, 3\), and the index"),
        (lambda x: np.save(x / "fc7.npy", np.ones((2, 3))), "holds float64"),
        # It is never unpickled.
        (lambda x: np.save(x / "fc7.npy", np.array([{}])), "cannot be read"),
        (lambda x: np.savez(x / "index", names=np.zeros(1)), "of an older version"),
        (lambda x: (x / "features.array_record").touch(), "of an older version"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    damage(_features(tmp_path / "x"))
    with pytest.raises(DataError, match=message):
        Features(str(tmp_path / "x")).layer("fc7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": [1, 2]}, r"names\[0\]"),
        ({"names": ["a"]}, "2 labels of 1 photos"),
        ({"labels": [0, 1]}, "in 1 classes"),
        ({"labels": [0, -2]}, r"labels\[1\]"),
        ({"classes": {}}, "classes"),
        ({"layers": {"../fc7": [3]}}, "no file beside it"),
        ({"layers": {"fc7": 3}}, "layers.fc7"),
    ],
)
def test_an_index_of_any_other_form_is_a_sentence(tmp_path, changes, message):
    path = _features(tmp_path / "x") / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=f"index.json is damaged.*{message}"):
        Features(str(tmp_path / "x"))


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    folder = _features(tmp_path / "x")
    for path in (folder / "index.json", folder / "fc7.npy"):
        whole = path.read_bytes()
        for at in range(len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            with contextlib.suppress(DataError):
                found = Features(str(folder))
                for layer in found.layers:
                    found.layer(layer)
        path.write_bytes(whole)


def test_features_of_an_older_version_or_a_file_are_extracted_again(workdir, tmp_path, photos):
    np.savez(tmp_path / "x.npz", names=np.array(["a"]))
    with pytest.raises(DataError, match="older version"):
        Features(str(tmp_path / "x.npz"))
    with pytest.raises(DataError, match="no features in .*z"):
        Features(str(tmp_path / "z"))
    with pytest.raises(ConfigError, match="y.npz.*folder"):
        _extract(workdir, photos, tmp_path / "y.npz")
