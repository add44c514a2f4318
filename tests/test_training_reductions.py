"""One number of hundreds of arrays."""

import jax
import numpy as np
import optax

from colorize_jax.training import reductions


def test_norm_and_largest_are_those_of_all_arrays(rng):
    """Of more arrays than are read together, of all ranks."""
    shapes = [(), (3,), (2, 5), (3, 3, 2, 4)] * 20
    tree = {str(i): rng.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    tree["70"][1] = -9.0
    norm, largest = jax.jit(lambda tree: (reductions.norm(tree), reductions.largest(tree)))(tree)
    np.testing.assert_allclose(norm, optax.tree.norm(tree), rtol=1e-6)
    assert largest == 9
    tree["70"][1] = np.nan
    assert not np.isfinite(reductions.norm(tree))
