"""Features of photos on disk: what the network says of the middle of each, and in which order."""

import contextlib

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
    """Of a run that has saved a random start."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny.config()
    encoder = registry.make_encoder(config.model)
    variables = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    state = TrainState(
        step=jnp.int32(1),
        # Twice as large, so that some signal is left at the top.
        params={"encoder": jax.tree.map(lambda x: 2 * x, variables["params"])},
        batch_stats={"encoder": variables["batch_stats"]},
        opt_state=(),
        nonfinite=jnp.int32(0),
    )
    note = {"config": same_run.plain(config)}
    saving.write(folder / "checkpoints" / "1", state, note)
    return folder


@pytest.fixture
def photos(tmp_path, rng):
    """Six photos in two classes below "train"; one is no photo, one lies elsewhere."""
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


def test_features_are_activations_of_the_middle_pooled_over_positions(workdir, tmp_path, photos):
    names = [photos.name(i) for i in range(len(photos))]
    readable = [i for i, name in enumerate(names) if name != "train/sub0/photo002.jpg"]
    encoder, variables = colorize_jax.load_encoder(workdir)
    image = np.stack([_middle(photos, i) for i in readable])
    gray = colorize_jax.network_input(image)
    maps = jax.jit(encoder.apply, static_argnames="train")(variables, gray, train=False)
    for pool in features.POOLS:
        said = []
        assert _extract(workdir, photos, tmp_path / "x.npz", said, pool=pool) == (6, 1)
        found = Features(str(tmp_path / "x.npz"))
        assert found.layers == LAYERS and found.names == [names[i] for i in readable]
        assert said == ["left out: train/sub0/photo002.jpg: not an image"]
        for layer in LAYERS:
            expected = np.asarray(maps[layer])
            if pool != "none":
                expected = getattr(expected, pool)((1, 2))
            assert expected.std() > 1e-3 and found.layer(layer).dtype == np.float32
            np.testing.assert_allclose(
                found.layer(layer), expected, rtol=1e-3, atol=1e-4 * expected.max()
            )


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
    assert _extract(workdir, photos, tmp_path / "x.npz", split="train") == (5, 1)
    found = Features(str(tmp_path / "x.npz"))
    assert found.classes == ("sub0", "sub1") and all(n.startswith("train/") for n in found.names)
    assert [found.classes[label] for label in found.labels] == [
        n.split("/")[1] for n in found.names
    ]
    with np.load(tmp_path / "x.npz") as content:
        assert set(content) == {"names", "labels", "classes", *LAYERS}


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


def test_a_folder_holds_what_the_npz_does(workdir, tmp_path, photos, monkeypatch):
    monkeypatch.setattr(feature_files, "_CHUNK", 4)  # of six
    for output in ("x.npz", "shard"):
        _extract(workdir, photos, tmp_path / output, pool="none")
    one, other = (Features(str(tmp_path / output)) for output in ("x.npz", "shard"))
    assert one.names == other.names and one.classes == other.classes
    assert one.layers == other.layers
    np.testing.assert_array_equal(one.labels, other.labels)
    for layer in LAYERS:
        np.testing.assert_array_equal(one.layer(layer), other.layer(layer))
    files = {p.name for p in (tmp_path / "shard").iterdir()}
    assert files == {"features.array_record", "index.npz"}


def test_the_command_writes_the_top_layer_by_default(workdir, tmp_path, photos, capsys):
    output = tmp_path / "new" / "x.npz"
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
        ({"pool": "median"}, ConfigError, "--pool=median: known: mean, max, none"),
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
        _extract(workdir, photos, tmp_path / "out" / "x.npz", **changes)
    assert not (tmp_path / "out").exists()


def test_a_crop_that_leaves_a_layer_without_positions_is_refused(tmp_path, photos, monkeypatch):
    class Valid:  # a layer without padding
        top, strides, in_channels = "fc6", {"conv1": 1, "fc6": 1}, 1

        def apply(self, variables, gray, train):
            return {"conv1": gray, "fc6": gray[:, 32:, 32:]}

    monkeypatch.setattr(colorize_jax, "load_encoder", lambda _: (Valid(), {}), raising=False)
    with pytest.raises(ConfigError, match="--crop=32 is too small for fc6$"):
        _extract("", photos, tmp_path / "x.npz", layers=("conv1", "fc6"))


def test_a_missing_checkpoint_is_a_sentence(tmp_path, photos):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        _extract(tmp_path, photos, tmp_path / "x.npz")
    with pytest.raises(SystemExit, match="error: config.data.source: there is no /nowhere"):
        extract.main(["--checkpoint=/nowhere", "--source=/nowhere", "--output=x.npz"])


@pytest.mark.parametrize("output", ["x.npz", "shard"])
def test_a_split_without_a_readable_photo_leaves_no_features(workdir, tmp_path, photos, output):
    (tmp_path / "photos" / "bad").mkdir()
    (tmp_path / "photos" / "bad" / "0.jpg").write_bytes(b"")
    photos, said = sources.open_all(str(tmp_path / "photos")), []
    with pytest.raises(DataError, match="none of the photos could be read"):
        _extract(workdir, photos, tmp_path / output, said, split="bad")
    assert said == ["left out: bad/0.jpg: empty file"]
    left = [p for p in tmp_path.rglob("*") if p.suffix in (".npz", ".tmp", ".array_record")]
    assert left == []


def test_an_output_that_cannot_be_written_is_found_before_the_work(workdir, tmp_path, photos):
    (tmp_path / "file").touch()
    said = []
    for output in ("file", "file/x.npz"):
        with pytest.raises(OSError):
            _extract(workdir, photos, tmp_path / output, said)
    assert said == []


def _no_index(folder):
    (folder / "index.npz").unlink()


def _no_shard(folder):
    (folder / "features.array_record").unlink()


def _half_a_shard(folder):
    content = (folder / "features.array_record").read_bytes()
    (folder / "features.array_record").write_bytes(content[: len(content) // 2])


def _another_index(folder):
    with np.load(folder / "index.npz") as content:
        arrays = dict(content)
    np.savez(folder / "index.npz", **arrays | {"names": arrays["names"][1:]})


@pytest.mark.parametrize("damage", [_no_index, _no_shard, _half_a_shard, _another_index])
def test_a_damaged_folder_is_refused(workdir, tmp_path, photos, damage):
    _extract(workdir, photos, tmp_path / "shard")
    damage(tmp_path / "shard")
    with pytest.raises(DataError, match="cannot be read as features|there are no features in"):
        Features(str(tmp_path / "shard")).layer("fc7")


@pytest.mark.parametrize("content", [b"", b"no npz", b"PK\x03\x04 and then nothing"])
def test_a_file_that_holds_no_features_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="x.npz cannot be read as features"):
        Features(str(tmp_path / "x.npz"))
    np.savez(tmp_path / "y.npz", names=np.array(["a"]))
    with pytest.raises(DataError, match="y.npz cannot be read as features: .*labels"):
        Features(str(tmp_path / "y.npz"))
    good = {
        "names": np.array(["a", "b"]),
        "labels": np.array([0, -1]),
        "classes": np.array(["one"]),
        "fc7": np.ones((2, 3), np.float32),
    }
    for name, value, message in (
        ("names", np.arange(2), "its names are int64"),
        ("names", np.array(["a"]), "2 labels of 1 photos"),
        ("labels", np.array([0, 1]), "not those of 1 classes"),
        ("labels", np.array([[0, 0]]), r"its labels are int64 \(1, 2\)"),
        ("classes", np.array([{}]), "cannot be read as features"),  # a pickle, which is never run
        ("fc7", np.array(["x", "y"]), "fc7 is <U1"),
        ("fc7", np.ones(2), r"fc7 is float64 \(2,\)"),
        ("fc7", np.ones((3, 3)), "3 features of 2 photos"),
    ):
        np.savez(tmp_path / "y.npz", **good | {name: value})
        with pytest.raises(DataError, match=message):
            Features(str(tmp_path / "y.npz")).layer("fc7")
    whole = (tmp_path / "y.npz").read_bytes()
    for at in range(0, len(whole), 7):  # one flipped bit: refused, or harmless
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "y.npz").write_bytes(damaged)
        with contextlib.suppress(DataError):
            Features(str(tmp_path / "y.npz")).layer("fc7")
    with pytest.raises(DataError, match="there are no features in .*z.npz"):
        Features(str(tmp_path / "z.npz"))
