"""The options of XLA: only known ones are passed, and they have an effect; kept programs."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import saved

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


@pytest.fixture
def unset():
    """As if the user had chosen no folder; JAX itself goes on with that of the tests."""
    names = ("jax_compilation_cache_dir", *compiler._SETTINGS)
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_below_the_cache_folder_and_torn_ones_removed(
    unset, tmp_path, monkeypatch
):
    pytest.importorskip("filelock")
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path))
    folder = compiler.programs_folder()
    assert folder.parent == tmp_path
    folder.mkdir()
    for name in ("jit_a-1-cache", "jit_a-1-atime", "jit_b-2-cache"):
        (folder / name).write_bytes(b"x")
    compiler.keep_programs()
    assert {path.name for path in folder.glob("jit*")} == {"jit_a-1-cache", "jit_a-1-atime"}
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_compilation_cache_max_size == 2 << 30
    # What is chosen already stays.
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "other"))
    compiler.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("chosen", ["", "/nowhere/programs"])
def test_the_folder_that_the_user_chose_stays_or_none(unset, tmp_path, monkeypatch, chosen):
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", chosen)
    compiler.keep_programs()
    assert jax.config.jax_compilation_cache_dir == chosen and not list(tmp_path.iterdir())


def test_without_a_place_to_write_nothing_is_kept(unset, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path / "file"))
    compiler.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_machines_with_another_processor_have_another_folder(monkeypatch):
    here = compiler.programs_folder()
    monkeypatch.setattr(compiler.pathlib.Path, "read_text", lambda self: "flags\t: fpu\n")
    assert compiler.programs_folder() != here


# Twice, at the same time as the other process: forgets all programs, and compiles one. Prints the
# result, and how often the program was not found in the folder and was found there.
_PROCESS = """
import pathlib, sys, time
import jax
import numpy as np
from colorize_jax.training import compiler

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/")[-1]))
compiler.keep_programs()
x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
for turn in range(2):
    mine, other = (pathlib.Path(name + str(turn)) for name in sys.argv[1:])
    mine.touch()
    while not other.exists():
        time.sleep(0.001)
    jax.clear_caches()
    found = float(jax.jit(lambda x: jax.numpy.tanh(x @ x).sum())(x))
    print(found.hex(), events.count("cache_misses"), events.count("cache_hits"))
"""


def _printed(folder, *pairs):
    """The words that processes printed: those of each pair are its own name and the other's."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {
        "PYTHONPATH": str(saved.ROOT), "JAX_PLATFORMS": "cpu", "COLORIZE_CACHE": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _PROCESS, *(folder / name for name in pair)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for pair in pairs
    ]  # fmt: skip
    try:
        ends = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [said for _, said in ends] == [""] * len(pairs)
    return [out.split() for out, _ in ends]


def test_processes_share_a_folder_from_the_first_program_on(tmp_path, monkeypatch):
    pytest.importorskip("filelock")
    monkeypatch.setenv("COLORIZE_CACHE", str(tmp_path))
    folder = compiler.programs_folder()

    def programs():
        return {path.name: path.read_bytes() for path in folder.glob("*-cache")}

    both = _printed(tmp_path, ("a", "b"), ("b", "a"))
    number = both[0][0]
    for found in both:  # The later one finds it, unless both were compiling.
        assert found in ([number, "1", "0", number, "1", "1"], [number, "0", "1", number, "0", "2"])
    (name,), before = programs(), programs()
    # JAX writes the second file after the first one. Nothing else is left.
    expected = {name, name.removesuffix("-cache") + "-atime", ".lockfile"}
    assert {path.name for path in folder.iterdir()} == expected
    assert _printed(tmp_path, ("c", "c")) == [[number, "0", "1", number, "0", "2"]]
    assert programs() == before
