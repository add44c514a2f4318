"""The model of time over many chips, and the command that shows it."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
import tiny

from colorize_jax.bench import __main__ as bench
from colorize_jax.bench import cost, scaling
from colorize_jax.errors import ConfigError

RECIPE = """
import tiny

def get_config(variant=""):
    return tiny.vgg()
"""
COUNTS = cost.Counts(rows=4, flops=400, bytes_accessed=32, memory=50)


@pytest.fixture(autouse=True)
def shares(monkeypatch):
    """Of the peaks, so that the sums are easy."""
    monkeypatch.setattr(scaling, "LINKS", 1.0)


def test_what_is_exchanged_is_every_gradient_and_four_sums_a_channel():
    params = {"a": jnp.zeros((3, 5)), "b": jnp.zeros(5)}
    stats = {"a": {"mean": jnp.zeros(5), "var": jnp.zeros(5), "count": jnp.zeros(())}}
    assert scaling.exchanged(params, stats, "float32") == scaling.Exchanged(80, 80, 2)
    assert scaling.exchanged(params, {}, "bfloat16") == scaling.Exchanged(40, 0, 0)


def _chip(networks, latency=0.0):
    return scaling.Chip("test", {"float32": 100.0}, 1e9, 10.0, networks, latency)


def test_ring_moves_two_shares_of_the_bytes():
    chip = _chip(((1 << 30, ((1 << 30, 100.0),)),))
    assert scaling.ring_seconds(1000, chip, 1) == (0, 0)
    assert scaling.ring_seconds(1000, chip, 2)[0] == pytest.approx(10)
    assert scaling.ring_seconds(1000, chip, 8)[0] == pytest.approx(2 * 7 / 8 * 10)


def test_outer_links_carry_one_share_of_the_bytes():
    chip = _chip(((1 << 30, ((8, 100.0), (1 << 30, 10.0))),), latency=1.0)
    moving, latency = scaling.ring_seconds(1000, chip, 32)
    assert moving == pytest.approx(2 * 7 / 8 * 10 + 2 * 3 / 4 * 125 / 10)
    assert latency == 2 * 3 + 2 * 2
    assert scaling.ring_seconds(1000, chip, 8) == (2 * 7 / 8 * 10, 6)


def test_networks_end_where_nothing_is_known():
    chip = _chip(((4, ((8, 100.0),)), (16, ((8, 200.0), (4, 100.0)))))
    assert scaling.ring_seconds(1000, chip, 4)[0] == pytest.approx(15)
    assert scaling.ring_seconds(1000, chip, 8)[0] == pytest.approx(2 * 7 / 8 * 5)
    with pytest.raises(ConfigError, match="17 chips of test"):
        scaling.ring_seconds(1000, chip, 17)


def test_step_is_as_slow_as_its_slower_half_and_its_exchanges():
    chip = _chip(((1 << 30, ((1 << 30, 100.0),)),), latency=0.5)
    step = scaling.step_seconds(COUNTS, scaling.Exchanged(300, 100, 4), chip, 2, "float32")
    assert step.compute == 400 / 50 and step.memory == 32 / 8 and step.alone == 8
    assert step.gradients == 3 + 1 and step.norm == 1 + 4
    assert step.total == 8 + 5 + 4 and step.overlapped == 13
    assert dataclasses.replace(step, memory=9).alone == 9
    assert dataclasses.replace(step, gradients=20).overlapped == 20


def test_photos_needed_make_the_exchanges_a_tenth():
    def step(photos):
        return scaling.Step(compute=photos, memory=4 + photos / 2, gradients=2, norm=1)

    needed = scaling.photos_needed((8, step(8)), (32, step(32)))
    assert needed == 27
    for photos, enough in ((needed, True), (needed - 1, False)):
        assert (step(photos).alone >= 0.9 * step(photos).total) == enough
    alone = [(n, dataclasses.replace(step(n), gradients=0, norm=0)) for n in (8, 32)]
    assert scaling.photos_needed(*alone) == 1


@pytest.mark.parametrize("chip", scaling.CHIPS, ids=lambda chip: chip.name)
def test_more_chips_of_every_kind_wait_longer_for_each_other(chip):
    moved = scaling.Exchanged(300_000_000, 100_000, 30)
    steps = [scaling.step_seconds(COUNTS, moved, chip, n, "bfloat16") for n in scaling.MODELLED]
    norms = [step.norm for step in steps]
    assert norms == sorted(norms) and norms[0] == 0 == steps[0].gradients
    assert steps[0].total == steps[0].alone < steps[1].overlapped <= steps[1].total


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return str(path)


def test_command_prints_tables(recipe, capsys, monkeypatch):
    compiled = []

    def compile_step(config, rows, devices, photos):  # tested with the counts
        compiled.append((config.model.dtype, rows, len(devices)))

    def count(step, rows):
        return cost.Counts(rows, 1e12 * rows, 1e10 * rows, 10**9 * rows)

    monkeypatch.setattr(cost, "compile_step", compile_step)
    monkeypatch.setattr(cost, "count", count)
    bench.main([
        "cost", f"--config={recipe}", "--rows", "2", "4", "--config.model.dtype=bfloat16",
    ])  # fmt: skip
    text = capsys.readouterr().out
    assert compiled == [("bfloat16", 2, 1), ("bfloat16", 4, 1)]
    assert "in bfloat16, compiled for 1 x cpu**" in text and "of them in encoder/fc7/kernel" in text
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert [len(table.splitlines()) for table in tables] == [2 + 2, 2 + 3 * 4 * 2]
    for lines in tables:
        assert len({line.count("|") for line in lines.splitlines()}) == 1


class Gpu:
    """Stands for a GPU that is not there."""

    platform, device_kind, process_index, id = "gpu", "an abacus", 0, 0


class Program:
    """Stands for a step that is compiled for it: a transposition, and a product for every photo."""

    def __init__(self, rows):
        self.rows = rows

    def as_text(self):
        """As XLA writes it."""
        dims = "lhs_contracting_dims={1}, rhs_contracting_dims={0}"
        product = f"f32[1000,1000]{{1,0}} dot(%x, %y), {dims}"
        products = "\n".join(f"  %p.{row} = {product}" for row in range(self.rows))
        return f"""
ENTRY %main (x: f32[1000,400]) -> f32[1000,1000] {{
  %x = f32[1000,400]{{1,0}} parameter(0)
  %y = f32[400,1000]{{1,0}} transpose(%x), dimensions={{1,0}}
{products}
}}
"""

    def cost_analysis(self):
        """XLA has none of a GPU that is not there."""

    def memory_analysis(self):
        """A gigabyte of everything."""
        names = ("argument", "output", "alias", "temp")
        return mock.Mock(**{f"{name}_size_in_bytes": 10**9 for name in names})


def test_kernels_of_a_gpu_are_counted(recipe, capsys, monkeypatch):
    abstract = cost.plan_step(tiny.vgg(), 2, jax.devices()[:1])
    monkeypatch.setattr(cost, "_gpu_devices", lambda name, count: [Gpu()] * int(count))
    monkeypatch.setattr(cost, "compile_step", lambda config, rows, devices, photos: Program(rows))
    monkeypatch.setattr(cost, "plan_step", lambda config, rows, devices, photos: abstract)
    bench.main(["cost", f"--config={recipe}", "--rows", "2", "4", "--topology=h100:2"])
    text = capsys.readouterr().out
    assert "compiled for 2 x an abacus**" in text
    # A product: 2 x 1000 x 400 x 1000, and 4 bytes of 400,000, 400,000 and 1,000,000 numbers.
    assert "| 2 | 0.8 | 0.0 | 0.01 | 2.00 |" in text
    assert "| matrix products | 2 | 0.01 | 0.00 |" in text
    assert "| matrix products | 4 | 0.03 | 0.00 |" in text
    assert "**4 photos a device, by kind of kernel**" in text
    assert "An estimate for 4 photos on an abacus" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.widht=1"], "Did you mean model.width?"),
        (["--config.model.name=vgg17"], "'vgg17'; known: 'vgg16'"),
        (["--rows", "0", "4"], "--rows 0 4: two numbers"),
        (["--rows", "4", "4"], "--rows 4 4: two numbers"),
        (["--topology=v0:9"], "cannot compile for the TPU slice 'v0:9'"),
        (["--topology=h100"], "pip install --no-deps jax-cuda12-plugin=="),
        (["--topology=h100:9"], "h100:N with N from 1 to 8"),
    ],
)
def test_mistakes_become_sentences(recipe, flags, message, monkeypatch):
    monkeypatch.setattr(cost, "_installed", lambda module: False)
    with pytest.raises(SystemExit) as error:
        bench.main(["cost", f"--config={recipe}", *flags])
    assert message in str(error.value) and str(error.value).startswith("error: ")
