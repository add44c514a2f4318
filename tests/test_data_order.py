"""The order of photos: each once an epoch, the shares of a mixture, and no state."""

import numpy as np
import pytest

from colorize_jax.data import order


@pytest.mark.parametrize("small", [0, 10**6])  # These choose the two ways to shuffle.
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_epoch_has_every_number_once(count, small, monkeypatch):
    monkeypatch.setattr(order, "_SMALL", small)
    shuffled = order.Shuffled(count, seed=3)
    epochs = [[shuffled[e * count + i] for i in range(count)] for e in range(5)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count == 100:
        assert len({tuple(epoch) for epoch in epochs}) == 5
        assert epochs[0] != [order.Shuffled(count, seed=4)[i] for i in range(count)]
        assert abs(np.corrcoef(epochs[0], np.arange(100))[0, 1]) < 0.4


def test_large_orders_need_no_memory():
    shuffled = order.Shuffled(3_700_000, seed=0)
    drawn = np.array([shuffled[10**9 + i] for i in range(2000)])
    assert drawn.min() >= 0 and drawn.max() < 3_700_000
    assert len(set(drawn.tolist())) > 1990 and abs(drawn.mean() / 1_850_000 - 1) < 0.1


def test_mixture_has_its_proportions_in_every_stretch_and_exhausts_each_group():
    mixture = order.Mixture([50, 7, 300], [0.5, 0.2, 0.3], seed=1)
    drawn = np.array([mixture[i] for i in range(3000)])
    groups = np.digitize(drawn, [50, 57])
    for start in range(0, 3000, 100):
        shares = np.bincount(groups[start : start + 100], minlength=3)
        assert np.abs(shares - (50, 20, 30)).max() <= 2
    for group, (first, last) in enumerate(((0, 50), (50, 57), (57, 357))):
        own = drawn[groups == group]
        for epoch in range(len(own) // (last - first)):
            part = own[epoch * (last - first) : (epoch + 1) * (last - first)]
            assert sorted(part) == list(range(first, last))


def test_shares_that_are_no_thousandths_still_fill_every_block():
    mixture = order.Mixture([10, 10, 10], [1 / 3, 1 / 3, 1 / 3], seed=0)
    drawn = np.array([mixture[i] for i in range(1000)])
    assert sorted(np.bincount(drawn // 10)) == [333, 333, 334]
