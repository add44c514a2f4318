"""Results come in order, and no more than allowed are waiting."""

from concurrent.futures import ThreadPoolExecutor
import time

import pytest

from colorize_jax.data.ahead import in_order


def test_results_come_in_the_order_of_the_items():
    def slow_at_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    with ThreadPoolExecutor(4) as pool:
        assert list(in_order(pool, slow_at_first, range(10), 3)) == [i * i for i in range(10)]
        assert list(in_order(pool, slow_at_first, [], 3)) == []


def test_only_so_many_items_are_taken_ahead():
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda item: item, items(), 3)
        assert taken == []
        assert next(results) == 0 and taken == [0, 1, 2, 3]
        assert next(results) == 1 and taken == [0, 1, 2, 3, 4]


def test_an_error_comes_in_its_place():
    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda item: 1 // item, [1, 0], 1)
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)
