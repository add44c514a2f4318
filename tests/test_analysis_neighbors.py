"""Nearest neighbors of features on disk, and the page of them."""

import json

import colorizers
import numpy as np
import pytest
import tiny

from colorize_jax import command_line, extract
from colorize_jax.analysis import __main__ as analysis
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.features import feature_files, neighbors


def test_neighbors_have_the_largest_cosines(rng, monkeypatch):
    monkeypatch.setattr(neighbors, "_ROWS", 7)
    x = rng.normal(size=(30, 2, 3)).astype(np.float32) * 10 ** rng.uniform(-25, 25, (30, 1, 1))
    x = x.astype(np.float32)
    x[3], x[20] = x[11], 0
    unit = x.reshape(30, -1).astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    near, found = neighbors.nearest(x, [11, 0, 20], 4)
    expected = np.argsort(-cosine[[11, 0]], 1, kind="stable")[:, :4]
    np.testing.assert_array_equal(near[:2], expected)
    np.testing.assert_allclose(
        found[:2], np.take_along_axis(cosine[[11, 0]], expected, 1), atol=1e-6
    )
    assert near[0, 0] == 3 and near[2].tolist() == [0, 1, 2, 3] and not found[2].any()
    for count in (0, 30):
        with pytest.raises(ConfigError, match="1 to 29"):
            neighbors.nearest(x, [0], count)
    x[5] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        neighbors.nearest(x, [0], 1)


@pytest.fixture
def photos(tmp_path, rng):
    return tiny.write_photos(tmp_path / "photos", 8, rng, size=(20, 24))


def features(folder, names, rng, labels=None, layers=("fc7",)):
    """Features of photos; those of one class are alike."""
    labels = np.array([int(name[3]) for name in names] if labels is None else labels)
    shapes = dict.fromkeys(layers, (5,))
    with feature_files.Writer(str(folder), ("sub0", "sub1"), shapes) as writer:
        values = np.eye(5)[labels] + 0.1 * rng.normal(size=(len(names), 5))
        writer.add(list(names), labels, dict.fromkeys(layers, values))
    return folder


def run(tmp_path, *words, source="photos"):
    words = ["neighbors", *words, f"--source={tmp_path / source}", f"--output={tmp_path / 'out'}"]
    asked = command_line.parse(analysis.parser(), list(map(str, words)))
    asked.main(asked)
    return json.loads((tmp_path / "out" / "neighbors.json").read_text())


def test_the_page_shows_neighbors_of_several_features_side_by_side(tmp_path, photos, rng, capsys):
    learned = features(tmp_path / "learned", photos, rng)
    drawn = features(tmp_path / "random", photos, rng, [1, 0] * 4)
    words = [f"--features={learned}", f"--features={drawn}", "--queries=5", "--neighbors=2"]
    found = run(tmp_path, *words, "--per_page=3")
    names = ["index.html", "neighbors-001.png", "neighbors-002.png", "neighbors.json"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    assert found["same_class"]["learned"] == 1 > found["same_class"]["random"]
    queries = [query["photo"] for query in found["queries"]]
    assert len(set(queries)) == 5 and queries != sorted(queries)
    for query in found["queries"]:
        near = [one["photo"] for one in query["neighbors"]["learned"]]
        assert all(name[3] == query["photo"][3] for name in near)
        assert query["photo"] not in near and len(set(near)) == 2
        cosines = [one["cosine"] for one in query["neighbors"]["learned"]]
        assert 1 > cosines[0] >= cosines[1] > 0.5
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img") == 5 * (1 + 2 + 2) and "http" not in page.replace("http-equiv", "")
    assert f"{found['queries'][0]['neighbors']['random'][0]['cosine']:.3f}" in page
    again = run(tmp_path, *words)
    assert [query["photo"] for query in again["queries"]] == queries
    other = run(tmp_path, *words, "--seed=1")
    assert [query["photo"] for query in other["queries"]] != queries


def test_what_does_not_fit_together_is_refused_by_name(tmp_path, photos, rng):
    learned = features(tmp_path / "learned", photos, rng, layers=("conv1", "fc7"))
    other = features(tmp_path / "other", photos[1:], rng)
    first = f"--features={learned}"
    for words, reason in (
        ([first], "layers conv1, fc7: choose one"),
        ([first, "--layer=fc8"], "no layer 'fc8'"),
        ([first, f"--features={other}", "--layer=conv1"], "other has no layer 'conv1'"),
        ([first, f"--features={other}", "--layer=fc7"], "1 photos are in one of them alone"),
        ([first, first, "--layer=fc7"], "learned, learned must differ"),
        ([first, "--label=a", "--label=b"], "1 times and --label 2 times"),
        ([f"--features={other}", "--queries=8"], "--queries=8: give 1 to 7"),
        ([f"--features={other}", "--queries=2", "--neighbors=7"], "give 1 to 6"),
    ):
        with pytest.raises(ConfigError, match=reason):
            run(tmp_path, *words)
    with pytest.raises(DataError, match="has no photo sub0/photo000.jpg, and 8 of 8"):
        run(tmp_path, first, "--layer=fc7", "--queries=2", source="photos/sub1")
    with pytest.raises(DataError, match="two photos called sub0/photo000.jpg"):
        run(tmp_path, first, "--layer=fc7", "--queries=2", source=f"photos,{tmp_path}/photos")
    assert not (tmp_path / "out").exists()


def test_a_random_start_has_the_averages_of_photos(tmp_path, photos):
    del photos
    workdir = colorizers.save(tmp_path / "run", head=False)
    source = sources.open_all(str(tmp_path / "photos"))
    asked = extract.Extraction(shortest=16, crop=16, batch_size=4)
    _, variables = extract.random_start(str(workdir), 3, source, asked)
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    assert (
        np.ptp(kernel) > 0.1 and np.abs(kernel).max() <= (3 / 9) ** 0.5
    )  # Those saved are larger.
    assert (np.asarray(variables["batch_stats"]["batch_conv1"]["mean"]) != 0).all()
    with pytest.raises(ConfigError, match="--random_start=-1"):
        extract.random_start(str(workdir), -1, source, asked)
