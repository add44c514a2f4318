"""Zhang's 313 bins, distributions over them, and weights of rare colors."""

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.color import gamut

GOLDEN = golden_pretexts.group("zhang")


def test_golden_zhang_bins():
    np.testing.assert_array_equal(gamut.bins(), GOLDEN["bins"])
    runs = [(a, own.min(), own.max()) for a in np.unique(gamut.bins()[:, 0])
            for own in [gamut.bins()[gamut.bins()[:, 0] == a, 1]]]  # fmt: skip
    np.testing.assert_array_equal(runs, GOLDEN["bins_runs"])


def test_bins_are_numbers_also_where_a_function_is_traced_that_asks_for_them_first():
    gamut.bins.cache_clear()
    assert jax.jit(lambda x: x + gamut.bins())(0.0).shape == (gamut.BINS, 2)
    assert isinstance(gamut.bins(), np.ndarray)


@pytest.mark.parametrize("neighbors", [5, 10])
def test_golden_zhang_soft_encoding(neighbors):
    index, share = jax.jit(gamut.nearest, static_argnums=1)(GOLDEN["ab"], neighbors)
    np.testing.assert_array_equal(index, GOLDEN[f"soft{neighbors}_index"])
    np.testing.assert_allclose(share, GOLDEN[f"soft{neighbors}_weight"], rtol=1e-5, atol=1e-6)
    dense = np.zeros((40, gamut.BINS))
    np.put_along_axis(dense, np.asarray(index), GOLDEN[f"soft{neighbors}_weight"], -1)
    encoded = gamut.encode(GOLDEN["ab"], neighbors)
    np.testing.assert_allclose(encoded, dense, rtol=1e-5, atol=1e-6)


def test_golden_zhang_rebalancing():
    weights = gamut.class_weights(jnp.asarray(GOLDEN["prior"]))
    np.testing.assert_allclose(weights, GOLDEN["rebalance"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("uniform", [0.01, 0.5, 1.0])
def test_the_expectation_of_the_weights_is_one(uniform, rng):
    prior = rng.dirichlet(np.full(gamut.BINS, 0.1)).astype(np.float32)
    weights = gamut.class_weights(prior, uniform)
    assert float((prior * weights).sum()) == pytest.approx(1, rel=1e-5)
    if uniform == 1:
        np.testing.assert_allclose(weights, 1, rtol=1e-5)
    else:
        assert weights[prior.argmin()] > 1 > weights[prior.argmax()]


def test_golden_zhang_annealed_mean_and_mode():
    for temperature, expected in zip(
        [*GOLDEN["temperatures"], 0], [*GOLDEN["annealed_ab"], GOLDEN["mode_ab"]], strict=True
    ):
        found = gamut.annealed_mean(GOLDEN["logits"], temperature)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-3 if temperature else 0)


def test_golden_zhang_photos_without_color():
    pixels = GOLDEN["image_ab"].reshape(3, 6, 2)
    np.testing.assert_array_equal(gamut.has_color(pixels), GOLDEN["mask"] > 0)


def test_colors_far_out_of_the_gamut_are_distributions_too():
    encoded = gamut.encode(jnp.array([[500.0, -500.0], [-110.0, -110.0]]))
    np.testing.assert_allclose(encoded.sum(-1), 1, rtol=1e-6)


def test_smoothing_keeps_the_mass_and_reaches_the_neighbors_alike(rng):
    prior = rng.dirichlet(np.full(gamut.BINS, 0.1)).astype(np.float32)
    assert float(gamut.smooth(prior, 5.0).sum()) == pytest.approx(1, rel=1e-5)
    at = {tuple(bin): i for i, bin in enumerate(gamut.bins().astype(int).tolist())}
    one = np.asarray(gamut.smooth(jnp.eye(gamut.BINS)[at[0, 0]], 5.0))
    for neighbor in ((10, 0), (-10, 0), (0, 10), (0, -10)):
        assert one[at[neighbor]] / one[at[0, 0]] == pytest.approx(np.exp(-2), rel=1e-4)
    corner = np.asarray(gamut.smooth(jnp.eye(gamut.BINS)[-1], 5.0))
    assert corner.sum() == pytest.approx(1, rel=1e-5) and corner.argmax() == gamut.BINS - 1
