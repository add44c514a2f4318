"""The notebooks run from top to bottom with small parameters, and are stored without outputs."""

import json
import os
import pathlib
import types

import jax
import nbclient
import nbformat
import pytest
import saved

from colorize_jax.config import default_config
from colorize_jax.config.sizing import size_to_machine

NOTEBOOKS = sorted((saved.ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "model.width": 0.03125, "model.hidden": 8, "model.fc6_kernel": 1, "data.crop": 32,
    "data.scale": (40, 50), "data.batch_size": 8, "eval.photos": 4, "eval.statistics_batches": 2,
}  # fmt: skip


def test_there_are_notebooks():
    assert {path.name for path in NOTEBOOKS} >= {
        "pretrain_tpu.ipynb", "restore_and_transfer.ipynb",
    }  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    """Kernels share a cache of compiled programs, such as that of the four pretraining steps."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["COLORIZE_TEST_CACHE"])
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _execute(path, parameters):
    """Runs a notebook with other parameters than the stored ones."""
    notebook = nbformat.read(path, as_version=4)
    (index,) = (
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())
    )
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source))
    # It runs in the root of the sources, where colorize_jax can be imported without installing it.
    resources = {"metadata": {"path": str(saved.ROOT)}}
    return nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()


# Jupyter's kernel leaves open sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_pretraining_runs_and_shows_pictures(tmp_path):
    parameters = {"WORKDIR": str(tmp_path / "run"), "STEPS": 4, "SETTINGS": TINY}
    notebook = _execute(saved.ROOT / "notebooks" / "pretrain_tpu.ipynb", parameters)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = "".join(output.get("text", "") for output in outputs)
    assert "done: 4 steps" in text and "x cpu: a quarter of the width" in text
    assert "conv5_3" in outputs[-1]["data"]["text/plain"]
    assert pathlib.Path(tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_transfer_runs_and_shows_scores_and_overlays(tmp_path):
    parameters = {
        "PRETRAINED": str(tmp_path / "pretrained"), "PRETRAINING_STEPS": 4, "STEPS": 2,
        "WORKDIR": str(tmp_path / "transfer"), "SETTINGS": TINY,
    }  # fmt: skip
    notebook = _execute(saved.ROOT / "notebooks" / "restore_and_transfer.ipynb", parameters)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    text = "".join(output.get("text", "") for output in outputs)
    assert f"loaded from {tmp_path / 'pretrained' / 'checkpoints'}/" in text
    assert "(batch norm absorbed)" in text
    assert "random start" in text and "triangle" in text
    found = json.loads((tmp_path / "transfer" / "pretrained" / "results.json").read_text())
    values = [o["data"]["text/plain"] for o in outputs if o.output_type == "execute_result"]
    assert f"'pretrained': {found['metric']['value']}" in values[-3]
    assert found["config_hash"] in values[-2] and values[-1] == "(1, 10)"


def test_a_recipe_fits_its_machine():
    config = default_config()
    assert "a quarter" in size_to_machine(config, jax.devices()[:2])
    assert config.model.width == 0.25 and config.data.batch_size == 32
    chip = types.SimpleNamespace(platform="tpu", device_kind="TPU v5e")
    config = default_config()
    assert size_to_machine(config, [chip] * 8) == "8 x TPU v5e: the full network, 64 photos a step"
    assert (config.data.batch_size, config.optimizer.rate_batch_size) == (64, 8)
    assert (config.model.width, config.model.dtype, config.microbatches) == (1.0, "bfloat16", 0)
