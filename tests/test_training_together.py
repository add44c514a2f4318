"""What is done to hundreds of arrays together."""

import jax
import numpy as np
import optax

from colorize_jax.training import together


def test_norm_and_largest_are_those_of_all_arrays(rng):
    """Of more arrays than are read together, of all ranks."""
    shapes = [(), (3,), (4, 4, 3, 2), (3, 3, 2, 4), (16,)] * 20
    tree = {str(i): rng.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    tree["74"][1] = -9.0  # of an array of 16
    functions = together.norm, together.norm_by_products, together.largest
    norm, by_products, largest = jax.jit(lambda tree: [f(tree) for f in functions])(tree)
    np.testing.assert_allclose(norm, optax.tree.norm(tree), rtol=1e-6)
    np.testing.assert_allclose(by_products, optax.tree.norm(tree), rtol=1e-6)
    assert largest == 9
    for wrong in (np.nan, np.inf):
        tree["74"][1] = wrong
        assert not np.isfinite(together.norm(tree))
        assert not np.isfinite(together.norm_by_products(tree))


def test_chosen_takes_the_new_or_the_old_array_everywhere(rng):
    """Of more arrays of a shape than are written together, of several types."""
    shapes = [(), (3,), (2, 5), (4,)] * 40
    types = [np.float32, np.float32, np.float32, np.int32]

    def tree():
        return {
            str(i): np.asarray(9 * rng.normal(size=shape), types[i % 4])
            for i, shape in enumerate(shapes)
        }

    new, old = tree(), tree()
    # A stack of the new and one of the old, of 30 arrays at most: 40 of each of three kinds.
    assert str(jax.make_jaxpr(together.chosen)(True, new, old)).count(" stack[") == 2 * 3 * 2
    choose = jax.jit(together.chosen)
    for good, expected in ((True, new), (False, old)):
        jax.tree.map(np.testing.assert_array_equal, choose(good, new, old), expected)
