"""The installed package has the recipes, which the sources have only in configs/."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
import saved

pytest.importorskip("setuptools")
CONFIGS = saved.ROOT / "configs"
RECIPES = {
    f"colorize_jax/recipes/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.py")
}


@pytest.fixture
def sources(tmp_path):
    """A copy of the sources, because building writes beside setup.py."""
    folder = tmp_path / "sources"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("colorize_jax", "configs"):
        shutil.copytree(saved.ROOT / name, folder / name, ignore=ignore)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(saved.ROOT / name, folder)
    return folder


def _run(folder, *words):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipes_are_found_in_what_is_installed(sources, tmp_path):
    _run(sources, "setup.py", "--quiet", "build_py", f"--build-lib={tmp_path / 'lib'}")
    shutil.rmtree(sources)
    found = {path.relative_to(tmp_path / "lib").as_posix() for path in tmp_path.rglob("*.py")}
    assert found >= RECIPES and not any(name.startswith("configs/") for name in found)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r}); import colorize_jax; "
        "print(colorize_jax.__file__, colorize_jax.load_config('vgg16_col:long').schedule.epochs)"
    )
    said = _run(tmp_path, "-c", script).split()
    assert pathlib.Path(said[0]).is_relative_to(tmp_path / "lib") and said[1] == "10.0"


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_holds_the_recipes(sources, tmp_path):
    pytest.importorskip("setuptools", minversion="70.1")  # Older versions need another package.
    _run(sources, "setup.py", "--quiet", "sdist")
    (archive,) = (sources / "dist").iterdir()
    _run(
        tmp_path, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        f"--wheel-dir={tmp_path}", str(archive),
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(wheel).namelist()) >= RECIPES
