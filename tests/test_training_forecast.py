"""Estimates of a run's duration before and after its first steps, and advice on a CPU."""

import types

import jax
import pytest
import tiny

from colorize_jax.training import forecast


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1, "1 second"), (1, "1 second"), (2.5, "2.5 seconds"), (40, "40 seconds"),
        (89, "89 seconds"), (90, "1.5 minutes"), (660, "11 minutes"), (3 * 3600, "3 hours"),
        (30 * 3600, "30 hours"), (36 * 3600, "1.5 days"), (112.3 * 86400, "112 days"),
        (1.9e8, "6 years"), (1e12, "31,710 years"),
    ],
)  # fmt: skip
def test_durations_are_rough(seconds, text):
    assert forecast.roughly(seconds) == text


def _compiled(flops):
    return types.SimpleNamespace(cost_analysis=lambda: {"flops": flops})


def test_the_guess_is_the_arithmetic_of_all_steps(monkeypatch):
    monkeypatch.setattr(forecast, "_rate", lambda dtype, platform: 2e11)
    devices = len(jax.local_devices())  # They share one CPU.
    said = forecast.guess(_compiled(1e12 / devices), tiny.config(), 3, 22)
    assert said.startswith(f"22 steps, about 11 minutes on {devices} x cpu: a guess from a step's ")
    assert f"{3 / devices:.2g} TFLOP" in said and "without evaluations" in said
    for silent in (_compiled(-1.0), types.SimpleNamespace(cost_analysis=lambda: None)):
        assert forecast.guess(silent, tiny.config(), 1, 1_000) == f"1,000 steps on {devices} x cpu"

    def fail(dtype, platform):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(forecast, "_rate", fail)
    assert forecast.guess(_compiled(1e12), tiny.config(), 1, 7) == f"7 steps on {devices} x cpu"


def test_a_real_step_has_arithmetic():
    compiled = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((64, 64), "float32")).compile()
    assert forecast._flops(compiled) == pytest.approx(2 * 64**3, rel=0.1)
    assert forecast._rate("float32", "cpu") > 1e8


def test_the_first_steps_tell_once_how_long_the_rest_takes(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: clock[0])
    pace = forecast.Pace(10, 110, evaluations=60.0)
    said = []
    for step in range(11, 20):
        clock[0] += 6.0
        said.append(pace.line(step))
    assert [bool(line) for line in said] == [False] * 2 + [True] + [False] * 6
    assert said[2] == (
        "step 13/110  about 11 minutes left, by the last 3 steps and the first evaluation"
    )
    pace = forecast.Pace(0, 9, evaluations=0.0)
    clock[0] += 20.0
    assert "4/9  about 25 seconds left, by the last 4 steps, without evaluations" in pace.line(4)


@pytest.mark.parametrize(
    ("settings", "platform", "shown"),
    [
        ({"model__width": 1.0}, "cpu", "--config.model.width=0.25 --config.model.fc6_kernel=3"),
        ({"model__width": 1.0, "model__name": "resnet152"}, "cpu", "--config.model.name=resnet14"),
        ({"model__width": 1.0, "init_from": "/ckpt/vgg16"}, "cpu", "a pretrained network keeps"),
        ({"model__width": 1.0}, "gpu", ""),
        ({"model__width": 0.25}, "cpu", ""),
        ({"model__width": 1.0, "model__name": "vit"}, "cpu", "--config.model.size=tiny"),
        ({"model__width": 1.0, "model__name": "vit", "model__size": "tiny"}, "cpu", ""),
    ],
)
def test_a_full_size_network_on_a_cpu_gets_advice_on_small_settings(settings, platform, shown):
    said = forecast.small_settings(tiny.config(**settings), platform)
    assert shown in said and bool(said) == bool(shown)
