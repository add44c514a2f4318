"""Scores of features without labels, against their definitions."""

import numpy as np
import pytest

from colorize_jax.features import spread


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_rank_is_the_entropy_of_the_singular_values(rng, shape):
    x = rng.normal(size=shape) * np.linspace(0.1, 3, shape[1])
    values = np.linalg.svd(x, compute_uv=False)
    shares = values / values.sum() + 1e-7
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert spread.rank(x) == pytest.approx(expected, rel=1e-9)
    assert spread.rank(x.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_rank_of_known_features():
    assert spread.rank(np.ones((50, 8))) == pytest.approx(1, abs=1e-4)
    assert spread.rank(np.eye(16)) == pytest.approx(16, abs=1e-3)
    assert spread.rank(np.tile(np.eye(5), (7, 2))) == pytest.approx(5, abs=1e-3)
    assert spread.rank(np.zeros((4, 3))) == 0


def test_alignment_is_the_squared_distance_of_two_views(rng):
    first, second = np.array([[2.0, 0], [0, 3]]), np.array([[5.0, 0], [4, 0]])
    assert spread.alignment(first, second) == pytest.approx(1)  # The mean of 0 and 2.
    assert spread.alignment(first, -first) == pytest.approx(4)
    x = rng.normal(size=(9, 4))
    assert spread.alignment(x, 7 * x) == pytest.approx(0, abs=1e-12)


def test_uniformity_is_over_all_pairs(rng, monkeypatch):
    x = rng.normal(size=(11, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [
        np.exp(-2 * np.square(unit[i] - unit[j]).sum()) for j in range(11) for i in range(j)
    ]  # fmt: skip
    expected = np.log(np.mean(pairs))
    assert spread.uniformity(x) == pytest.approx(expected)
    monkeypatch.setattr(spread, "_ROWS", 4)  # Blocks, the last of them shorter.
    assert spread.uniformity(x) == pytest.approx(expected)
    assert spread.uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
    assert spread.uniformity(np.array([[1.0, 0], [-3, 0]])) == pytest.approx(-8)
