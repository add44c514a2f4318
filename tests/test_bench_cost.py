"""What a step costs: the counts against counts by hand, the model of time, and the command."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest
import tiny

from colorize_jax.bench import __main__ as bench
from colorize_jax.bench import cost, cost_report
from colorize_jax.config.recipe import load_config
from colorize_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
RECIPE = """
import tiny

def get_config(variant=""):
    return tiny.config()
"""


def _config(**settings):
    return tiny.config(model__hypercolumn=False, **settings)  # compiles in half the time


@pytest.fixture(scope="module")
def counted():
    """Of the tiny config, two photos on each of two devices."""
    return cost.count_step(_config(), 2, jax.devices()[:2])


@functools.cache
def _lowered(rows, dtype="float32"):
    """The tiny step on one device: XLA's analysis of it, not compiled, and its state's shapes."""
    plan = cost.plan_step(_config(model__dtype=dtype), rows, jax.devices()[:1])
    lowered, state = plan.lower(), plan.state
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
    lowered, state = plan.lower(), plan.state
    forward = 2 * _multiply_adds(state.params, config.task.points, config.data.crop)
    # The first layer has no gradient to its input; everything else is counted three times.
    first = state.params["encoder"]["conv1_1"]["kernel"]
    unneeded = 2 * _taps(config.data.crop, 3) ** 2 * first.size // 9
    values = sum(x.size for x in jax.tree.leaves(state.params))
    optimizer = 10 * values  # the update and the norm of the gradient, about so much
    flops = lowered.cost_analysis()["flops"]
    assert flops == pytest.approx(3 * forward - unneeded + optimizer, rel=0.02)


def test_half_the_photos_are_half_the_work(state):
    two, four = _lowered(2)[0], _lowered(4)[0]
    values = sum(x.size for x in jax.tree.leaves(state.params))
    assert 2 * two["flops"] - four["flops"] == pytest.approx(10 * values, rel=0.5)
    assert two["bytes accessed"] < four["bytes accessed"] < 2 * two["bytes accessed"]


def test_counts_are_of_one_device(counted, state):
    lowered = _lowered(2)[0]
    # So small a network is largely random numbers and norms, which fusion computes twice.
    assert counted.flops == pytest.approx(lowered["flops"], rel=0.2)
    assert counted.rows == 2 and counted.bytes_accessed > 0
    assert counted.memory > counted.temporaries + 2 * cost.tree_bytes(state.params)
    batch = 2 * 32 * 32 * 3
    held = cost.tree_bytes(state) + batch
    assert counted.memory - counted.temporaries == pytest.approx(held, rel=0.02)


def test_the_program_exchanges_what_the_formulas_say(counted, state):
    """Two devices: the all-reduces in the compiled text against those known from the state."""
    # Biases before batch norm have no gradient and are not exchanged.
    moved = [x for x in jax.tree.leaves(state.params["encoder"]) if x.ndim > 1]
    moved += jax.tree.leaves(state.params["head"])
    norm = cost.norm_bytes(state.batch_stats)
    expected = sum(x.size * 4 for x in moved) + norm
    assert counted.reduced == pytest.approx(expected, abs=64)  # the losses are scalars
    formula = cost.gradient_bytes(state.params, "float32") + norm
    assert counted.reduced == pytest.approx(formula, rel=0.03)
    assert counted.reductions >= cost.norm_reductions(state.batch_stats) == 2 * 15


def test_bytes_of_all_reduces_are_read_from_a_program_s_text():
    text = """
      %a.1 = f32[7,7,512,4096]{3,2,1,0:T(8,128)} all-reduce(%fusion.286), channel_id=75
      %b = (bf16[3,3]{1,0:T(8,128)(2,1)}, /*index=5*/f32[64]{0}, f32[]) all-reduce(%c, %d, %e)
      %s = (f32[10]{0}, f32[2]{0}) all-reduce-start(%x, %y), to_apply=%add
      %d = (f32[10]{0}, f32[2]{0}) all-reduce-done(%s)
      %f = f32[99]{0} fusion(%b), calls=%all-reduce.clone
    """
    assert cost.reductions(text) == [7 * 7 * 512 * 4096 * 4, 9 * 2 + 64 * 4 + 4, 48]


def test_half_precision_touches_fewer_bytes_and_exchanges_half(state):
    """As lowered: XLA's CPU backend converts to float32, so what it compiled would not show it."""
    sizes = [cost.gradient_bytes(state.params, dtype) for dtype in cost.DTYPES]
    assert sizes[0] == cost.tree_bytes(state.params) == 2 * sizes[1]
    full, half = _lowered(4)[0], _lowered(4, "bfloat16")[0]
    assert half["bytes accessed"] < 0.95 * full["bytes accessed"]
    assert half["flops"] == pytest.approx(full["flops"], rel=0.05)


def test_largest_array(state):
    name, size, share = cost.largest(state.params)
    assert name == "encoder/fc7/kernel" and size == 128 * 128
    assert share == pytest.approx(size * 4 / cost.tree_bytes(state.params))


def test_batch_norm_without_state_exchanges_nothing():
    assert cost.norm_bytes({}) == 0 == cost.norm_reductions({})
    stats = {"a": {"mean": jnp.zeros(5), "var": jnp.zeros(5), "count": jnp.zeros(())}}
    assert cost.norm_bytes(stats) == 80 and cost.norm_reductions(stats) == 2


def _chip(networks, latency=0.0):
    return cost.Chip("test", {"float32": 100.0}, 1e9, 10.0, networks, latency)


def test_ring_moves_two_shares_of_the_bytes():
    chip = _chip(((1 << 30, ((1 << 30, 100.0),)),))
    assert cost.ring_seconds(1000, chip, 1) == (0, 0)
    assert cost.ring_seconds(1000, chip, 2)[0] == pytest.approx(10)
    assert cost.ring_seconds(1000, chip, 8)[0] == pytest.approx(2 * 7 / 8 * 10)
    assert cost.ring_seconds(1000, chip, 8, links=0.5)[0] == pytest.approx(2 * 7 / 8 * 20)


def test_outer_links_carry_one_share_of_the_bytes():
    chip = _chip(((1 << 30, ((8, 100.0), (1 << 30, 10.0))),), latency=1.0)
    moving, latency = cost.ring_seconds(1000, chip, 32)
    assert moving == pytest.approx(2 * 7 / 8 * 10 + 2 * 3 / 4 * 125 / 10)
    assert latency == 2 * 3 + 2 * 2
    assert cost.ring_seconds(1000, chip, 8) == (2 * 7 / 8 * 10, 6)


def test_networks_end_where_nothing_is_known():
    chip = _chip(((4, ((8, 100.0),)), (16, ((8, 200.0), (4, 100.0)))))
    assert cost.ring_seconds(1000, chip, 4)[0] == pytest.approx(15)
    assert cost.ring_seconds(1000, chip, 8)[0] == pytest.approx(2 * 7 / 8 * 5)
    with pytest.raises(ConfigError, match="17 chips of test"):
        cost.ring_seconds(1000, chip, 17)


COUNTS = cost.Counts(
    rows=4, flops=400, bytes_accessed=30, memory=50, temporaries=20, reduced=0, reductions=0
)


def test_step_is_as_slow_as_its_slower_half_and_its_exchanges():
    chip = _chip(((1 << 30, ((1 << 30, 100.0),)),), latency=0.5)
    step = cost.step_seconds(
        COUNTS, chip, 2, dtype="float32", gradient=300, norm=100, exchanges=4,
        assumed=cost.Assumptions(compute=0.5, memory=0.75, links=1.0),
    )  # fmt: skip
    assert step.compute == 400 / 50 and step.memory == 30 / 7.5 and step.alone == 8
    assert step.gradients == 3 + 1 and step.norm == 1 + 4
    assert step.total == 8 + 5 + 4 and step.overlapped == 13
    assert dataclasses.replace(step, memory=9).alone == 9
    assert dataclasses.replace(step, gradients=20).overlapped == 20


@pytest.mark.parametrize("chip", cost.CHIPS, ids=lambda chip: chip.name)
def test_model_is_monotone_for_every_chip(chip):
    def step(rows, chips):
        counts = cost.interpolate([COUNTS], rows)
        counts = dataclasses.replace(counts, flops=counts.flops * 1e12)
        return cost.step_seconds(
            counts, chip, chips, dtype="bfloat16", gradient=3e8, norm=1e5, exchanges=30,
            assumed=cost.Assumptions(),
        )  # fmt: skip

    for chips in (1, 8, 64, 512):
        assert step(8, chips).total < step(16, chips).total
        assert step(8, chips).overlapped <= step(8, chips).total
    totals = [step(8, chips).norm for chips in (1, 8, 64, 512)]
    assert totals == sorted(totals) and totals[0] == 0
    assert step(8, 1).total == step(8, 1).alone < step(8, 8).total


def test_counts_between_and_beyond_those_that_were_compiled():
    other = dataclasses.replace(COUNTS, rows=8, flops=1000, memory=60)
    between = cost.interpolate([other, COUNTS], 6)
    assert (between.rows, between.flops, between.memory) == (6, 700, 55)
    assert cost.interpolate([COUNTS, other], 16).flops == 400 + 3 * 600
    assert cost.interpolate([COUNTS, other], 4) == COUNTS
    last = dataclasses.replace(COUNTS, rows=16, flops=1000)
    assert cost.interpolate([COUNTS, other, last], 12).flops == 1000
    alone = cost.interpolate([COUNTS], 8)
    assert (alone.flops, alone.temporaries, alone.memory) == (800, 40, 70)


def test_smallest_rows():
    assert cost_report.smallest_rows(lambda n: n >= 1) == 1
    assert cost_report.smallest_rows(lambda n: n >= 37) == 37
    assert cost_report.smallest_rows(lambda n: n >= 64) == 64
    assert cost_report.smallest_rows(lambda n: False) is None


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return str(path)


def test_command_prints_tables(recipe, capsys, monkeypatch, counted):
    compiled = []

    def count_step(config, rows, devices):  # compiles; tested above
        compiled.append((config.model.dtype, rows, config.microbatches, len(devices)))
        return dataclasses.replace(counted, rows=rows, memory=counted.memory * rows)

    monkeypatch.setattr(cost, "count_step", count_step)
    bench.main([
        "cost", f"--config={recipe}", "--rows", "2", "4", "--microbatches", "2", "3",
        "--chips", "1", "8", "--global_batches", "4", "8", "--set", "model.hidden=9",
        "--photo_bytes", "200e3", "--core_rate", "100", "--links", "0.5",
    ])  # fmt: skip
    text = capsys.readouterr().out
    assert compiled == [
        ("float32", 2, 1, 1), ("float32", 4, 1, 1), ("bfloat16", 2, 1, 1), ("bfloat16", 4, 1, 1),
        ("float32", 4, 2, 1),
    ]  # fmt: skip
    assert "**Counted in the step compiled for 1 x cpu**" in text
    for title in ("TPU v5e", "TPU v5p", "H200", "stops paying", "200 kB a photo, 100 photos/s"):
        assert title in text
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 3 + len(cost.CHIPS) + 3
    for lines in tables:
        assert len({line.count("|") for line in lines.splitlines()}) == 1
    strong = next(part for part in tables if part.startswith("| batch | chips"))
    assert [line.split(" | ")[:3] for line in strong.splitlines()[2:]] == [
        ["| 4", "1", "4"], ["| 4", "8", "-"], ["| 8", "1", "8"], ["| 8", "8", "1"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=absent.py"], "there is no file absent.py"),
        (["--config=RECIPE", "--set", "model.widht=1"], "--set model.widht=1"),
        (["--config=RECIPE", "--set", "model.width=wide"], "--set model.width=wide"),
        (["--config=RECIPE", "--set", "model"], "give NAME=VALUE"),
        (["--config=RECIPE", "--set", "model.name='vgg17'"], "'vgg17'; known: 'vgg16'"),
        (["--config=RECIPE", "--rows", "0"], "--rows 0 must be positive"),
        (["--config=RECIPE", "--links=-1"], "--links -1.0 must be positive"),
        (["--config=RECIPE", "--topology=v0:9"], "cannot compile for the TPU slice 'v0:9'"),
        (["--config=configs/vgg16_col.py:short"], "no variant 'short'; known: long"),
        (["--config=README.md"], "not Python"),
        (["--config=setup.py"], "setup.py, line"),
        (["--config=tests/saved.py"], "has no function get_config"),
    ],
)
def test_mistakes_become_sentences(recipe, flags, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as error:
        bench.main(["cost", *(flag.replace("RECIPE", recipe) for flag in flags)])
    assert message in str(error.value) and str(error.value).startswith("error: ")
