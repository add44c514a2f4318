"""What a step costs: the counts against counts by hand."""

import functools
import pathlib
import re

import jax
import pytest
import tiny

from colorize_jax.bench import cost, scaling, step_speed
from colorize_jax.config.recipe import load_config

ROOT = pathlib.Path(__file__).parent.parent


def _config(**settings):
    return tiny.config(model__hypercolumn=False, model__width=0.5, **settings)


@functools.cache
def _lowered(rows, dtype="float32"):
    """The tiny step on one device: XLA's analysis of it, not compiled, and its state's shapes."""
    plan = cost.plan_step(_config(model__dtype=dtype), rows, jax.devices()[:1])
    lowered, state = plan.lower_step(1, platform="tpu"), plan.abstract_state()
    return lowered.cost_analysis(), state


@pytest.fixture
def state():
    return _lowered(2)[1]


def _taps(size, kernel):
    """Taps of a row of `size` outputs that do not fall on padding, SAME, by counting them."""
    half = kernel // 2
    return sum(0 <= at + tap < size for at in range(size) for tap in range(-half, half + 1))


def _multiply_adds(params, points, crop):
    """Of one photo on the way forward, by hand: convolutions, then the head's matrices."""
    total, size = 0, crop
    for name, layer in params["encoder"].items():
        height, _, channels, features = layer["kernel"].shape
        block = int(name[4]) if name.startswith("conv") else 6
        size = crop // 2 ** (block - 1)
        total += _taps(size, height) ** 2 * channels * features
    head = jax.tree.leaves(params["head"])
    return total + points * sum(x.size for x in head if x.ndim == 2)


def test_flops_are_three_times_the_multiply_adds_forward():
    """Of the real network: XLA's count of the step against one by hand."""
    config = load_config(str(ROOT / "configs/vgg16_col.py"))
    plan = cost.plan_step(config, 1, jax.devices()[:1])
    state = plan.abstract_state()
    forward = 2 * _multiply_adds(state.params, config.task.points, config.data.crop)
    # The first layer has no gradient to its input; everything else is counted three times.
    first = state.params["encoder"]["conv1_1"]["kernel"]
    unneeded = 2 * _taps(config.data.crop, 3) ** 2 * first.size // 9
    values = sum(x.size for x in jax.tree.leaves(state.params))
    optimizer = 10 * values  # the update and the norm of the gradient, about so much
    flops = step_speed.as_written(plan)
    assert flops == pytest.approx(3 * forward - unneeded + optimizer, rel=0.02)


def test_a_bank_is_counted_for_the_photos_of_the_run():
    config = tiny.config(task__name="instances", task__dimensions=16, model__in_channels=3)
    state = cost.plan_step(config, 2, jax.devices()[:1], photos=1000).abstract_state()
    assert state.collections["memory"]["bank"].shape == (1000, 16)


def test_half_the_photos_are_half_the_work(state):
    two, four = _lowered(2)[0], _lowered(4)[0]
    values = sum(x.size for x in jax.tree.leaves(state.params))
    assert 2 * two["flops"] - four["flops"] == pytest.approx(14 * values, rel=0.3)
    assert two["bytes accessed"] < four["bytes accessed"] < 2 * two["bytes accessed"]


def test_counts_are_of_one_device(state, monkeypatch):
    compiled = []
    compile_ = jax.stages.Lowered.compile

    def compile_once(self):
        compiled.append(compile_(self))
        return compiled[-1]

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_once)
    counted = cost.count(cost.compile_step(_config(), 2, jax.devices()[:2]), 2)
    lowered = _lowered(2)[0]
    # So small a network is largely random numbers and norms, which fusion computes twice.
    assert counted.flops == pytest.approx(lowered["flops"], rel=0.2)
    assert counted.rows == 2 and counted.bytes_accessed > 0
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) + 2 * 32 * 32 * 3
    temporaries = compiled[0].memory_analysis().temp_size_in_bytes
    assert counted.memory - temporaries == pytest.approx(held, rel=0.02)
    _check_exchanged(compiled[0].as_text(), state)


def _check_exchanged(text, state):
    """The all-reduces in the program for two devices against those known from the state."""
    # "%x = (f32[3,4]{1,0}, f32[]) all-reduce(%y, ...": the types of the results.
    types = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    sizes = [
        4 * functools.reduce(lambda a, b: a * int(b), filter(None, shape.split(",")), 1)
        for some in types
        for shape in re.findall(r"f32\[([\d,]*)\]", some)
    ]
    moved = scaling.exchanged(state.params, state.collections["batch_stats"], "float32")
    # Biases before batch norm have no gradient and are not exchanged.
    biases = [x for x in jax.tree.leaves(state.params["encoder"]) if x.ndim == 1]
    expected = moved.gradients + moved.norm - sum(x.size * 4 for x in biases)
    assert sum(sizes) == pytest.approx(expected, abs=64)  # the losses are scalars
    assert len(types) >= moved.norm_reductions == 2 * 3
