"""JSON files that have, or do not have, the form that the project writes."""

import json

import pytest

from colorize_jax import json_files
from colorize_jax.errors import CheckpointError
from colorize_jax.json_files import COUNT, Number

FORM = {
    "step": COUNT,
    "scores": {str: (float, None)},
    "drops": [int],
    "pair": [int, str],
    "share": Number(float, 0, 1),
    "note?": str,
}
GOOD = {
    "step": 3,
    "scores": {"a": 1, "b": None},
    "drops": [],
    "pair": [1, "a"],
    "share": 0.5,
    "more": [{}],
}


def test_what_has_its_form_is_given(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD))
    assert json_files.read(path, FORM, CheckpointError, "delete it") == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "3"}, 'its "step" is "3" and not a whole number of at least 0'),
        ({"step": True}, 'its "step" is true and not a whole'),
        ({"step": 3.0}, 'its "step" is 3.0 and not a whole'),
        ({"step": 10**30}, 'its "step" is 1000'),
        ({"scores": []}, 'its "scores" is a list of 0 and not an object'),
        ({"scores": {"\x1b[2J": "x"}}, r'its "scores.\\x1b[2J" is "x" and not a number or null'),
        ({"drops": [1, None]}, r'its "drops[1]" is null and not a whole number'),
        ({"pair": [1]}, 'its "pair" is a list of 1 and not a list of 2'),
        ({"pair": [1, 2]}, r'its "pair[1]" is 2 and not text'),
        ({"share": float("nan")}, 'its "share" is NaN and not a number from 0 to 1'),
        ({"share": 1.5}, 'its "share" is 1.5 and not'),
        ({"note": {}}, 'its "note" is an object and not text'),
        ({"more": json.loads("[" * 100 + "]" * 100)}, "nested too deeply"),
    ],
)
def test_another_form_is_a_sentence_with_file_and_field(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(CheckpointError) as error:
        json_files.read(path, FORM, CheckpointError, "delete it")
    said = str(error.value)
    assert said.startswith(f"{path} is damaged (") and said.endswith("): delete it")
    assert message.replace("\\\\", "\\") in said and len(said) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b'{"step": 3', "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"9" * 5000, "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "it is a list of 0 and not an object"),
        (b"{}", 'it has no "step"'),
    ],
)
def test_what_is_no_json_is_a_sentence_too(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        json_files.read(path, FORM, CheckpointError, "delete it")
    with pytest.raises(CheckpointError, match="is no file"):
        json_files.read(tmp_path, FORM, CheckpointError, "delete it")


def test_unreadable_rows_are_moved_aside_and_reported(tmp_path):
    path, said = tmp_path / "rows.jsonl", []
    good = [b'{"step": 1}', b'{"step":  2, "a": "\xc3\xa9"}', b'{"step": 5}']
    bad = [b'{"step": 1', b"\xff", b"3", b'{"step": null}', b"[" * 5000, b'{"a": 1}']
    path.write_bytes(b"\n".join([good[0], *bad[:3], good[1], b"", *bad[3:], good[2]]))
    form, few = {"step": COUNT}, lambda row: row["step"] < 5
    rows = json_files.keep_good_rows(path, form, said.append, few)
    assert [row["step"] for row in rows] == [1, 2]
    # The lines are unchanged.
    assert path.read_bytes() == b"".join(line + b"\n" for line in good[:2])
    aside = tmp_path / "rows.jsonl.bad"
    assert aside.read_bytes() == b"".join(line + b"\n" for line in bad)
    (line,) = said
    assert line.startswith(f"6 of 9 rows of {path} cannot be used (of the first, no JSON")
    assert str(aside) in line
    # A second call has nothing to do, and later rows are appended.
    before = path.stat()
    assert json_files.keep_good_rows(path, form, said.append, few) == rows and len(said) == 1
    assert path.stat() == before
    path.write_bytes(b"foreign\n")
    assert json_files.keep_good_rows(path, form, said.append, few) == []
    assert aside.read_bytes().endswith(bad[-1] + b"\nforeign\n")


def test_no_file_has_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert json_files.keep_good_rows(path, {}, print, lambda row: True) == []
    assert list(tmp_path.iterdir()) == []
