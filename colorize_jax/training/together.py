"""What is done to all arrays of a tree, in few kernels of an accelerator however many there are."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
_TOGETHER = 64  # arrays that one kernel reads: as many as fit into its parameters anywhere
_COLUMNS = 16  # of the rows that are multiplied; 8 are as fast, 32 take twice as long
_WRITTEN = 30  # that one kernel updates: it reads three of each, and XLA joins up to 96


def norm(tree: Tree) -> jax.Array:
    """The root of the sum of all squares, a float32 scalar."""
    return jnp.sqrt(_of_all(tree, jnp.square, jnp.sum))


def norm_by_products(tree: Tree) -> jax.Array:
    """`norm` for CPUs, where XLA adds up slowly and multiplies matrices fast.

    The squares of an array in rows of 16 add up to the trace of its product with itself.
    """

    def plain(x):
        return jnp.square(x).sum()

    def product(x):
        rows = x.reshape(-1, _COLUMNS)
        return jnp.trace(jax.lax.dot_general(rows, rows, (((0,), (0,)), ((), ()))))

    def squares(x):
        if x.size % _COLUMNS:
            return plain(x)
        return jax.lax.platform_dependent(x, cpu=product, default=plain)

    return jnp.sqrt(sum(map(squares, jax.tree.leaves(tree))))


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


def chosen(good: jax.Array, new: Tree, old: Tree) -> Tree:
    """where(good, new, old) of every array; those of a shape with one axis or none are written
    together, so that hundreds of biases, scales and averages take few kernels."""
    news, structure = jax.tree.flatten(new)
    olds, alike = structure.flatten_up_to(old), collections.defaultdict(list)
    for i, x in enumerate(olds):
        alike[(x.shape, x.dtype) if x.ndim < 2 else i].append(i)
    written = list(olds)
    for numbers in alike.values():
        for start in range(0, len(numbers), _WRITTEN):
            part = numbers[start : start + _WRITTEN]
            if len(part) == 1:
                (i,) = part
                written[i] = jnp.where(good, news[i], olds[i])
                continue
            both = [jnp.stack([x[i] for i in part]) for x in (news, olds)]
            # XLA joins what makes the rows of a stack, and slices of one shape. Without a barrier
            # between them it copies every array first, because a result would overwrite an input
            # that another row still needs.
            both = jax.lax.optimization_barrier(both)
            for i, x in zip(part, jnp.where(good, *both), strict=True):
                written[i] = x
    return jax.tree.unflatten(structure, written)
