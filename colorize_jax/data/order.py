"""Maps a position of a run to the number of a photo: a pure function of seed and position."""

from collections.abc import Sequence
import functools

from grain.experimental import index_shuffle
import numpy as np

# Fewer photos are shuffled by a stored permutation. For more, every number is computed on its own,
# which takes no memory, but is fast only for many numbers.
_SMALL = 2**16
_BLOCK = 1000  # A weighted mixture keeps its proportions in every block of this many positions.


class Shuffled:
    """Endless passes over the numbers 0 to count - 1; each pass has its own order."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed = count, seed

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, self._count)
        if self._count < _SMALL:
            return int(_permutation(self._count, self._seed, epoch)[index])
        # One 32-bit seed for every (seed, epoch).
        seed = np.random.SeedSequence((self._seed, epoch)).generate_state(1)[0]
        return index_shuffle(index, max_index=self._count - 1, seed=int(seed), rounds=4)


@functools.lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


class Mixture:
    """A weighted mixture of groups of numbers; the numbers of a group follow those of the previous.

    In every thousand positions each group has its share, evenly spread. Each group is shuffled on
    its own and passes through all of its numbers before it repeats one.

    Args:
        counts: the number of numbers in each group.
        weights: the groups' weights, which sum to one; none is below a thousandth.
        seed: the seed of the shuffling.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int):
        self._starts = np.cumsum([0, *counts])
        self._groups = [Shuffled(count, seed + i) for i, count in enumerate(counts)]
        exact = np.array(weights) * _BLOCK
        self._shares = exact.astype(int)
        rest = np.argsort(self._shares - exact, kind="stable")[: _BLOCK - self._shares.sum()]
        self._shares[rest] += 1
        # Spreads the draws of each group evenly over the block.
        when = np.concatenate([(np.arange(n) + 0.5) / n for n in self._shares])
        turn = np.argsort(when, kind="stable")
        self._group = np.repeat(np.arange(len(counts)), self._shares)[turn]
        self._draw = np.concatenate([np.arange(n) for n in self._shares])[turn]

    def __getitem__(self, position: int) -> int:
        block, within = divmod(position, _BLOCK)
        group = self._group[within]
        draw = block * self._shares[group] + self._draw[within]
        return int(self._starts[group]) + self._groups[group][int(draw)]
