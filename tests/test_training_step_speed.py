"""Measured speed: what is counted, when a sweep ends, and the table of `bench step`."""

import dataclasses

import jax
import pytest
import tiny

from colorize_jax import bench
from colorize_jax.training import cost, step_speed

SPEED = step_speed.Speed("float32", 8, 1, 20.0, 0.5, 3e9, 2**30, 2**31)


@pytest.fixture(scope="module")
def measured():
    return step_speed.measure(tiny.config(), 2, seconds=0.01)


def test_photos_are_those_of_all_devices():
    assert dataclasses.replace(SPEED, devices=4).photos == 8 * 4 / 0.5


def test_step_is_run_on_all_devices(measured):
    assert (measured.rows, measured.devices) == (2, jax.device_count())
    assert measured.step_seconds > 0
    assert measured.compile_seconds > 0
    assert measured.counted > 0
    assert measured.seen > 2**20


def test_flops_are_those_of_one_device(measured):
    alone = cost.plan_step(tiny.config(), 2, jax.devices()[:1]).lower()
    # The update, a large part of so small a step, is counted as if devices shared it.
    assert measured.flops == pytest.approx(alone.cost_analysis()["flops"], rel=0.1)


def test_matrix_rate_is_that_of_the_product(monkeypatch):
    monkeypatch.setattr(step_speed, "_MATRICES", {"cpu": (64, 256)})
    assert 1e8 < step_speed.matrix_rate("float32", seconds=0.01) < 1e16


def _sweep(monkeypatch, seconds, rows=(1, 2, 4, 8, 16)):
    """Sizes that were measured, if each took so many seconds a step; None: too much memory."""
    asked = []

    def measure(config, size, *, seconds, photos=None):
        asked.append((size, photos))
        if taken[size] is None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no")
        fed = None if photos is None else 7.0
        return dataclasses.replace(SPEED, rows=size, step_seconds=taken[size], fed=fed)

    taken = dict(zip(rows, seconds, strict=True))
    monkeypatch.setattr(step_speed, "measure", measure)
    lines = []
    found = step_speed.sweep(tiny.config(), rows, seconds=1, photos="photos", say=lines.append)
    return found, asked, lines


def test_sweep_ends_where_more_photos_are_no_faster_and_feeds_the_fastest(monkeypatch):
    found, asked, _ = _sweep(monkeypatch, (1.0, 1.1, 1.5, 2.99, 3.0))
    assert [speed.rows for speed in found] == [1, 2, 4, 8]
    assert asked == [(1, None), (2, None), (4, None), (8, None), (8, "photos")]
    assert [speed.fed for speed in found] == [None, None, None, 7.0]


def test_sweep_ends_where_memory_does(monkeypatch):
    found, _, lines = _sweep(monkeypatch, (1.0, 1.1, None, 1.2, 1.3))
    assert [speed.rows for speed in found] == [1, 2]
    assert lines[-1] == "4 photos a device: out of memory"
    with pytest.raises(jax.errors.JaxRuntimeError):
        _sweep(monkeypatch, (None, 1.0, 1.0, 1.0, 1.0))


def test_table():
    text = step_speed.report(
        tiny.config(),
        {"float32": [SPEED, dataclasses.replace(SPEED, rows=16, fed=8.0)]},
        {"float32": 12e9},
    )
    assert "| float32 | 8 | 20.0 | 500.0 | 16 | 0.006 | 50% | 1.00 | 2.00 | - |" in text
    assert "| 16 (best) | 20.0 | 500.0 | 32 | 0.006 | 50% | 1.00 | 2.00 | 8 (25%) |" in text
    assert "float32 0.012 TFLOP/s" in text


def test_command(monkeypatch, capsys):
    def sweep(config, rows, *, seconds, photos, say):
        assert (config.model.dtype, config.model.width, rows) == ("float32", 0.5, [2, 4])
        return [dataclasses.replace(SPEED, fed=float(len(photos)))]

    monkeypatch.setattr(step_speed, "sweep", sweep)
    monkeypatch.setattr(step_speed, "matrix_rate", lambda dtype: 1e12)
    recipe = ["step", "--config=configs/quickstart.py", "--set", "model.width=0.5", "--dtypes"]
    bench.main([*recipe, "float32", "--rows", "4", "2", "--source=builtin:photos"])
    assert "| 10 (62%) |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--rows and --seconds must be positive"):
        bench.main([*recipe, "float32", "--rows", "0"])
