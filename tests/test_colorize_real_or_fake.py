"""The page on which people tell false colors from real ones, and what is made of their answers."""

import csv
import io
import json
import re

import browser
from colored import photo, run, write
import numpy as np
import pytest

from colorize_jax import command_line
from colorize_jax.colorize import fooled, real_or_fake, score
from colorize_jax.errors import ConfigError, DataError


@pytest.fixture
def folders(tmp_path, rng):
    """Nine photos, colored by two methods, one of which turns them upside down."""
    truth = {f"p{i}": photo(rng) for i in range(9)}
    return [
        write(tmp_path / "truth", **truth),
        write(tmp_path / "ours", **truth),
        write(tmp_path / "theirs", **{name: pixels[::-1] for name, pixels in truth.items()}),
    ]


def make(folders, output, *arguments):
    truth, *colored = folders
    run(f"--truth={truth}", *(f"--colored={path}" for path in colored), "--page=real-or-fake",
        f"--output={output}", *arguments)  # fmt: skip
    return output / score.GAME


def data_of(page):
    return json.loads(re.search(r'id="data">(.*)</script>', page.read_text())[1])


def test_pairs_are_drawn_from_all_methods_and_are_encoded_alike(folders, tmp_path, capsys):
    page = make(folders, tmp_path / "out", "--trials=6", "--practice=2", "--seconds=0.5")
    data = data_of(page)
    assert "6 pairs, and 2 to practice, of 0.5 s each" in capsys.readouterr().out
    assert data["practice"] == 2 and data["milliseconds"] == 500
    names = [pair["photo"] for pair in data["pairs"]]
    assert len(set(names)) == 8 and names != sorted(names)
    methods = [pair["method"] for pair in data["pairs"]]
    assert methods == [str(folders[1]), str(folders[2])] * 4
    same = [pair["real"] == pair["fake"] for pair in data["pairs"]]
    assert same == [True, False] * 4  # the first method changes nothing, not even the encoding
    assert "http" not in page.read_text().replace("http-equiv", "")


def test_a_page_of_fewer_photos_than_asked_for_says_so(folders, tmp_path, capsys):
    page = make(folders, tmp_path / "out")
    assert "there are no more photos" in capsys.readouterr().out
    data = data_of(page)
    assert len(data["pairs"]) == 9 and data["practice"] == 1
    with pytest.raises(ConfigError, match="exists"):
        make(folders, tmp_path / "out")


@pytest.mark.parametrize("wrong", ["--trials=0", "--practice=-1", "--seconds=0", "--seconds=nan"])
def test_tests_that_make_no_sense_are_refused(folders, tmp_path, wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        make(folders, tmp_path / "out", wrong)


@browser.needed
def test_a_browser_without_a_network_plays_the_page_and_saves_the_answers(
    folders, tmp_path, capsys
):
    page = make(folders, tmp_path / "out", "--trials=6", "--practice=2", "--seconds=0.2")
    with browser.page(tmp_path) as tab:
        tab.open(page.as_uri())
        tab.evaluate("""{
            window.seen = [];
            const sides = ["left", "right"].map((side) => document.getElementById(side));
            new MutationObserver(() => seen.push([
                ...sides.map((side) => side.querySelector("img")?.naturalWidth ?? 0),
                document.getElementById("say-left").disabled,
            ])).observe(sides[1], { childList: true });
        }""")
        tab.evaluate("""document.getElementById("person").value = '=Ann "A", x'""")
        tab.evaluate('document.getElementById("begin").click()')
        for number in range(8):
            tab.wait('!document.getElementById("say-left").disabled')
            assert tab.evaluate("seen") == [[256, 256, True], [0, 0, False]] * (number + 1)
            tab.evaluate('document.getElementById("say-left").click()')
            if number < 2:
                told = tab.evaluate('document.getElementById("said").textContent')
                assert re.fullmatch("(Yes|No): the (left|right) one is fake.", told)
                tab.evaluate('document.getElementById("next").click()')
        tab.wait('!document.getElementById("end").hidden')
        # What would be saved: the browser's own saving is not of this page.
        text = tab.evaluate("""new Promise((done) => {
            URL.createObjectURL = (blob) => { blob.text().then(done); return "data:,"; };
            HTMLAnchorElement.prototype.click = () => {};
            document.getElementById("save").click();
        })""")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == real_or_fake.COLUMNS and len(rows) == 8
    assert [row["practice"] for row in rows] == ["1"] * 2 + ["0"] * 6
    assert {row["person"] for row in rows} == {'\'=Ann "A", x'}  # no formula of a spreadsheet
    assert {row["photo"] for row in rows} == {pair["photo"] for pair in data_of(page)["pairs"]}
    for row in rows:
        assert row["answer"] == "left" and row["fooled"] == str(int(row["fake_side"] == "right"))
        assert int(row["milliseconds"]) >= 200
    answers = tmp_path / "answers.csv"
    answers.write_text(text)
    capsys.readouterr()
    fooled.main(command_line.parse(fooled.parser(), [str(answers)]))
    expected = np.mean([int(row["fooled"]) for row in rows[2:]])
    assert re.search(rf"^all +6 +1 +{expected:.1%} ", capsys.readouterr().out, re.MULTILINE)


def _answers(path, rows):
    lines = [",".join(real_or_fake.COLUMNS)]
    for i, (person, method, practice, wrong) in enumerate(rows):
        lines.append(f'"{person}",{i},{practice},"p{i}","{method}",left,left,{wrong},900,t{i}')
    path.write_text("\r\n".join(lines) + "\r\n")
    return str(path)


def test_the_share_fooled_has_an_interval_over_persons(tmp_path, capsys):
    """Four persons with 25 answers each, whose shares are 0, 20, 40 and 60 percent."""
    rows = [(f"p{k}", "ours", 0, int(i < 5 * k)) for k in range(4) for i in range(25)]
    path = _answers(tmp_path / "a.csv", [*rows, ("p0", "ours", 1, 1)])
    answers, twice = fooled.read([path, path])
    assert len(answers) == 100 and twice == 100
    found = fooled.share(answers, seed=1)["ours"]
    assert found["trials"] == 100 and found["persons"] == 4 and found["over"] == "persons"
    assert found["fooled"] == pytest.approx(0.3)
    # All means of four shares drawn from four, each as likely: the middle 95 % of them.
    draws = np.array(np.meshgrid(*[[0, 0.2, 0.4, 0.6]] * 4)).reshape(4, -1).mean(0)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.011)
    assert found["high"] == pytest.approx(high, abs=0.011)
    fooled.main(command_line.parse(fooled.parser(), [path, f"--json={tmp_path / 'f.json'}"]))
    assert re.search(r"ours +100 +4 +30.0% .*persons", capsys.readouterr().out)
    assert json.loads((tmp_path / "f.json").read_text())["ours"]["fooled"] == pytest.approx(0.3)


def test_of_one_person_the_interval_is_over_answers_and_methods_stand_apart(tmp_path):
    rows = [("ann", ["ours", "theirs"][i % 2], 0, int(i % 2 == 0)) for i in range(40)]
    found = fooled.share(fooled.read([_answers(tmp_path / "a.csv", rows)])[0])
    assert found["ours"]["fooled"] == found["ours"]["low"] == 1
    assert found["theirs"]["fooled"] == found["theirs"]["high"] == 0
    both = found["all"]
    assert both["over"] == "answers" and both["low"] < 0.4 < both["fooled"] == 0.5 < both["high"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "no column 'person'"),
        (b"\xff\xfe\x00", "no text"),
        ((",".join(real_or_fake.COLUMNS) + "\n").encode(), "no answer that counts"),
        ((",".join(real_or_fake.COLUMNS) + "\na,1,0,p,m,left,left,yes,9,t\n").encode(), "line 2"),
    ],
)
def test_files_that_hold_no_answers_are_a_sentence(content, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        fooled.read([str(path)])
    with pytest.raises(DataError, match="no file of answers"):
        fooled.read([str(tmp_path)])


def test_the_middle_square_is_shown():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 255
    assert real_or_fake._square(pixels).shape == (256, 256, 3)
    assert real_or_fake._square(pixels)[:, 5:-5].min() == 255
