"""Estimates how long a run will take, from its compiled step and then from its first steps."""

import functools
import time

import jax

from colorize_jax.training import hardware

# The assumed speed of a training step, as a share of the speed of large matrix products. On a CPU
# 0.29 to 0.76 was measured (docs/speed.md).
REACHED = 0.5
FULL_SIZE = 0.5  # From this config.model.width on, a network is too large for a CPU.
# An estimate from steps needs this many steps and this much time.
MEASURED_STEPS, MEASURED_SECONDS = 3, 10.0
_UNITS = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("year", 365 * 86400))


def small_settings(config, platform: str) -> str:
    """Advice if a network of full size is trained on a CPU; "" otherwise.

    Args:
        config: the config of the run.
        platform: JAX's name of the devices' platform.
    """
    model = config.model
    tiny = model.name == "vit" and model.size == "tiny"
    if platform != "cpu" or model.width < FULL_SIZE or tiny:
        return ""
    said = (
        f"{model.name} at width {model.width:g} on a CPU: full-size networks are made for "
        "accelerators (pip install '.[cuda]' or '.[tpu]')"
    )
    if config.init_from != "random":
        return f"{said}; a pretrained network keeps its width"
    if model.name == "vit":
        return f"{said}. To try things out here: --config.model.size=tiny --config.model.blocks=4"
    less = "name=resnet14" if model.name.startswith("resnet") else "fc6_kernel=3"
    return (
        f"{said}. To try things out here: --config.model.width=0.25 --config.model.{less} "
        '--config.model.hidden=256 --config.data.scale="(128,257)" --config.data.crop=64'
    )


def guess(compiled, config, microbatches: int, steps: int) -> str:
    """A guess from the compiled step's FLOPs, such as "36 steps, about 11 minutes on 1 x cpu".

    On a CPU it may be wrong by a factor of two; other devices were not compared. It does not count
    evaluations, nor waiting for photos.

    Args:
        compiled: the compiled step.
        config: the config of the run.
        microbatches: the number of microbatches; XLA counts the body of their loop only once.
        steps: the number of steps to do.
    """
    devices = jax.devices()
    platform = devices[0].platform
    where = f"on {len(devices)} x {devices[0].device_kind}"
    plain = f"{steps:,} steps {where}"
    try:
        flops = _flops(compiled) * microbatches
        rate = REACHED * _rate(config.model.dtype, platform)
    except Exception:  # The run can go on without a guess, for example if the memory is too small.
        return plain
    if not flops:
        return plain
    # Several CPU devices of a process share its cores.
    sharing = len(jax.local_devices()) if platform == "cpu" else 1
    return (
        f"{steps:,} steps, about {roughly(steps * flops * sharing / rate)} {where}: a guess from a "
        f"step's {_amount(flops)} and the speed of matrix products here, without evaluations"
    )


class Pace:
    """Estimates the time left, once, from the first steps of a process.

    Args:
        first, last: the first and last step of this process; `first` is done.
        evaluations: the seconds that all later evaluations will take.
    """

    def __init__(self, first: int, last: int, evaluations: float):
        self._first, self._last, self._evaluations = first, last, evaluations
        self._began, self.told = time.monotonic(), False

    def line(self, step: int) -> str:
        """The estimate after a step, or "" if it is not time for it."""
        done, elapsed = step - self._first, time.monotonic() - self._began
        if self.told or done < MEASURED_STEPS or elapsed < MEASURED_SECONDS:
            return ""
        self.told = True
        left = (self._last - step) * elapsed / done + self._evaluations
        what = " and the first evaluation" if self._evaluations else ", without evaluations"
        return (
            f"step {step}/{self._last}  about {roughly(left)} left, by the last {done} steps{what}"
        )


def roughly(seconds: float) -> str:
    """A duration in one unit, of two digits at most: "40 seconds", "11 minutes", "2.5 days"."""
    name, unit = [(n, u) for n, u in _UNITS if seconds >= 1.5 * u or u == 1][-1]
    value = max(seconds / unit, 1)
    shown = f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"{shown} {name}{'' if shown == '1' else 's'}"


def _flops(compiled) -> float:
    """The FLOPs of one device; 0 if the compiler does not count them."""
    found = compiled.cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found
    return max(found.get("flops", 0.0), 0.0)


@functools.cache
def _rate(dtype: str, platform: str) -> float:
    """FLOP/s of a device in matrix products; the measurement takes a tenth of a second."""
    return hardware.matrix_rate(dtype, 0.05, (512,) if platform == "cpu" else (4096,))


def _amount(flops: float) -> str:
    return f"{flops / 1e12:.2g} TFLOP" if flops >= 1e11 else f"{flops / 1e9:.2g} GFLOP"
