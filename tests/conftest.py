"""Four virtual CPU devices, so that every test is a sharding test; and the golden vectors."""

import os
import pathlib
import shutil
import tempfile

# Tests compile much and compute little, so LLVM need not optimize. JAX reads this when imported.
_FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_backend_optimization_level" not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_backend_optimization_level=0"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
# Many tests run the same small programs: each is compiled once, for all of pytest's processes. A
# folder that is named by whoever runs the tests outlives them.
_NAMED = "COLORIZE_TEST_CACHE" in os.environ
if not _NAMED:
    os.environ["COLORIZE_TEST_CACHE"] = tempfile.mkdtemp(prefix="colorize_jax_tests")
_CACHE = os.environ["COLORIZE_TEST_CACHE"]
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# Tests must not use or write the cache of photo lists in the home of the person who runs them.
_INDEX = tempfile.TemporaryDirectory(prefix="colorize_jax_index")
os.environ["COLORIZE_CACHE"] = _INDEX.name


def pytest_unconfigure(config):
    # This is the main process, which ends last.
    if not _NAMED and not hasattr(config, "workerinput"):
        shutil.rmtree(_CACHE, ignore_errors=True)


# These files have one or two long tests. They begin first, so that no process waits at the end.
_LONG = (
    "test_chaos",
    "test_notebooks",
    "test_training_signals",
    "test_tasks_own",
    "test_training_search",
    "test_main",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in _LONG)


TESTS = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def golden():
    """Vectors computed from the method's description alone; another file of the same layout can be
    named in COLORIZE_GOLDEN."""
    with np.load(os.environ.get("COLORIZE_GOLDEN", TESTS / "golden.npz")) as file:
        return dict(file)


@pytest.fixture(scope="session", autouse=True)
def _programs():
    """Runs of the same network in one process are traced and compiled once."""
    import programs

    with pytest.MonkeyPatch.context() as patch:
        programs.share(patch)
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)
