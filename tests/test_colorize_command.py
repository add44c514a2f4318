"""The command: which photos are meant, where results go, and what is said of what cannot be."""

import io
import os
import pathlib
import subprocess
import sys
import zipfile

import browser
import colorizers
import numpy as np
from PIL import Image
import pytest
import saved

from colorize_jax.colorize import __main__ as command
from colorize_jax.colorize import inputs
from colorize_jax.colorize.colorizer import Colorizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return colorizers.save(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def shared(checkpoint):
    return Colorizer.load(checkpoint, size=32)


@pytest.fixture
def run(shared, monkeypatch, capsys, tmp_path):
    """Calls the command with words; gives (code, lines on stdout, stderr)."""
    monkeypatch.setattr(Colorizer, "load", lambda path, size=None: shared)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = 0
        try:
            command.main(command.parser().parse_args([str(word) for word in words]))
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return call


def _write(path, seed=0, gray=False, size=(40, 30), **settings):
    rng = np.random.default_rng(seed)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    small = rng.integers(0, 256, (4, 5, 1 if gray else 3), dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(small, (4, 5, 3)).copy())
    image.resize(size, Image.Resampling.BILINEAR).save(path, **settings)
    return path


def test_one_photo_becomes_one_file(run):
    _write("a.jpg", gray=True)
    code, out, err = run("a.jpg", "-o", "b.png")
    assert (code, out) == (0, ["b.png"]) and "1 photo colored, 0 failed" in err
    with Image.open("b.png") as image:
        assert image.size == (40, 30) and image.format == "PNG"
        assert np.ptp(np.asarray(image).astype(int), axis=-1).max() > 0


def test_a_folder_keeps_its_tree_and_its_names(run):
    for name in ("in/a.jpg", "in/sub/b.png", "in/sub/deep/c.tif"):
        _write(name)
    code, out, err = run("in", "-o", "out")
    assert (code, out) == (0, ["out/a.jpg"]) and "2 in folders below" in err
    code, out, err = run("in", "-o", "out", "--recursive", "--skip_existing")
    assert code == 0 and sorted(out) == ["out/sub/b.png", "out/sub/deep/c.tif"]
    assert "left out: 1 photo with a result" in err


def test_archives_and_lists_are_read(run, monkeypatch):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.write(_write("x/a.png"), "album/a.png")
    assert run("photos.zip", "-o", "out")[:2] == (0, ["out/album/a.png"])
    _write("y/b.png")
    names = io.TextIOWrapper(io.BytesIO(b"x/a.png\n\ny/b.png\n"))
    monkeypatch.setattr(sys, "stdin", names)
    code, out, _ = run("-", "-o", "listed")
    assert code == 0 and sorted(out) == ["listed/x/a.png", "listed/y/b.png"]


def test_what_fails_is_named_and_the_rest_is_done(run):
    for number in range(3):
        _write(f"in/{number}.jpg", number)
    pathlib.Path("in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    pathlib.Path("text.txt").write_text("hello")
    code, out, err = run("in", "text.txt", "gone.jpg", "-o", "out")
    assert code == 1 and sorted(out) == [f"out/in/{n}.jpg" for n in range(3)]
    assert "failed: in/broken.jpg: damaged image" in err
    assert "failed: text.txt: not an image" in err and "failed: gone.jpg: there is no" in err
    assert "3 photos colored, 3 failed" in err
    assert not list(pathlib.Path("out").rglob("*.tmp"))


def test_no_photo_is_said(run):
    pathlib.Path("empty").mkdir()
    code, out, err = run("empty", "-o", "out")
    assert (code, out) == (1, []) and "no photo is in it" in err


def test_nothing_is_overwritten_unasked(run):
    _write("a.png", 0)
    assert run("a.png", "-o", "out")[0] == 0
    before = pathlib.Path("out/a.png").read_bytes()
    _write("a.png", 1)
    code, _, err = run("a.png", "-o", "out")
    assert code == 1 and "--overwrite" in err
    assert pathlib.Path("out/a.png").read_bytes() == before
    assert run("a.png", "-o", "out", "--overwrite")[0] == 0
    assert pathlib.Path("out/a.png").read_bytes() != before
    code, _, err = run("a.png", "-o", ".", "--overwrite")
    assert code == 1 and "replace it" in err


def test_two_results_of_one_name_are_refused(run):
    _write("x/a.png")
    _write("y/A.PNG")
    _write("y/b.png")
    code, out, err = run("x/a.png", "y/A.PNG", "y/b.png", "-o", "out")
    assert (code, out) == (1, ["out/b.png"])
    assert err.count("would be called as that of") == 2


def test_results_in_the_folder_of_the_photos_are_no_photos(run):
    _write("in/a.png")
    for _ in range(2):
        code, out, err = run("in", "-o", "in/out", "--recursive", "--overwrite")
        assert (code, out) == (0, ["in/out/a.png"])
    assert "which lies in it" in err


def test_wrong_use_ends_with_2(run):
    _write("a.png")
    for words, said in (
        (["a.png", "--overwrite", "--skip_existing"], "contradict"),
        (["a.png", "--quality=0"], "--quality"),
        (["a.png", "--format=gif"], "known: same, jpg"),
        (["a.png", "--decode=best"], "knows median"),
        (["a.png", "a.png", "-o", "b.png"], "name a folder"),
        (["a.png", "--samples=-1"], "--samples"),
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, []) and said in err, words
    with pytest.raises(SystemExit) as stopped:
        command.parser().parse_args([])
    assert stopped.value.code == 2


def test_a_checkpoint_that_cannot_color_ends_with_2(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    _write("a.png")
    with pytest.raises(SystemExit) as stopped:
        command.main(command.parser().parse_args(["a.png", "--checkpoint=nothing"]))
    assert stopped.value.code == 2 and "no checkpoint" in capsys.readouterr().err


def test_a_disk_that_is_full_is_said(run):
    for number in range(2):
        _write(f"in/{number}.png", number, size=(200, 200))
    with saved.no_file_longer_than(1000):
        code, out, err = run("in", "-o", "out")
    assert (code, out) == (1, []) and err.count("cannot be written") == 2
    assert not list(pathlib.Path("out").iterdir())


def test_a_folder_that_cannot_be_made_is_said(run):
    _write("a.png")
    pathlib.Path("out").write_text("a file")
    code, _, err = run("a.png", "-o", "out")
    assert code == 1 and "cannot be written" in err


def test_photos_that_are_too_large_are_refused(run):
    _write("a.png")
    code, _, err = run("a.png", "-o", "out", "--max_pixels=1000")
    assert code == 1 and "more than --max_pixels=1000" in err


def test_samples_differ_and_are_numbered(run):
    _write("a.png", 3)
    code, out, _ = run("a.png", "-o", "out", "--samples=2", "--temperature=0.2")
    assert (code, out) == (0, ["out/a-1.png", "out/a-2.png"])
    first, second = (pathlib.Path(path).read_bytes() for path in out)
    assert first != second
    run("a.png", "-o", "again", "--samples=2", "--temperature=0.2")
    assert pathlib.Path("again/a-1.png").read_bytes() == first


def test_photos_with_colors_are_left_if_asked(run):
    path, gray = _write("in/a.jpg"), _write("in/b.jpg", gray=True)
    code, out, err = run("in", "-o", "out", "--keep_color", "--format=png")
    assert code == 0 and sorted(out) == ["out/a.jpg", "out/b.png"]
    assert pathlib.Path("out/a.jpg").read_bytes() == path.read_bytes()
    assert "copied as it is" in err and gray.exists()


def test_metadata_stays_unless_it_is_not_wanted(run):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    _write("a.jpg", exif=exif)
    for words, kept in (([], {0x010F: "Maker"}), (["--no_metadata"], {})):
        assert run("a.jpg", "-o", "out", "--overwrite", *words)[0] == 0
        with Image.open("out/a.jpg") as image:
            assert dict(image.getexif()) == kept


def test_results_do_not_depend_on_the_batch(run):
    for number in range(3):
        _write(f"in/{number}.png", number)
    run("in", "-o", "one")
    code, out, _ = run("in", "-o", "four", "--batch_size=4")
    assert code == 0 and len(out) == 3
    for name in ("0.png", "1.png", "2.png"):
        one, four = (np.asarray(Image.open(f"{folder}/{name}"), int) for folder in ("one", "four"))
        assert np.abs(one - four).max() <= 1  # what is compiled for four may round otherwise


def test_the_page_needs_no_network(run):
    _write("in/a.png", 1)
    _write("in/<b>.png", 2, gray=True)
    code, out, _ = run("in", "-o", "out", "--page")
    text = pathlib.Path("out/index.html").read_text()
    assert code == 0 and out[-1] == "out/index.html"
    assert "http" not in text.replace("http-equiv", "") and "<b>.png" not in text
    assert text.count("<figure>") == 2 and text.count("data-truth=") == 1 and "AuC 0." in text


@pytest.mark.slow
@browser.needed
def test_the_line_of_the_page_moves_and_the_truth_is_shown(run, tmp_path):
    _write("in/a.png", 1)
    run("in", "-o", "out", "--page")
    with browser.page(tmp_path / "profile") as page:
        page.open((tmp_path / "out" / "index.html").as_uri())
        shown = "document.querySelector('.after').src"
        before = page.evaluate(shown)
        page.evaluate(
            "{const line = document.querySelector('.pair input'); line.value = 20;"
            "line.dispatchEvent(new Event('input'))}"
        )
        at = "getComputedStyle(document.querySelector('.before')).clipPath"
        assert "80%" in page.evaluate(at)
        page.evaluate("document.querySelector('button').click()")
        assert page.evaluate(shown) != before
        page.evaluate("document.querySelector('button').click()")
        assert page.evaluate(shown) == before
        loaded = "performance.getEntriesByType('resource').filter(x => !x.name.startsWith('data:'))"
        assert page.evaluate(f"{loaded}.length") == 0


def test_the_command_as_it_is_typed(checkpoint, tmp_path):
    _write(tmp_path / "a.png")
    words = ["-m", "colorize_jax.colorize", "a.png", f"--checkpoint={checkpoint}", "--size=32"]
    places = [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "colorized/a.png\n"), done.stderr


def test_names_of_results():
    items = [
        inputs.Item("", place, None) for place in ("a.JPG", "b.gif", "c.pgm", "d", "e.f/g.webp")
    ]
    found = [names[0] for names in inputs.results(items, "", 0)]
    assert found == ["a.JPG", "b.png", "c.ppm", "d.png", "e.f/g.webp"]
    found = [names[0] for names in inputs.results(items, "TIFF", 0)]
    assert found == ["a.tif", "b.tif", "c.tif", "d.tif", "e.f/g.tif"]
    assert inputs.results(items[:1], "", 10)[0][:2] == ["a-01.JPG", "a-02.JPG"]
