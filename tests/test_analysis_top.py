"""`analysis top`: its patches are those of the strongest answers, in networks as they are read."""

import json

import colorizers
import jax
import numpy as np
from PIL import Image
import pytest
import small_encoder
import tiny

from colorize_jax import command_line
from colorize_jax.analysis import __main__ as analysis
from colorize_jax.analysis import networks
from colorize_jax.colorize import network as colorizing
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.features import crops
from colorize_jax.models import registry

WIDTH = {"model__width": 1 / 16}  # eight units


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A network of random numbers."""
    return colorizers.save(tmp_path_factory.mktemp("run"), **WIDTH)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven photos, of which one is too small and one is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    tiny.write_photos(folder, 10, rng)
    tiny.write_photos(folder / "small", 1, rng, size=(10, 30))
    (folder / "sub0" / "photo004.jpg").write_text("<html>")
    return folder


def run(*words):
    asked = command_line.parse(analysis.parser(), list(map(str, words)))
    asked.main(asked)


def top(workdir, photos, output, *words):
    """Runs the command on crops of 32 pixels; returns top.json."""
    run("top", f"--checkpoint={workdir}", f"--source={photos}", f"--output={output}",
        "--patches=4", "--batch_size=4", "--threads=2", *words)  # fmt: skip
    return json.loads((output / "top.json").read_text())


def test_patches_are_those_of_the_strongest_answers(workdir, photos, tmp_path, capsys):
    output, file = tmp_path / "out", tmp_path / "network.safetensors"
    colorizing.save(colorizing.load(workdir), file)
    output.mkdir()
    (output / "top-009.png").write_text("of an earlier run")
    found = top(file, photos, output, "--units=every:3", "--per_page=2")
    said = capsys.readouterr()
    assert "photo004.jpg: " in said.err and "30 x 10 pixels; 16 are needed" in said.err
    names = ["index.html", "top-001.png", "top-002.png", "top.json"]
    assert said.out.split() == [str(output / name) for name in names]
    assert sorted(path.name for path in output.iterdir()) == names
    assert (found["photos"], found["left_out"]) == (9, 2)
    assert (found["receptive_field"], found["window"], found["crop"]) == (15, 16, 32)
    assert found["rule"] == "the units 0, 3, 6 and so on" and "stride 2" in found["padding"][0]
    # Photo by photo, without the streams.
    source = sources.open_all(str(photos))
    network = networks.load(str(file))
    shown = {
        source.name(i): crops.central(source, i, 32, 32, least=16)[0] for i in range(len(source))
    }
    shown = {name: pixels for name, pixels in shown.items() if pixels is not None}
    image = np.stack([*shown.values()])
    maps = jax.jit(network.maps(("conv3",)))(network.variables, network.borders, image)["conv3"]
    peak = np.asarray(maps).max((1, 2))
    assert [entry["unit"] for entry in found["units"]] == [0, 3, 6]
    for entry in found["units"]:
        values = dict(zip(shown, peak[:, entry["unit"]].tolist(), strict=True))
        order = sorted((name for name in values if values[name] > 0), key=lambda n: -values[n])
        assert [patch["photo"] for patch in entry["patches"]] == order[:4] != []
        for patch in entry["patches"]:
            assert patch["peak"] == pytest.approx(values[patch["photo"]], rel=1e-4)
            y, x = np.unravel_index(
                maps[list(shown).index(patch["photo"]), :, :, entry["unit"]].argmax(), (8, 8)
            )
            assert patch["corner"] == [min(max(4 * int(i) + 3 - 8, 0), 16) for i in (y, x)]
    page = (output / "index.html").read_text()
    assert page.count("<img") == sum(len(entry["patches"]) for entry in found["units"])
    assert "15 x 15 pixels" in page and "http" not in page.replace("http-equiv", "")
    picture = np.asarray(Image.open(output / "top-002.png").convert("RGB")).astype(int)
    assert np.ptp(picture, axis=-1).max() > 50  # The patches have colors.


def _changed(workdir, folder, change):
    """The checkpoint with other parameters of its top layer."""
    from colorize_jax.checkpoints import reading, writing

    step = reading.find(workdir)
    _, variables = reading.load_encoder(step)
    variables = jax.tree.map(np.array, variables)
    for kind, group in (("params", "conv3"), ("batch_stats", "batch_conv3")):
        own = variables[kind][group]
        for name, value in own.items():
            own[name] = change(name, value) if value.ndim else value
    state = {"step": np.zeros((), np.int32), "opt_state": ()}
    state |= {kind: {"encoder": tree} for kind, tree in variables.items()}
    note = reading.saved_note(step)
    writing.write(folder / "checkpoints" / "0", state, note)
    return folder


def test_units_are_compared_one_by_one_before_and_after(workdir, photos, tmp_path, capsys):
    def change(name, value):
        if name in ("var", "mean"):
            return value
        value[..., 2] = value[..., 3]  # Another unit's, so that this one is replaced,
        value[..., 5] = 0 if name == "kernel" else -1  # and this one never answers.
        return value

    after = _changed(workdir, tmp_path / "after", change)
    found = top(workdir, photos, tmp_path / "other", f"--after={after}", "--units=2,5,0",
                "--thresholds", "0.99", "0.999")  # fmt: skip
    kinds = [(entry["unit"], entry["kind"]) for entry in found["units"]]
    assert kinds == [(0, "reused"), (2, "replaced"), (5, "dead")]
    assert found["kinds"] == {"reused": 6, "specialized": 0, "replaced": 1, "dead": 1}
    same, replaced, dead = found["units"]
    assert same["correlation"] == pytest.approx(1, abs=1e-5) and same["before"] == same["after"]
    assert replaced["correlation"] < 0.99 and replaced["before"] != replaced["after"]
    assert "6 reused (75%)" in capsys.readouterr().err
    assert dead["correlation"] is None and dead["before"] and not dead["after"]
    page = (tmp_path / "other" / "index.html").read_text()
    assert page.index("Reused") < page.index("Replaced") < page.index("Dead")
    assert "by hand" in page and "below 0.99" in page and "no answer" in page


@pytest.fixture
def named(monkeypatch):
    """{path: network} for the command; nothing is read."""
    found = {}
    monkeypatch.setattr(networks, "load", lambda path, zeros: found[path])
    return found


def _network(name, variables=None, **settings):
    encoder = registry.make_encoder({"name": name, "width": 1 / 16, **settings})
    return networks.prepared(name, encoder, variables or {}, 32, zeros=variables is None)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--layer=fc9"], "no layer 'fc9'; the network has conv1, conv2, conv3"),
        (["--units=8"], "units 0 to 7; there is no unit 8"),
        (["--window=33"], "--window=33: give 1 to 32"),
        (["--crop=40", "--shortest=32"], "no larger than the shortest side"),
        (["--patches=0"], "--patches must be at least 1"),
        (["--thresholds", "0.7", "0.3"], "the lower one first"),
        (["--after=wider"], r"width is 0\.0625 in the first and 0\.125"),
        (["--after=alexnet"], "network is small_encoder:SmallEncoder in the first and alexnet in"),
    ],
)
def test_what_cannot_be_is_refused_by_name(named, photos, tmp_path, words, reason):
    named["one"] = _network(small_encoder.NAME)
    named["wider"] = _network(small_encoder.NAME, width=1 / 8)
    named["alexnet"] = _network("alexnet")
    with pytest.raises(ConfigError, match=reason):
        top("one", photos, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_gray_and_color_and_other_dropout_may_be_compared():
    other = _network(small_encoder.NAME, in_channels=3, dropout=0.5)
    networks.check_alike(_network(small_encoder.NAME), other)


def test_photos_that_are_all_smaller_than_the_window_end_it(named, photos, tmp_path):
    small = registry.variable_shapes(_network(small_encoder.NAME).encoder)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), small)
    named["one"] = _network(small_encoder.NAME, variables)
    with pytest.raises(DataError, match=r"none of the 1 photos.*16 pixels.*--window"):
        top("one", photos / "small", tmp_path / "out")


def test_borders_are_usual_activations_where_that_is_possible():
    encoder = registry.make_encoder({"name": "alexnet", "width": 1 / 16, "norm": "none"})
    variables = jax.tree.map(lambda x: np.ones(x.shape), registry.variable_shapes(encoder))
    found = _network("alexnet", variables, norm="none", fc6_padding="VALID")
    assert found.padding == networks.USUAL
    assert tuple(found.borders) == found.encoder.layers[1:]
    found = _network("resnet14", {"params": {"conv1": {}}})
    assert "a ResNet keeps it" in found.padding and not found.borders
