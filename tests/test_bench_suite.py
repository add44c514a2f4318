"""The suite: what it leaves when rows fail, crash or never end; and a dry run of what it does."""

import json
import time

import jax
import pytest
import suite_workers

from colorize_jax.bench import __main__ as bench
from colorize_jax.bench import cost, step_speed, suite, suite_rows
from colorize_jax.errors import ConfigError

NAMES = ("device", "vgg16-bfloat16", "resnet152-bfloat16", "alexnet-bfloat16", "vgg16-float32")


def _run(folder, minutes=0.25, **options):
    lines = []
    suite.run(folder, minutes, say=lines.append, **{"only": NAMES} | options)
    return json.loads((folder / "suite.json").read_text()), lines


def test_no_row_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "work", suite_workers.moody)
    whole, _ = _run(tmp_path / "new")
    rows = whole["rows"]
    assert whole["hardware"] == "an abacus"
    assert {name: row["state"] for name, row in rows.items()} == {
        "device": "done", "vgg16-bfloat16": "cut off", "resnet152-bfloat16": "failed",
        "alexnet-bfloat16": "cut off", "vgg16-float32": "done",
    }  # fmt: skip
    # What it had found before it was cut off is there.
    assert rows["vgg16-bfloat16"]["found"]["speeds"] == [suite_workers.SPEED]
    assert rows["vgg16-bfloat16"]["why"] == "its time was over"
    assert rows["alexnet-bfloat16"]["why"] == "its process ended with code 3"
    page = (tmp_path / "new/suite.md").read_text()
    assert "# Speed on an abacus" in page and "failed after 0 s: no such luck." in page
    assert "| 2 (best) | 1.0 | 500.00 | 4 | 0.002 | 50% | 1.00 | 1.00 |" in page
    assert "Not measured: `resnet152-float32`" in page

    # The same command goes on with what is not done, and keeps what it had.
    monkeypatch.setattr(suite, "work", suite_workers.dead)
    again, lines = _run(tmp_path / "new")
    assert again == whole
    assert lines == ["the process that measures did not come up: its process ended with code 0"]
    # What is not done in time is not begun.
    assert _run(tmp_path / "none", 0.01)[0]["rows"] == {}


def test_rows_of_another_device_are_forgotten(tmp_path):
    measured = suite.Suite(tmp_path, lambda line: None, "a GPU", "0", {"device": {"state": "done"}})
    suite.suite_of(measured, {"hardware": "a GPU", "jax": "0"})
    assert measured.done() == {"device"}
    suite.suite_of(measured, {"hardware": "a GPU", "jax": "1"})
    assert not measured.done() and measured.jax == "1"


def test_mistakes_become_sentences(tmp_path):
    with pytest.raises(SystemExit, match="--minutes must be positive"):
        bench.main(["suite", f"--output={tmp_path}", "--minutes=0"])
    with pytest.raises(ConfigError, match="no such row; known: device"):
        suite.run(tmp_path, 1, only=["vgg"])
    (tmp_path / "suite.json").write_text("{")
    with pytest.raises(ConfigError, match="suite.json"):
        suite.run(tmp_path, 1)


def _speeds(monkeypatch, seconds, memory_for=1 << 20, budget=100.0):
    """Batch sizes that are measured if a step of so many photos takes so long."""

    def measure(config, size, *, seconds):
        if size > memory_for:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no")
        clock[0] += 10.0
        speed = suite_workers.SPEED | {"rows": size, "step_seconds": seconds_of(size)}
        return step_speed.Speed(**speed)

    clock, seconds_of = [0.0], seconds
    monkeypatch.setattr(step_speed, "measure", measure)
    monkeypatch.setattr(suite_rows.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rows = suite_rows.ROWS["vgg16-bfloat16"].run(suite_rows.Order(budget, {}))
    last = list(rows)[-1]
    return [speed["rows"] for speed in last["speeds"]], last["ended"]


def test_batches_double_until_it_stops_paying(monkeypatch):
    found = _speeds(monkeypatch, lambda size: max(size, 100))
    assert found == ([64, 128, 256], "more photos were no faster")


def test_batches_double_until_memory_ends(monkeypatch):
    found = _speeds(monkeypatch, lambda size: 1.0, memory_for=100)
    assert found == ([64], "128 photos a device: out of memory")
    # And are halved if even the first is too large.
    assert _speeds(monkeypatch, lambda size: 1.0, memory_for=10)[0] == [8]


def test_batches_double_until_the_time_is_over(monkeypatch):
    found = _speeds(monkeypatch, lambda size: 1.0, budget=25)
    assert found == ([64, 128], "no time for 256 photos")


@pytest.mark.parametrize("network", suite_rows.NETWORKS)
def test_rows_are_of_the_networks_that_their_titles_name(network):
    config = suite_rows.config_of(network, "bfloat16")
    assert (config.model.name, config.model.width) == (network, 1.0)
    title = suite_rows.ROWS[f"{network}-bfloat16"].title
    assert title.endswith(f"at {config.data.crop}, bfloat16")
    plan = cost.plan_step(config, 2, jax.devices()[:1])  # refuses what cannot be
    assert plan.batch_shapes["image"].shape == (2, config.data.crop, config.data.crop, 3)


def test_dry_run(tmp_path):
    """The real rows, with a network as small as one can be, by the command."""
    names = ("device", "vgg16-float32", "profile", "pipeline")
    bench.main([
        "suite", f"--output={tmp_path}", "--minutes=4", "--dry-run",
        *(f"--only={name}" for name in names),
    ])  # fmt: skip
    whole = json.loads((tmp_path / "suite.json").read_text())
    assert whole["hardware"].endswith("(a dry run)")
    assert {name: row["state"] for name, row in whole["rows"].items()} == dict.fromkeys(
        names, "done"
    ), whole
    found = {name: row["found"] for name, row in whole["rows"].items()}
    assert found["device"]["copy_rate"] > 0 and found["device"]["matrix_rates"]["bfloat16"] > 0
    (speed,) = found["vgg16-float32"]["speeds"]
    assert speed["rows"] == 2 and speed["step_seconds"] > 0
    kernels = found["profile"]["kernels"]
    assert kernels[0]["seconds"] >= kernels[19]["seconds"] > 0
    assert "convolutions, forward" in found["profile"]["table"]
    assert found["profile"]["table"].count("\n| `") == 20
    assert min(found["pipeline"]["host"].values()) > 0
    assert found["pipeline"]["fed"] > 0 and "500 x 375" in found["pipeline"]["source"]
    assert "## VGG-16 from photos on disk" in (tmp_path / "suite.md").read_text()
    began = time.monotonic()
    bench.main(["suite", f"--output={tmp_path}", "--dry-run", "--only=device"])
    assert time.monotonic() - began < 60  # it is done already
