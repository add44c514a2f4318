"""Numbers of color of files: against golden vectors and scikit-image, pages, and bad input."""

import html
import json
import re

from colored import photo, run, write
import golden_pretexts
import jax
import numpy as np
from PIL import Image
import pytest
import skimage.color

from colorize_jax.checkpoints import reading, writing
from colorize_jax.color import gamut
from colorize_jax.colorize import interpretability, pairs, report, score, scoring
from colorize_jax.colorize.colorizer import Colorizer
from colorize_jax.errors import ConfigError, DataError, WeightsError
from colorize_jax.models import registry

ZHANG = golden_pretexts.group("zhang")


@pytest.fixture
def folders(tmp_path, rng):
    """Three photos, and the same with less color."""
    truth = {name: photo(rng) for name in ("one", "two", "three")}
    colored = {k: (x * 0.5 + x.mean(-1, keepdims=True) * 0.5).astype(np.uint8) for k, x in
               truth.items()}  # fmt: skip
    return write(tmp_path / "truth", **truth), write(tmp_path / "colored", **colored)


def numbers(folder):
    """What scores.json says."""
    return json.loads((folder / score.SCORES).read_text())


@pytest.mark.parametrize(("window", "name"), [("uniform", "uniform7"), ("gaussian", "gauss11")])
def test_golden_zhang_numbers_of_files(window, name, tmp_path):
    truth = write(tmp_path / "truth", photo=ZHANG["photo_a"])
    colored = write(tmp_path / "colored", photo=ZHANG["photo_b"])
    output = tmp_path / "out"
    run(f"--truth={truth}", f"--colored={colored}", f"--output={output}", f"--ssim={window}")
    rows = numbers(output)["rows"]
    own = rows[str(colored)]
    assert own["psnr"] == pytest.approx(float(ZHANG["psnr"]), abs=1e-3)
    assert own["ssim"] == pytest.approx(float(ZHANG[f"ssim_{name}"]), abs=1e-4)
    assert scoring.OTHER not in rows  # there is no other one
    of_truth, of_colored = ZHANG["colorfulness"]
    assert rows["truth"]["colorfulness"] == pytest.approx(of_truth, rel=1e-5)
    assert own["colorfulness"] == pytest.approx(of_colored, rel=1e-5)
    assert own["colorfulness_difference"] == pytest.approx(abs(of_truth - of_colored), rel=1e-4)


def test_auc_is_that_of_scikit_image_over_the_pixels_of_all_photos(folders, tmp_path):
    truth, colored = folders
    Image.fromarray(np.full((9, 9, 3), [200, 30, 30], np.uint8)).save(truth / "small.png")
    Image.fromarray(np.full((9, 9, 3), [30, 30, 200], np.uint8)).save(colored / "small.png")
    run(f"--truth={truth}", f"--colored={colored}", f"--output={tmp_path / 'out'}")
    distances, bins, squared = [], [], []
    for path in sorted(truth.iterdir()):
        ab, own = (skimage.color.rgb2lab(Image.open(folder / path.name))[..., 1:].reshape(-1, 2)
                   for folder in folders)  # fmt: skip
        distances.append(np.linalg.norm(ab - own, axis=-1))
        bins.append(((ab[:, None] - gamut.bins()) ** 2).sum(-1).argmin(-1))
        squared.append(((ab - own) ** 2).mean())
    distances, bins = np.concatenate(distances), np.concatenate(bins)
    for name, weights in (
        ("auc", np.ones(len(bins))),
        ("auc_rebalanced", 1 / np.bincount(bins, minlength=gamut.BINS)[bins]),
    ):
        curve = [(weights * (distances <= t)).sum() / weights.sum() for t in range(151)]
        expected = np.trapezoid(curve) / 150
        found = numbers(tmp_path / "out")["rows"][str(colored)]
        assert found[name] == pytest.approx(expected, abs=2e-4)
    assert found["rmse_ab"] == pytest.approx(np.mean(squared) ** 0.5, rel=1e-3)


def test_rows_without_any_network_stand_beside_the_colored_ones(folders, tmp_path, capsys):
    truth, colored = folders
    run(f"--truth={truth}", f"--colored={colored}", f"--output={tmp_path / 'out'}")
    rows = numbers(tmp_path / "out")["rows"]
    assert list(rows) == [*scoring.BASELINES, str(colored)]
    assert rows["truth"]["auc"] == rows["truth"]["auc_rebalanced"] == 1
    assert rows["truth"]["psnr"] == 100 and rows["truth"]["ssim"] == pytest.approx(1)
    assert rows["gray"]["colorfulness"] == 0 < rows["constant color"]["colorfulness"]
    assert rows["gray"]["auc"] < rows[str(colored)]["auc"] < 1
    # The mean color has the smallest squared error that one color can have.
    assert rows["constant color"]["rmse_ab"] < rows["gray"]["rmse_ab"]
    said = capsys.readouterr().out
    for row, found in rows.items():
        assert re.search(rf"^{re.escape(row)} +{found['auc']:.4f} ", said, re.MULTILINE)
    assert "from the originals themselves (3 with color)" in " ".join(said.split())


def test_a_checkpoint_colors_the_grays_of_the_originals(folders, tmp_path, monkeypatch):
    truth, _ = folders
    workdir = tmp_path / "run"

    def colorizer(photo):  # in the place of a network, which takes long to compile
        return 255 - photo

    monkeypatch.setattr(Colorizer, "load", lambda path: {str(workdir): colorizer}[path])
    colored = {path.stem: colorizer(np.asarray(Image.open(path))) for path in truth.iterdir()}
    same = write(tmp_path / "same", **colored)
    run(f"--truth={truth}", f"--checkpoint={workdir}", f"--output={tmp_path / 'out'}")
    run(f"--truth={truth}", f"--colored={same}", f"--output={tmp_path / 'other'}")
    ours, theirs = (
        numbers(tmp_path / "out")["rows"][str(workdir)],
        numbers(tmp_path / "other")["rows"][str(same)],
    )
    assert ours == theirs and ours["auc"] < 1


def test_the_constant_color_and_the_weights_are_those_of_another_source(folders, tmp_path):
    truth, colored = folders
    red = write(tmp_path / "red", **{"a": np.full((8, 8, 3), [220, 40, 40], np.uint8)})
    run(f"--truth={truth}", f"--colored={colored}", f"--fit_from={red}", f"--output={tmp_path}/o")
    found = numbers(tmp_path / "o")["reference"]
    expected = skimage.color.rgb2lab(np.array([[220, 40, 40]]) / 255)[0, 1:]
    np.testing.assert_allclose(found["ab"], expected, atol=0.01)
    assert found["photos"] == 1 and found["source"] == str(red)


def test_another_photos_colors_keep_the_lightness_and_are_those_of_the_other_one():
    truth = np.full((10, 12, 3), 120, np.uint8)
    other = np.full((3, 3, 3), [150, 90, 90], np.uint8)
    found = scoring.baselines(truth, other, np.zeros(2))[scoring.OTHER]
    assert found.shape == truth.shape
    np.testing.assert_allclose(found.mean(-1), 120, atol=1)
    ab = skimage.color.rgb2lab(found)[..., 1:]
    np.testing.assert_allclose(ab, skimage.color.rgb2lab(other)[:1, :1, 1:] + 0 * ab, atol=2)


def test_a_photo_of_many_pieces_has_the_numbers_of_one(rng, monkeypatch):
    truth, colored = photo(rng, 70, 80), photo(rng, 70, 80)
    reference = scoring.Reference.of([truth])

    def found():
        scorer = scoring.Scorer(["colored"], reference)
        scorer.add("photo", truth, {"colored": colored}, colored)
        return scorer.summary()

    whole = found()
    monkeypatch.setattr(scoring, "_LARGEST_PIECE", 2**12)
    parts = found()
    assert scoring.Reference.of([truth]).ab == pytest.approx(reference.ab, rel=1e-5)
    for row, own in whole.items():
        assert parts[row] == pytest.approx(own, rel=1e-6), row


def test_what_cannot_be_compared_is_named_and_the_rest_is_done(folders, tmp_path, rng, capsys):
    truth, colored = folders
    write(truth, dot=np.full((1, 1, 3), [200, 30, 30], np.uint8))
    write(colored, dot=np.full((1, 1, 3), [30, 30, 200], np.uint8))  # smaller than any window
    write(truth, wide=photo(rng, 24, 30), alone=photo(rng), broken=photo(rng),
          gray=np.full((24, 20, 3), 99, np.uint8))  # fmt: skip
    write(colored, wide=photo(rng, 24, 20), other=photo(rng), gray=photo(rng))
    (colored / "broken.png").write_bytes((colored / "one.png").read_bytes()[:99])
    with pytest.raises(SystemExit) as ended:
        run(f"--truth={truth}", f"--colored={colored}", f"--output={tmp_path / 'out'}")
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "left out: wide: it is 30x24 in" in said.err and "and 20x24 in" in said.err
    assert "left out: broken: broken.png of" in said.err
    assert f"1 photo of {truth} left out, not in every other folder: alone.png" in said.err
    assert f"1 photo of {colored} left out, not in every other folder: other.png" in said.err
    assert "1 photo without color, in no number: gray" in said.out
    found = numbers(tmp_path / "out")
    assert found["photos"] == 4 and found["each"]["gray"]["dot"]["ssim"] is None
    assert 0 < found["rows"]["gray"]["ssim"] < 1
    assert set(found["left_out"]) == {"wide", "broken"}
    assert found["without_color"] == ["gray"] and len(found["each"]["gray"]) == 4


def test_bad_input_is_a_sentence_and_nothing_is_overwritten(folders, tmp_path, rng):
    truth, colored = folders
    output = tmp_path / "out"
    output.mkdir()
    (output / score.SCORES).write_text("mine")
    with pytest.raises(ConfigError, match="exists: name another --output"):
        run(f"--truth={truth}", f"--colored={colored}", f"--output={output}")
    assert (output / score.SCORES).read_text() == "mine"
    with pytest.raises(ConfigError, match="nothing to compare"):
        run(f"--truth={truth}")
    with pytest.raises(ConfigError, match="give --output"):
        run(f"--truth={truth}", f"--colored={colored}", "--page=real-or-fake")
    with pytest.raises(ConfigError, match="--seed=-1"):
        run(f"--truth={truth}", f"--colored={colored}", "--seed=-1")
    with pytest.raises(ConfigError, match="named twice"):
        run(f"--truth={truth}", f"--colored={colored}", f"--colored={colored}")
    with pytest.raises(DataError, match="no photo of .* has one of the same name"):
        run(f"--truth={truth}", f"--colored={write(tmp_path / 'others', x=photo(rng))}")
    (truth / "one.jpg").write_bytes((truth / "one.png").read_bytes())
    with pytest.raises(DataError, match=r"one\.jpg and one\.png"):
        run(f"--truth={truth}", f"--colored={colored}")


def test_photos_pair_by_their_place_whatever_their_ending(tmp_path, rng):
    truth = write(tmp_path / "truth", a__1=photo(rng), b__1=photo(rng))
    colored = tmp_path / "colored"
    (colored / "b").mkdir(parents=True)
    Image.fromarray(photo(rng)).save(colored / "b" / "1.jpg")
    found = pairs.pair(str(truth), [str(colored)])
    assert found.names == ["b/1"] and found.unpaired == {str(truth): ["a/1.png"]}


def test_the_page_needs_no_network_and_shows_what_it_says(tmp_path, rng):
    """Names of files are anybody's: they may not become a part of the page."""
    evil = "<img src=x onerror=alert(1)>&amp;"
    truth = {f"{i}": photo(rng) for i in range(7)} | {evil: photo(rng)}
    colored = {name: photo(rng) for name in truth}
    folders = [write(tmp_path / k, **v) for k, v in (("truth", truth), ("colored", colored))]
    run(f"--truth={folders[0]}", f"--colored={folders[1]}", f"--output={tmp_path / 'out'}")
    page = (tmp_path / "out" / score.PAGE).read_text()
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;amp;" in page and evil not in page
    assert page.count('<div class="photo">') == 8  # every photo once
    assert page.count("<img") == page.count('src="data:image/jpeg;base64,') == 24
    order = [html.unescape(name) for name in re.findall("<h3>(.*)</h3>", page)]
    each = numbers(tmp_path / "out")["each"]
    gains = {
        name: own["auc"] - each["gray"][name]["auc"] for name, own in each[str(folders[1])].items()
    }
    assert order[:2] == sorted(gains, key=gains.get)[:2]
    assert [page.count(f"<h2>{kind}") for kind in ("Worst", "Best", "Middle", "Drawn")] == [1] * 4


def test_the_photos_of_a_page_are_chosen_by_their_rank_and_by_chance():
    names = [f"{i:03d}" for i in range(100)]
    chosen = report.choose(names, seed=3)
    assert chosen["worst"] == names[:8] and chosen["best"] == names[::-1][:8]
    assert chosen["middle"] == names[46:54]
    everything = sum(chosen.values(), [])
    assert len(everything) == len(set(everything)) == 32
    assert chosen == report.choose(names, seed=3) != report.choose(names, seed=4)
    assert report.choose(["a"], seed=0) == {"worst": ["a"]}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """(folder, encoder, variables, head) of a classifier of color, two classes."""
    settings = registry.with_defaults(
        {"name": "vgg16", "width": 1 / 32, "fc6_kernel": 1, "norm": "none", "in_channels": 3}
    )
    encoder = registry.make_encoder(settings)
    rng = np.random.default_rng(0)
    params = {
        layer: {"kernel": rng.normal(size=own["kernel"].shape, scale=0.2).astype(np.float32),
                "bias": np.zeros(own["bias"].shape, np.float32)}
        for layer, own in registry.variable_shapes(encoder)["params"].items()
    }  # fmt: skip
    features = params["fc7"]["kernel"].shape[-1]
    head = {
        "kernel": rng.normal(size=(features, 2)).astype(np.float32),
        "bias": np.zeros(2, np.float32),
    }
    folder = tmp_path_factory.mktemp("classifier") / "run"
    task = {"name": "classification", "loss": "softmax", "classes": 2}
    writing.save_encoder(
        folder, {"params": {"encoder": params, "head": {"classes": head}}},
        {"model": settings, "task": task}, {"file": "here"}, ["dog", "cat"],
    )  # fmt: skip
    return folder, encoder, {"params": params}, head


def test_a_classifier_is_asked_about_every_row(classifier, tmp_path, rng, capsys):
    folder, encoder, variables, head = classifier
    names = [f"{kind}__{i}" for kind in ("cat", "dog") for i in range(3)]
    truth = write(tmp_path / "truth", **{name: photo(rng, 32, 32) for name in names})
    colored = write(tmp_path / "colored", **{name: photo(rng, 32, 32) for name in names})
    run(f"--truth={truth}", f"--colored={colored}", f"--output={tmp_path / 'out'}",
        f"--classifier={folder}", "--crop=32", "--shortest=32")  # fmt: skip
    see = jax.jit(lambda pixels: encoder.apply(variables, encoder.network_input(pixels))["fc7"])
    hits = {"truth": 0, "gray": 0, str(colored): 0}
    for name in names:
        own = np.asarray(Image.open(truth / f"{name.replace('__', '/')}.png"))
        other = np.asarray(Image.open(colored / f"{name.replace('__', '/')}.png"))
        gray = np.repeat(np.round(own.mean(-1, keepdims=True)).astype(np.uint8), 3, -1)
        for row, pixels in zip(hits, (own, gray, other), strict=True):
            logits = np.asarray(see(pixels))[0].mean((0, 1)) @ head["kernel"]
            hits[row] += ["dog", "cat"][logits.argmax()] == name[:3]
    found = numbers(tmp_path / "out")["rows"]
    assert {row: found[row]["top1"] * 6 for row in hits} == pytest.approx(hits)
    assert found["gray"]["top5"] == 1 and "top-1" in capsys.readouterr().out


def test_classifiers_that_cannot_judge_are_refused(classifier, tmp_path, rng, monkeypatch):
    folder, *_ = classifier
    judge = interpretability.Judge
    with pytest.raises(ConfigError, match="lie in no folders of classes"):
        judge(str(folder), ["1", "2"], ["truth"])
    with pytest.raises(ConfigError, match=r"1 folders are no classes of .*: fox"):
        judge(str(folder), ["cat/1", "fox/2"], ["truth"])
    with pytest.raises(ConfigError, match="a crop of 300 from a shortest side of 256"):
        judge(str(folder), ["cat/1", "dog/2"], ["truth"], crop=300, shortest=256)
    note = reading.saved_note(reading.find(folder))
    note["config"]["data"]["crop"], note["config"]["eval"]["shortest"] = 48, 0
    del note["origin"]
    with monkeypatch.context() as patched:  # of a run of ours: as it was evaluated
        patched.setattr(reading, "saved_note", lambda _: note)
        own = judge(str(folder), ["cat/1", "dog/2"], ["truth"])
        assert (own.crop, own.shortest) == (48, 48)
    load = reading.load_encoder

    def gray(path):
        encoder, variables = load(path)
        return encoder.clone(in_channels=1), variables

    monkeypatch.setattr(reading, "load_encoder", gray)
    with pytest.raises(WeightsError, match="reads gray"):
        judge(str(folder), ["cat/1", "dog/2"], ["truth"])
