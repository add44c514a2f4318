"""Tests of the commands `python -m colorize_jax.data check` and `pack`."""

import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tiny

from colorize_jax.data import __main__ as command
from colorize_jax.data import decode, pack, sources
from colorize_jax.data.records import ArrayRecords
from colorize_jax.errors import DataError

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path, rng):
    """Nine files: one photo is gray, one is large, one file is no photo."""
    folder = tmp_path / "photos"
    tiny.write_photos(folder, 6, rng)
    Image.new("L", (60, 50), 128).save(folder / "gray.png")
    tiny.write_photos(folder / "large", 1, rng, size=(300, 400))
    (folder / "bad.jpg").write_text("<html>")
    return folder


def test_check_reports_what_is_there(folder, capsys):
    command.main(["check", str(folder), "--scale", "64", "129", "--crop", "64"])
    text = capsys.readouterr().out
    assert "9 photos, 8 readable, 1 not" in text
    assert "1 x not an image" in text and "bad.jpg: not an image" in text
    assert "gray: 12.5%" in text
    assert "shortest side: 48 to 300 pixels" in text
    assert "enlarged whatever the draw: 87.5%, sometimes: 0.0%, never: 12.5%" in text
    assert "reduced first: 12.5%" in text


def test_pack_keeps_every_byte_and_every_name(folder, tmp_path, capsys):
    out = str(tmp_path / "packed")
    command.main(["pack", str(folder), out, "--shard_photos=4"])
    assert "8 photos packed and verified" in capsys.readouterr().out
    packed, source = sources.open_source(out), sources.open_source(str(folder))
    assert isinstance(packed, ArrayRecords)
    names = [name for name in source.names if name != "bad.jpg"]
    assert list(packed.names) == names
    for i, name in enumerate(names):
        assert packed[i].image == (folder / name).read_bytes()
    rows = (tmp_path / "packed" / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == [{"name": "bad.jpg", "reason": "not an image"}]
    # The names stay the same, so the same photos are held out.
    held_out = [sources.open_splits(str(s), 0.3)[1] for s in (folder, out)]
    names = [[split.name(i) for i in range(len(split))] for split in held_out]
    assert [name for name in names[0] if name != "bad.jpg"] == names[1]


def test_pack_makes_large_photos_smaller_and_leaves_small_ones_alone(folder, tmp_path):
    out = str(tmp_path / "packed")
    command.main(["pack", str(folder), out, "--shortest=100"])
    packed = ArrayRecords([str(p) for p in (tmp_path / "packed").glob("*.array_record")])
    for i, name in enumerate(packed.names):
        before = decode.decode((folder / name).read_bytes())
        after = decode.decode(packed[i].image)
        if name.startswith("large"):
            assert after.shape == (100, 133, 3)
            expected = np.asarray(Image.fromarray(before).resize((133, 100), Image.Resampling.BOX))
            assert np.abs(after.astype(int) - expected).mean() < 3
        else:
            np.testing.assert_array_equal(after, before)


def test_pack_resumes_where_it_was_stopped(folder, tmp_path, monkeypatch):
    out = tmp_path / "packed"
    plain, written = pack._write, []

    def stop_after_one(shard, encoded):
        if written:
            raise KeyboardInterrupt
        written.append(shard)
        plain(shard, encoded)

    arguments = ["pack", str(folder), str(out), "--shard_photos=3"]
    with monkeypatch.context() as patch:
        patch.setattr(pack, "_write", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            command.main(arguments)
    first = out / "photos-00000-of-00003.array_record"
    before = first.stat().st_mtime_ns
    (out / "photos-00001-of-00003.array_record.tmp").write_bytes(b"half a shard")
    command.main(arguments)
    assert first.stat().st_mtime_ns == before
    assert len(sources.open_source(str(out)).names) == 8
    assert len((out / "bad_records.jsonl").read_text().splitlines()) == 1


def test_pack_notices_what_was_written_wrongly(folder, tmp_path, monkeypatch):
    plain = pack._verify

    def damage(path, sums):
        plain(path, [sums[0] ^ 1, *sums[1:]])

    monkeypatch.setattr(pack, "_verify", damage)
    with pytest.raises(SystemExit, match="reads differently"):
        command.main(["pack", str(folder), str(tmp_path / "packed")])
    assert not list((tmp_path / "packed").glob("*.array_record"))


def test_pack_refuses_a_folder_with_other_shards(folder, tmp_path):
    out = str(tmp_path / "packed")
    command.main(["pack", str(folder), out])
    with pytest.raises(SystemExit, match="other options.*shortest"):
        command.main(["pack", str(folder), out, "--shortest=50"])
    (folder / "bad.jpg").rename(folder / "worse.jpg")
    with pytest.raises(SystemExit, match="names"):
        command.main(["pack", str(folder), out])


def test_pack_of_photos_that_are_decoded_already(tmp_path):
    command.main(["pack", "builtin:photos", str(tmp_path / "packed")])
    packed, source = (sources.open_source(s) for s in (str(tmp_path / "packed"), "builtin:photos"))
    np.testing.assert_array_equal(decode.decode(packed[3].image), source[3].image)


def test_mistakes_become_sentences(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "colorize_jax.data", "check", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1 and result.stderr.startswith("error: no photo in")


def test_pack_joins_sources(folder, tmp_path):
    out = str(tmp_path / "packed")
    command.main(["pack", f"{folder},builtin:photos", out])
    assert len(sources.open_source(out).names) == 8 + 10


def test_half_packed_shards_are_no_source(folder, tmp_path):
    out = tmp_path / "packed"
    command.main(["pack", str(folder), str(out), "--shard_photos=3"])
    shard = out / "photos-00001-of-00003.array_record"
    shard.rename(out / "elsewhere")
    with pytest.raises(DataError, match="2 of 3 shards"):
        sources.open_source(str(out))
    (out / "elsewhere").rename(shard)
    (out / (shard.name + ".names")).unlink()
    with pytest.raises(DataError, match="shards"):
        sources.open_source(str(out))


def test_photo_that_the_encoder_cannot_take_is_left_out(tmp_path, capsys):
    Image.new("L", (70000, 605)).save(tmp_path / "wide.png")
    Image.new("RGB", (50, 60)).save(tmp_path / "good.png")
    command.main(["pack", str(tmp_path), str(tmp_path / "packed"), "--shortest=600"])
    assert "1 photos packed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ("pack", "builtin:photos", "OUT", "--shard_photos=0"),
        ("pack", "builtin:photos", "OUT", "--shortest=-5"),
        ("pack", "builtin:photos", "OUT", "--quality=500"),
        ("pack", "builtin:photos", "FILE"),
        ("--threads=0", "check", "builtin:photos"),
        ("check", "builtin:photos", "--scale", "600", "352"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, flags):
    (tmp_path / "file").write_text("")
    places = {"OUT": str(tmp_path / "packed"), "FILE": str(tmp_path / "file")}
    with pytest.raises(SystemExit) as error:
        command.main([places.get(flag, flag) for flag in flags])
    assert error.value.code not in (0, None)
