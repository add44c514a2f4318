"""The example of docs/tasks.md is trained by its command, in another folder."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import saved
import tiny

from colorize_jax.config import choices, default_config
from colorize_jax.errors import ConfigError

SOURCE = (saved.ROOT / "docs/tasks.md").read_text().split("```python\n")[1].split("```")[0]


def test_example_is_one_short_file():
    assert len(SOURCE.splitlines()) <= 60


def test_example_is_trained_by_name_from_its_folder(tmp_path):
    (tmp_path / "my_tasks.py").write_text(SOURCE)
    tiny.write_photos(tmp_path / "photos", 20, np.random.default_rng(0))
    command = [
        sys.executable, "-m", "colorize_jax.main", f"--config={saved.ROOT}/configs/quickstart.py",
        "--config.task.name=my_tasks:make_task", "--config.task.share=0.25",
        "--config.model.name=small_encoder:SmallEncoder", "--config.data.source=photos",
        "--config.data.holdout=0.3", "--config.steps=2", "--config.data.batch_size=4",
        "--workdir=run",
    ]  # fmt: skip
    paths = os.pathsep.join([str(saved.ROOT), str(saved.ROOT / "tests")])
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["task"] == "my_tasks:make_task" and 0 <= results["eval/accuracy"] <= 1
    assert json.loads((tmp_path / "run/config.json").read_text())["task"] == {
        "name": "my_tasks:make_task", "share": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("task", "nowhere:make_task", "no module 'nowhere'"),
        ("task", "json:make_task", "json has no 'make_task'"),
        ("task", "broken_task:make_task", "cannot be imported: ZeroDivisionError.*line 1"),
        ("task", "lacking:make_task", "cannot be imported: No module named 'not_installed'"),
        ("task", "mosaic", "known: .*rotation.*, and module:function"),
        ("model", "nowhere:Net", "no module 'nowhere'"),
        ("model", "json:JSONDecoder", "no subclass of .*Encoder"),
        ("model", "vgg17", "known: 'vgg16'.*'module:Class'"),
    ],
)
def test_a_name_that_means_nothing_is_said(tmp_path, monkeypatch, group, name, message):
    (tmp_path / "broken_task.py").write_text("1 / 0\n")
    (tmp_path / "lacking.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        choices.choose(default_config(), group, name)
