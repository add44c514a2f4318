"""The sums of a batch that is not full."""

import jax
import numpy as np

from colorize_jax.analysis import correlation


def test_samples_that_do_not_count_change_nothing(rng):
    x = rng.normal(3, 2, (2, 20, 4)).astype(np.float32)
    x[:, 15:] = 1e9
    found = correlation.merged(None, jax.jit(correlation.sums)(*x, np.arange(20) < 15))
    expected = [np.corrcoef(*x[:, :15, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(correlation.correlations(found), expected, atol=1e-5)
    assert found.count == 15 and found.high.max() < 1e9
