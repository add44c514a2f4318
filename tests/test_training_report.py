"""Reports: rows, pictures, time left."""

import dataclasses
import functools
import json
import re
import struct

import numpy as np
import pytest
import saved
from tensorboardX.proto.event_pb2 import Event
from tqdm import tqdm

from colorize_jax import log
from colorize_jax.training import report
from colorize_jax.training.meter import Meter, NonFiniteStep, Window


def test_rows_after_the_restored_step_and_torn_rows_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "a": 1}\n{"step": 3}\n{"step": 2, "b"')
    report.cut_rows(path, 2, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "a": 1}\n'


def test_scores_that_the_checkpoint_knows_nothing_of_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    known = '{"step": 1, "eval/loss": 1}\n{"step": 2, "a": 1}\n'
    path.write_text(known + '{"step": 2, "eval/loss": 1}\n')
    report.cut_rows(path, 2, 1)
    assert path.read_text() == known


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (86400, "24:00:00"), (float("nan"), "?")],
)
def test_duration(seconds, text):
    assert report.duration(seconds) == text


def test_time_left_is_the_pace_since_the_clock_was_made(monkeypatch):
    now = iter([100.0, 130.0, 130.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(now))
    clock = report.Clock(10)
    assert clock.left(20, 50) == 90
    assert np.isnan(clock.left(10, 50))


def test_meter_means_and_speed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("colorize_jax.training.meter.time.monotonic", lambda: clock[0])
    meter = Meter(batch_size=4)
    meter.add(1, {"loss": np.float32(7), "nonfinite": 0}, waited=5.0)
    clock[0] = 30.0
    meter.restart()
    # Only compilation was timed so far, so there is no speed.
    assert meter.means() == {"train/loss": 7}
    meter.clear()
    for step in (2, 3):
        clock[0] += 2
        meter.add(step, {"loss": np.float32(step), "nonfinite": 0}, waited=1.0)
    with meter.paused():
        clock[0] += 100
    values = meter.means()
    assert values == {
        "train/loss": 2.5,
        "train/images_per_second": 2.0,
        "train/data_wait": 0.5,
    }


def test_a_mean_that_is_taken_up_comes_out_the_same():
    values = np.random.default_rng(0).random(20)
    results = []
    for stop in (None, 7, 13):
        meter = Meter(batch_size=4)
        for step, value in enumerate(values):
            if step == stop:
                meter.check()
                note = json.loads(json.dumps(dataclasses.asdict(meter.window)))
                meter = Meter(batch_size=4, window=Window(**note))
            meter.add(step, {"loss": value, "nonfinite": 0}, waited=0.0)
        results.append(meter.means()["train/loss"])
        meter.clear()
        assert meter.window == Window()
    assert results == [results[0]] * 3


def test_lost_lines_of_the_log_are_counted_in_the_metrics(tmp_path, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", full)
        with log.surviving_output(), report.Report(tmp_path, step=0, steps=9) as written:
            for step in (1, 2):
                written.progress(step, {"train/loss": 0.5})
            written.write(3, {"train/loss": 0.5})
    assert [row.get("log/lines_lost") for row in saved.rows(tmp_path)] == [None, 1, 1]


def test_meter_names_the_step_that_was_not_finite_two_steps_later_at_most():
    meter = Meter(batch_size=4)
    for step, loss, latch in ((1, 1.0, 0), (2, np.nan, 2), (3, 1.0, 2)):
        meter.add(step, {"loss": np.float32(loss), "nonfinite": latch}, waited=0.0)
    with pytest.raises(NonFiniteStep) as caught:
        meter.add(4, {"loss": np.float32(1), "nonfinite": 2}, waited=0.0)
    assert caught.value.step == 2 and np.isnan(caught.value.metrics["loss"])
    # Later steps are undone; earlier ones count.
    meter.add(3, {"loss": np.float32(3), "nonfinite": 0}, waited=0.0)
    assert meter.means()["train/loss"] == 2.0


def test_rows_are_valid_json_and_a_resumed_report_appends(tmp_path):
    for start, step in ((0, 1), (1, 2)):
        with report.Report(tmp_path, step=start, steps=2) as written:
            written.started(step)
            written.progress(step, {"train/loss": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.5}]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("colorize_jax.training.report.tqdm", functools.partial(tqdm, mininterval=0))
    with report.Report(tmp_path, step=0, steps=4) as written:
        written.started(1)
        written.stepped(2)  # Rows of metrics may be minutes apart; the bar does not wait for them.
        assert "2/4" in capsys.readouterr().err
        written.progress(3, {"train/loss": 0.25})
    shown = capsys.readouterr().err
    assert "3/4" in shown and "loss 0.2500" in shown


def test_numbers_that_are_not_finite_are_null_and_not_drawn(tmp_path):
    with report.Report(tmp_path, step=0, steps=9) as written:
        written.write(1, {"eval/loss": float("nan"), "eval/psnr": 25.0})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "eval/loss": null, "eval/psnr": 25.0}\n'
    )
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert [v.tag for e in _events(path) for v in e.summary.value] == ["eval/psnr"]


def test_rows_that_a_full_disk_refuses_are_written_when_it_takes_them(tmp_path, capsys):
    with report.Report(tmp_path, step=0, steps=9) as written:
        written.write(1, {"train/loss": 1.0})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with saved.no_file_longer_than(size + 10):  # There is room for half a row.
            written.write(2, {"train/loss": 2.0})
            written.write(3, {"train/loss": 3.0})
            assert (tmp_path / "metrics.jsonl").stat().st_size == size  # It has no half row.
        written.write(4, {"train/loss": 4.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert capsys.readouterr().err.count("cannot be written to") == 1


def test_tensorboard_reads_back_what_was_written(tmp_path):
    with report.Report(tmp_path, step=5, steps=9) as written:
        written.write(6, {"train/loss": 0.5})
        written.evaluation(7, {"eval/loss": 0.25}, np.zeros((4, 12, 3), np.uint8))
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = list(_events(path))
    assert events[0].file_version == "brain.Event:2"
    # It purges the rows of a killed run.
    assert events[1].step == 6 and events[1].session_log.status == 1
    values = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert values == [(6, "train/loss", 0.5), (7, "eval/loss", 0.25), (7, "pictures", 0.0)]


def _events(path):
    """Reads TFRecords: length, its checksum, the event, its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_no_duration_is_measured_by_a_clock_that_can_be_set():
    # These two need the time of day: for TensorBoard's events, and to compare with files' times.
    allowed = {"training/report.py", "data/folder.py"}
    package = saved.ROOT / "colorize_jax"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\(|datetime\.now", path.read_text())
    }
    assert found == allowed
