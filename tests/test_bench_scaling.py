"""The model of time over many chips, and the command that shows it."""

import dataclasses

import jax.numpy as jnp
import pytest

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

    def count_step(config, rows, devices):  # compiles; tested with the counts
        compiled.append((config.model.dtype, rows, len(devices)))
        return cost.Counts(rows, 1e12 * rows, 1e10 * rows, 10**9 * rows)

    monkeypatch.setattr(cost, "count_step", count_step)
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.widht=1"], "Did you mean model.width?"),
        (["--config.model.name=vgg17"], "'vgg17'; known: 'vgg16'"),
        (["--rows", "0", "4"], "--rows 0 4: two numbers"),
        (["--rows", "4", "4"], "--rows 4 4: two numbers"),
        (["--topology=v0:9"], "cannot compile for the TPU slice 'v0:9'"),
    ],
)
def test_mistakes_become_sentences(recipe, flags, message):
    with pytest.raises(SystemExit) as error:
        bench.main(["cost", f"--config={recipe}", *flags])
    assert message in str(error.value) and str(error.value).startswith("error: ")
