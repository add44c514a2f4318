"""Four virtual CPU devices, so that every test is a sharding test; and the golden vectors."""

import os
import pathlib

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 4)

TESTS = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def golden():
    """Vectors computed from the method's description alone; another file of the same layout can be
    named in COLORIZE_GOLDEN."""
    with np.load(os.environ.get("COLORIZE_GOLDEN", TESTS / "golden.npz")) as file:
        return dict(file)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
