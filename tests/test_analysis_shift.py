"""How far the features of a network move: per-channel correlations of two networks."""

import dataclasses
import json

import golden_pretexts
import jax
import numpy as np
from PIL import Image
import pytest
import small_encoder

from colorize_jax.analysis import __main__ as command
from colorize_jax.analysis import correlation, networks, shift
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError


def _correlated(before, after, parts):
    """The correlations of samples that come in parts, as photos do."""
    found, sums = None, jax.jit(correlation.sums)
    for pair in zip(np.split(before, parts), np.split(after, parts), strict=True):
        found = correlation.merged(found, jax.device_get(sums(*pair)))
    return correlation.correlations(found)


@pytest.mark.parametrize("parts", [1, 8])
def test_golden_shift(parts):
    golden = golden_pretexts.group("shift")
    r = _correlated(golden["before"], golden["after"], parts)
    np.testing.assert_allclose(r, golden["r"], rtol=0, atol=1e-4)
    found = correlation.spread(r)
    assert (found.channels, found.dead) == (len(r), golden["dead"])
    quartiles = [found.low, found.median, found.high]
    np.testing.assert_allclose(quartiles, golden["quartiles"], rtol=0, atol=1e-4)


def test_sums_lose_nothing_where_the_mean_is_large(rng):
    x = rng.normal(size=(4096, 3)).astype(np.float32)
    y = (0.6 * x + 0.8 * rng.normal(size=x.shape)).astype(np.float32)
    wanted = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(_correlated(x + 1000, y - 2000, 4), wanted, atol=2e-4)


def test_a_channel_is_dead_if_it_is_constant_in_either_network(rng):
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = x.copy()
    x[:, 1], y[:, 2] = 0.1, 0.3  # Their float32 means need not equal them.
    r = _correlated(x, y, 6)
    assert np.isnan(r[1:3]).all() and r[0] == r[3] == 1.0
    assert correlation.spread(r) == correlation.Spread(1.0, 1.0, 1.0, 4, 2)
    empty = correlation.spread(r[1:3])
    assert np.isnan(empty.median) and (empty.channels, empty.dead) == (2, 2)


SAMPLING = shift.Sampling(
    photos=0, positions=32, border=4, shortest=40, crop=32, batch_size=4, threads=2
)


@pytest.fixture(scope="module")
def network():
    """A random encoder of 64 channels with its variables."""
    encoder = small_encoder.SmallEncoder(width=0.5, norm="none")
    variables = encoder.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
    return _network(encoder, variables)


def _network(encoder, variables):
    return networks.prepared(type(encoder).__name__, encoder, variables, 32, zeros=True)


def _permuted(network, layer):
    params = network.variables["params"]
    rolled = jax.tree.map(lambda x: np.roll(x, 1, -1), params[layer])
    return _network(network.encoder, {"params": params | {layer: rolled}})


def _command(monkeypatch, there, *words):
    """Runs the command on networks instead of checkpoints, {path: network}."""
    monkeypatch.setattr(networks, "load", lambda path, zeros: there[path])
    asked = command.parser().parse_args(["shift", "--source=builtin:photos", *words])
    asked.main(asked)


def test_command_compares_pairs_and_two_random_networks(network, tmp_path, monkeypatch, capsys):
    """The same network gives 1, and permuted channels about 0."""
    there = {"/a": network, "/b": _permuted(network, "conv3")}
    flags = [f"--{k}={v}" for k, v in dataclasses.asdict(SAMPLING).items()]
    _command(
        monkeypatch, there, "--before=/a", "--after=/a", "--label=same", "--before=/a",
        "--after=/b", "--label=permuted", f"--output={tmp_path}/out", *flags,
    )  # fmt: skip
    result = json.loads((tmp_path / "out/shift.json").read_text())
    layers, count = result["layers"], result["photos_read"]
    assert list(layers) == ["same", "permuted", shift.RANDOM] and count == 10
    for layer in ("conv1", "conv2", "conv3"):
        found = layers["same"][layer]
        assert (found["median"], found["low"], found["high"]) == (1.0, 1.0, 1.0)
        assert found["channels"] == 64 and found["dead"] < 32
        assert abs(layers[shift.RANDOM][layer]["median"]) < 0.3
    assert layers["permuted"]["conv2"] == layers["same"]["conv2"]
    assert abs(layers["permuted"]["conv3"]["median"]) < 0.3
    assert layers["permuted"]["conv3"]["high"] < 0.9
    text = capsys.readouterr().out
    assert "conv3" in text and "1.000 (1.000 to 1.000)" in text
    with Image.open(tmp_path / "out/shift.png") as picture:
        assert np.ptp(np.asarray(picture.convert("RGB")), axis=-1).max() > 50


def test_black_rows_of_the_last_batch_do_not_count(network):
    photos = sources.open_all("builtin:photos")
    pair = shift.Pair("permuted", network, _permuted(network, "conv1"))
    found = [
        shift.measure(
            [pair], photos, dataclasses.replace(SAMPLING, batch_size=rows), ["conv1"], False
        )[0]["permuted"]["conv1"]
        for rows in (4, 5)  # of ten photos
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 48}, "--crop=48 --shortest=40"),
        ({"border": 16}, "--border=16 leaves no position in a crop of 32"),
        ({"positions": 0}, "--positions=0"),
        ({"batch_size": 0}, "--batch_size=0"),
        ({"photos": -1}, "--photos=-1"),
    ],
)
def test_a_setting_without_meaning_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        shift.check(dataclasses.replace(SAMPLING, **settings))


@pytest.mark.parametrize(
    ("other", "layers", "message"),
    [
        ({}, ("fc7",), "there is no layer 'fc7'; the network has conv1, conv2, conv3"),
        ({"width": 0.25}, (), "of different architectures: width is 0.5 .* 0.25"),
    ],
)
def test_networks_must_have_the_same_layers(network, other, layers, message):
    after = dataclasses.replace(network, encoder=network.encoder.clone(**other))
    pair = shift.Pair("mine", network, after)
    with pytest.raises(ConfigError, match=message):
        shift.measure([pair], sources.open_all("builtin:photos"), SAMPLING, layers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--before=/a"], "--before is given 2 times, --after 1 times"),
        (["--label=x", "--label=y"], "--label 2 times"),
        (["--before=/a", "--after=/b/x/"], "the labels x, x must differ"),
        (["--crop=300"], "--crop=300"),
    ],
)
def test_command_names_a_mistake(monkeypatch, tmp_path, words, message):
    words = ["--before=/a", "--after=/a/x", f"--output={tmp_path}/out", *words]
    with pytest.raises(ConfigError, match=message):
        _command(monkeypatch, {}, *words)
    assert not (tmp_path / "out").exists()
