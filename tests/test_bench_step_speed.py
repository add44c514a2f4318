"""Measured speed: what is counted, when a sweep ends, and the table of `bench step`."""

import dataclasses

import jax
import pytest
import tiny

from colorize_jax.bench import __main__ as bench
from colorize_jax.bench import cost, step_speed
from colorize_jax.training import hardware

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
    alone = cost.plan_step(tiny.config(), 2, jax.devices()[:1])
    # The update, a large part of so small a step, is counted as if devices shared it.
    assert measured.flops == pytest.approx(step_speed.as_written(alone), rel=0.1)


def test_matrix_rate_is_that_of_the_product(monkeypatch):
    monkeypatch.setattr(hardware, "_MATRICES", {"cpu": (64, 256)})
    assert 1e8 < hardware.matrix_rate("float32", seconds=0.01) < 1e16


def test_copy_rate_is_of_bytes_read_and_written(monkeypatch):
    def median_seconds(work, seconds):
        assert work().nbytes == 2**20
        return 0.5

    monkeypatch.setattr(hardware, "median_seconds", median_seconds)
    assert hardware.copy_rate(size=2**20) == 2 * 2**20 / 0.5


def _sweep(monkeypatch, seconds, rows=(1, 2, 4, 8, 16)):
    """Sizes that were measured, if each took so many seconds a step; None: too much memory."""

    def measure(config, size, *, seconds):
        if taken[size] is None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no")
        return dataclasses.replace(SPEED, rows=size, step_seconds=taken[size])

    taken = dict(zip(rows, seconds, strict=True))
    monkeypatch.setattr(step_speed, "measure", measure)
    lines = []
    found = list(step_speed.sweep(tiny.config(), rows, seconds=1, say=lines.append))
    return [speed.rows for speed in found], lines


def test_sweep_ends_where_more_photos_are_no_faster(monkeypatch):
    assert _sweep(monkeypatch, (1.0, 1.1, 1.5, 2.99, 3.0))[0] == [1, 2, 4, 8]


def test_sweep_ends_where_memory_does(monkeypatch):
    found, lines = _sweep(monkeypatch, (1.0, 1.1, None, 1.2, 1.3))
    assert found == [1, 2]
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


def _measured(monkeypatch, seconds_of):
    """Lets every step be as fast as told; what was fed, in order."""
    fed = []

    def measure(config, rows, *, seconds, photos=None):
        assert config.model.width == 0.5
        speed = dataclasses.replace(
            SPEED, dtype=config.model.dtype, rows=rows, step_seconds=seconds_of(config, rows)
        )
        if photos is None:
            return speed
        fed.append(rows)
        return dataclasses.replace(speed, fed=float(len(photos)))

    monkeypatch.setattr(step_speed, "measure", measure)
    monkeypatch.setattr(hardware, "matrix_rate", lambda dtype: 1e12)
    return fed


COMMAND = ("step", "--config=quickstart", "--config.model.width=0.5")


def test_command_feeds_the_fastest(monkeypatch, capsys):
    fed = _measured(monkeypatch, lambda config, rows: {2: 0.5, 4: 0.625, 8: 1.25}[rows])
    bench.main([*COMMAND, "--dtypes", "float32", "--rows", "8", "4", "2"])
    assert fed == [4]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in lines if "float32 |" in line] == [
        "2", "4 (best)", "8",
    ]  # fmt: skip
    assert any("| 81 (1266%) |" in line for line in lines)
    with pytest.raises(SystemExit, match="--rows and --seconds must be positive"):
        bench.main([*COMMAND, "--dtypes", "float32", "--rows", "0"])


def test_a_command_that_is_stopped_shows_what_it_has(monkeypatch, capsys):
    def seconds_of(config, rows):
        if config.model.dtype == "bfloat16" or rows == 4:
            raise KeyboardInterrupt
        return 1.0

    _measured(monkeypatch, seconds_of)
    bench.main([*COMMAND, "--rows", "2", "4", "--config.data.source="])
    printed = capsys.readouterr()
    assert "| float32 | 2 (best) |" in printed.out
    assert "stopped; this is what was measured" in printed.err
