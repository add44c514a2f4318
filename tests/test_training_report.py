"""Rows, pictures, time left."""

import json

import numpy as np
import pytest

from colorize_jax.errors import NonFiniteError
from colorize_jax.training import report
from colorize_jax.training.meter import Meter


def test_rows_after_the_restored_step_and_torn_rows_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "a": 1}\n{"step": 3}\n{"step": 2, "b"')
    report.cut_rows(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "a": 1}\n'


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


def test_picture_grid_puts_one_strip_below_the_other(rng):
    strips = rng.integers(0, 255, (3, 4, 6, 3), dtype=np.uint8)
    grid = report.picture_grid(strips)
    assert grid.shape == (16, 6, 3)
    for i in range(3):
        np.testing.assert_array_equal(grid[6 * i : 6 * i + 4], strips[i])
    assert (grid[4:6] == 255).all()


def test_meter_means_and_speed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("colorize_jax.training.meter.time.monotonic", lambda: clock[0])
    meter = Meter(batch_size=4)
    meter.add(1, {"loss": np.float32(7)}, waited=5.0)
    clock[0] = 30.0
    meter.compiled()
    assert meter.finish() == {"train/loss": 7}  # only compilation so far: no speed to tell
    for step in (2, 3):
        clock[0] += 2
        meter.add(step, {"loss": np.float32(step)}, waited=1.0)
    with meter.paused():
        clock[0] += 100
    values = meter.finish()
    assert values == {
        "train/loss": 2.5,
        "train/images_per_second": 2.0,
        "train/data_wait": 0.5,
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_meter_names_the_step_and_the_positions_that_went_wrong(bad):
    meter = Meter(batch_size=4)
    for step, loss in ((1, 1.0), (2, bad), (3, 1.0)):
        meter.add(step, {"loss": np.float32(loss)}, waited=0.0)
    with pytest.raises(NonFiniteError, match=r"step 2 .*positions 4 to 7"):
        meter.check()


def test_rows_are_valid_json_and_a_resumed_report_appends(tmp_path):
    for start, step in ((0, 1), (1, 2)):
        with report.Report(tmp_path, step=start, steps=2) as written:
            written.started(step, 0.1)
            written.progress(step, {"train/loss": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.5}]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with report.Report(tmp_path, step=0, steps=4) as written:
        written.started(1, 0.1)
        written.progress(2, {"train/loss": 0.25})
    shown = capsys.readouterr().err
    assert "2/4" in shown and "loss 0.2500" in shown
