"""Tables between foreign names and ours."""

import numpy as np
import pytest

from colorize_jax.errors import WeightsError
from colorize_jax.weights import tables
from colorize_jax.weights.tables import Row

KERNEL, BIAS = "params/encoder/a/kernel", "params/encoder/a/bias"
SHAPES = {KERNEL: (3, 2), BIAS: (2,)}
TABLE = [
    Row({"w": [(2, 3), (1, 2, 3)]}, [KERNEL], lambda w: [w.reshape(2, 3).T], lambda k: [k.T]),
    tables.same("b", BIAS, (2,)),
]


@pytest.fixture
def arrays(rng):
    return {"w": rng.normal(size=(2, 3)).astype(np.float32), "b": np.ones(2, np.float32)}


def test_there_and_back_is_the_same(arrays):
    ours, left_over = tables.to_ours(TABLE, arrays, SHAPES)
    np.testing.assert_array_equal(ours["params"]["encoder"]["a"]["kernel"], arrays["w"].T)
    assert not left_over
    theirs = tables.to_theirs(TABLE, ours)
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_numbers_of_any_kind_become_float32(arrays, dtype):
    ours, _ = tables.to_ours(TABLE, {k: v.astype(dtype) for k, v in arrays.items()}, SHAPES)
    kernel = ours["params"]["encoder"]["a"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, arrays["w"].astype(dtype).T.astype(np.float32))


def test_another_allowed_shape_is_read_and_the_first_is_written(arrays):
    ours, _ = tables.to_ours(TABLE, arrays | {"w": arrays["w"][None]}, SHAPES)
    assert tables.to_theirs(TABLE, ours)["w"].shape == (2, 3)


def test_everything_that_is_wrong_is_listed_at_once(arrays):
    wrong = {"w": arrays["w"].T, "c": arrays["b"], "d": arrays["b"]}
    with pytest.raises(WeightsError) as found:
        tables.to_ours(TABLE, wrong, SHAPES | {"params/encoder/z/bias": (1,)}, source="FILE")
    for part in ("FILE", "2 not known: c, d", "2 missing: b (for params/encoder/a/bias)",
                 "params/encoder/z/bias", "w is (3, 2), not (2, 3) or (1, 2, 3)"):  # fmt: skip
        assert part in str(found.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_in_float32_is_named(arrays, value):
    bad = arrays | {"b": np.array([1, value])}
    with pytest.raises(WeightsError, match="1 not finite: b"):
        tables.to_ours(TABLE, bad, SHAPES)


def test_what_becomes_infinite_is_named_too(arrays):
    table = [TABLE[0], Row({"b": [(2,)]}, [BIAS], lambda b: [b / np.float32(0)], None)]
    with pytest.raises(WeightsError, match=f"not finite: {BIAS}"), np.errstate(divide="ignore"):
        tables.to_ours(table, arrays, SHAPES)


@pytest.mark.parametrize("other", [["x", "y"], [True, False], [1j, 2j]])
def test_what_is_no_real_number_is_named(arrays, other):
    with pytest.raises(WeightsError, match="b holds no numbers"):
        tables.to_ours(TABLE, arrays | {"b": np.array(other)}, SHAPES)


def test_left_over_names_are_given_back_if_they_may_be(arrays):
    arrays = arrays | {"fc8": np.ones(1)}
    with pytest.raises(WeightsError, match="not known: fc8"):
        tables.to_ours(TABLE, arrays, SHAPES)
    _, left_over = tables.to_ours(TABLE, arrays, SHAPES, left_over=lambda name: name == "fc8")
    assert left_over == ["fc8"]


def test_the_default_counts_only_if_all_of_a_row_is_missing(arrays):
    both = Row({"w": [(2, 3)], "b": [(2,)]}, [KERNEL, BIAS], lambda w, b: [w.T, b], None,
               default=[np.zeros((3, 2), np.float32), np.ones(2, np.float32)])  # fmt: skip
    ours, _ = tables.to_ours([both], {}, SHAPES)
    np.testing.assert_array_equal(ours["params"]["encoder"]["a"]["bias"], 1)
    with pytest.raises(WeightsError, match="1 missing: w"):
        tables.to_ours([both], {"b": arrays["b"]}, SHAPES)


def test_optional_names_are_none_and_none_is_not_written(arrays):
    row = Row(
        {"b": [(2,)], "more": [()]},
        [BIAS],
        lambda b, more: [b if more is None else b * more],
        lambda b: [b, None],
        optional=["more"],
    )
    table = [TABLE[0], row]
    ours, _ = tables.to_ours(table, arrays, SHAPES)
    assert tables.to_theirs(table, ours).keys() == {"w", "b"}
    doubled, _ = tables.to_ours(table, arrays | {"more": np.float32(2)}, SHAPES)
    np.testing.assert_array_equal(doubled["params"]["encoder"]["a"]["bias"], 2)


def test_on_the_way_back_paths_are_listed(arrays):
    ours, _ = tables.to_ours(TABLE, arrays, SHAPES)
    layer = ours["params"]["encoder"]
    layer["z"] = {"bias": np.ones(1)}
    layer["a"]["kernel"] = layer["a"]["kernel"] * np.nan
    del layer["a"]["bias"]
    with pytest.raises(WeightsError) as found:
        tables.to_theirs(TABLE, ours)
    for part in ("not known: params/encoder/z/bias", f"missing: {BIAS}", f"not finite: {KERNEL}"):
        assert part in str(found.value)


def test_a_variance_below_zero_is_an_error():
    path = "batch_stats/encoder/bn/var"
    table = [tables.same("v", path, (2,))]
    with pytest.raises(WeightsError, match="below zero"):
        tables.to_ours(table, {"v": np.array([1.0, -1.0])}, {path: (2,)})
