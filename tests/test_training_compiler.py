"""The options of XLA: only known ones are passed, and they have an effect."""

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.training import compiler


def test_settings_that_this_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU", {"xla_no_such_setting": "1"})
    assert compiler.options("cpu") == {}


def test_other_platforms_get_no_options():
    assert compiler.options("tpu") == compiler.options("gpu") == {}


def test_on_cpu_no_convolution_goes_to_ynnpack():
    settings = compiler.options("cpu")
    if not settings:
        pytest.skip("this XLA has no such setting")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    photos, kernel = jnp.ones((2, 64, 64, 32)), jnp.ones((3, 3, 32, 32))
    step = jax.jit(convolve, compiler_options=settings).lower(photos, kernel).compile()
    assert "ynn_fusion" not in step.as_text()
