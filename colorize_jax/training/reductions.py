"""One number of all arrays of a tree, in few kernels of an accelerator however many they are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
_TOGETHER = 64  # arrays that one kernel reads: as many as fit into its parameters anywhere


def norm(tree: Tree) -> jax.Array:
    """The root of the sum of all squares, a float32 scalar."""
    return jnp.sqrt(_of_all(tree, jnp.square, jnp.sum))


def largest(tree: Tree) -> jax.Array:
    """The largest absolute value, a float32 scalar."""
    return _of_all(tree, jnp.abs, jnp.max)


def _of_all(tree: Tree, function: Callable, reduce: Callable) -> jax.Array:
    """Reduces function(array) of all arrays.

    First to a number a channel, which is one kernel and mostly a part of the one that makes the
    array, and those of many arrays together. Each array to a scalar would be two kernels more.
    """
    rows = [
        reduce(function(x), tuple(range(x.ndim - 1))).ravel().astype(jnp.float32)
        for x in jax.tree.leaves(tree)
    ]
    parts = [rows[i : i + _TOGETHER] for i in range(0, len(rows), _TOGETHER)]
    # Behind the barrier XLA cannot take the sum of parts for the sum of each.
    joined = jax.lax.optimization_barrier([jnp.concatenate(part) for part in parts])
    return reduce(jnp.stack([reduce(part) for part in joined]))
