"""Convolution and pooling equal XLA's own operations."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models import layers


def _plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("kernel_size", "size"),
    [
        *itertools.product((3, 7), [(1, 1), (2, 2)]),
        *itertools.product([7], [(3, 5), (4, 9), (6, 6), (7, 7)]),
        (6, (3, 2)),
    ],
)
def test_convolution_of_maps_smaller_than_the_kernel(rng, size, kernel_size):
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 3, 5)), jnp.float32)

    def loss(convolve):
        def sines(x, kernel):
            maps = convolve(x, kernel)
            return jnp.sin(maps).sum(), maps

        return jax.value_and_grad(sines, argnums=(0, 1), has_aux=True)

    ours = loss(lambda x, k: layers.convolve(x, k, "SAME"))
    found = jax.jit(lambda *of: (ours(*of), loss(_plain)(*of)))(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *found)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (7, 7), (1, 1), (1, 4)])
def test_max_pool_equals_flax_same_pooling(rng, size):
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)

    def loss(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sin(pool(x)).sum()))(x)

    actual = loss(layers.max_pool)
    expected = loss(lambda x: nn.max_pool(x, (2, 2), (2, 2), "SAME"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)


def test_equal_maxima_share_the_gradient_as_in_jax(rng):
    """To the bit, in maps of few different values and of both types of float."""
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(rng.integers(-2, 3, (2, 6, 8, 3)), dtype)
        pull = jnp.asarray(rng.normal(size=(2, 3, 4, 3)), dtype)

        def plain(x):
            rows = jnp.maximum(x[:, ::2], x[:, 1::2])
            return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])

        def gradient(pool, x=x, pull=pull):
            return jax.jit(jax.grad(lambda x: (pool(x) * pull).astype(jnp.float32).sum()))(x)

        found = gradient(layers.max_pool)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, gradient(plain))


def test_relu_is_that_of_flax_with_its_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])
    values = [jax.vmap(jax.value_and_grad(relu))(x) for relu in (layers.relu, nn.relu)]
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize("size", [6, 7])
def test_golden_max_pool(golden, size):
    x = jnp.asarray(golden[f"pool_in{size}"], jnp.float32)[None]
    np.testing.assert_allclose(layers.max_pool(x)[0], golden[f"pool_2x2s2_same_{size}"], atol=1e-6)


def test_frozen_bias_is_added_and_gets_no_gradient(rng):
    x = jnp.asarray(rng.normal(size=(1, 4, 4, 2)), jnp.float32)
    for frozen in (True, False):
        conv = layers.Conv(3, frozen_bias=frozen)
        params = conv.init(jax.random.key(0), x)["params"] | {"bias": jnp.ones(3)}
        without = conv.apply({"params": params | {"bias": jnp.zeros(3)}}, x)
        np.testing.assert_allclose(conv.apply({"params": params}, x), without + 1, atol=1e-5)
        gradient = jax.grad(lambda p, conv=conv: conv.apply({"params": p}, x).sum())(params)
        assert (np.abs(gradient["bias"]).max() == 0) == frozen
        assert np.abs(gradient["kernel"]).max() > 0


def test_caffe_xavier_is_uniform_with_fan_in():
    kernel = layers.caffe_xavier(jax.random.key(0), (3, 3, 40, 50))
    limit = (3 / (3 * 3 * 40)) ** 0.5
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(np.abs(kernel).max(), limit, rtol=1e-2)
    np.testing.assert_allclose(kernel.std(), limit / 3**0.5, rtol=2e-2)


def test_he_truncated_is_cut_off_at_twice_its_sigma():
    kernel = layers.he_truncated(jax.random.key(0), (3, 3, 40, 500))
    sigma = (2.6 / (3 * 3 * 40)) ** 0.5
    np.testing.assert_allclose(np.abs(kernel).max(), 2 * sigma, rtol=1e-2)
    np.testing.assert_allclose(kernel.std(), 0.8796 * sigma, rtol=1e-2)
    assert abs(kernel.mean()) < 0.01 * sigma


@pytest.mark.parametrize("size", [6, 7])
def test_golden_overlapping_max_pool(golden, size):
    x = jnp.asarray(golden[f"pool_in{size}"], jnp.float32)[None]
    actual = layers.overlapping_max_pool(x, "SAME")[0]
    np.testing.assert_allclose(actual, golden[f"pool_3x3s2_same_{size}"], atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "edges"),
    [
        ("SAME", lambda n: (n % 2, 1)),
        ("VALID", lambda n: (0, 0)),
        ("CEIL", lambda n: (0, (n - 1) % 2)),
        ("BOTH", lambda n: (1, 1)),
    ],
)
def test_overlapping_max_pool_equals_a_reduction_of_windows(rng, padding, edges):
    x = jnp.asarray(rng.normal(size=(2, 6, 7, 3)), jnp.float32)

    def loss(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sin(pool(x)).sum()))(x)

    around = [edges(n) for n in (6, 7)]
    actual = loss(lambda x: layers.overlapping_max_pool(x, padding))
    expected = loss(lambda x: nn.max_pool(x, (3, 3), (2, 2), around))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)


def test_overlapping_max_pool_of_too_small_a_map_is_empty():
    assert layers.overlapping_max_pool(jnp.zeros((1, 2, 5, 1)), "VALID").shape == (1, 0, 2, 1)


def test_golden_local_response_norm(golden):
    actual = layers.local_response_norm(jnp.asarray(golden["lrn_in"], jnp.float32))
    np.testing.assert_allclose(actual, golden["lrn_out"], rtol=1e-5)
    half = layers.local_response_norm(jnp.asarray(golden["lrn_in"], jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), golden["lrn_out"], rtol=2e-2)


def test_golden_stride_with_the_same_padding_on_every_side(golden):
    x, kernel = (jnp.asarray(golden[f"stride_{k}"], jnp.float32) for k in ("x", "w"))
    actual = layers.convolve(x[None], kernel, 3, stride=2)[0]
    np.testing.assert_allclose(actual, golden["stride_conv7_slice2"], rtol=1e-4, atol=1e-4)
    wrong = layers.convolve(x[None], kernel, "SAME", stride=2)[0]
    np.testing.assert_allclose(wrong, golden["stride_conv7_tf_same_s2"], rtol=1e-4, atol=1e-4)


@pytest.fixture
def compute_as_on(monkeypatch):
    """Lets this machine compute as on a platform: "cpu", "cuda" or "tpu"."""

    def choose(platform):
        def platform_dependent(*of, default, **branches):
            return branches.get(platform, default)(*of)

        monkeypatch.setattr(jax.lax, "platform_dependent", platform_dependent)

    return choose


def _close(ours, expected, *of, tolerance=1e-4):
    """Values and gradients of two functions, in one compilation."""

    def both(function):
        def sines(*of):
            result = function(*of)
            return jnp.sin(result).sum(), result

        return jax.value_and_grad(sines, argnums=range(len(of)), has_aux=True)

    found = jax.jit(lambda *of: (both(ours)(*of), both(expected)(*of)))(*of)
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("platform", "side", "channels", "size", "stride", "padding"),
    [
        ("cuda", 9, 1, 3, 1, "SAME"),  # VGG-16's first layer
        ("cuda", 27, 3, 11, 4, "VALID"),  # AlexNet's
        ("cuda", 15, 3, 7, 2, 3),  # ResNet's
        ("cuda", 11, 9, 7, 1, "SAME"),  # fc6
        ("cuda", 6, 9, 6, 1, "VALID"),  # fc6 of a classifier
        ("cpu", 27, 3, 11, 4, "VALID"),
        ("cpu", 15, 3, 7, 2, 3),
        ("cpu", 11, 9, 7, 1, "SAME"),
        ("cpu", 6, 9, 6, 1, "VALID"),
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_products_of_patches_are_convolutions(
    rng, monkeypatch, compute_as_on, platform, side, channels, size, stride, padding, biased
):
    compute_as_on(platform)
    shapes = [(2, side, side, channels), (size, size, channels, 5), *[(5,)] * biased]
    of = [jnp.asarray(rng.normal(size=shape) * 0.3, jnp.float32) for shape in shapes]

    def convolve(x, kernel, bias=None):
        return layers.convolve(x, kernel, padding, stride, bias=bias)

    def plain(*of):
        with monkeypatch.context() as patch:
            patch.setattr(layers, "_MOST", 0)
            return convolve(*of)

    assert ("concatenate" in str(jax.make_jaxpr(convolve)(*of))) > (
        "concatenate" in str(jax.make_jaxpr(plain)(*of))
    )
    _close(convolve, plain, *of)


@pytest.mark.parametrize(("stride", "biased"), [(1, False), (2, True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.03)])
def test_a_convolution_of_one_tap_is_a_product_on_a_cpu(
    rng, compute_as_on, stride, biased, dtype, tolerance
):
    shapes = [(2, 5, 4, 8), (1, 1, 8, 6), *[(6,)] * biased]
    of = [jnp.asarray(rng.normal(size=shape) * 0.3, dtype) for shape in shapes]

    def convolve(x, kernel, bias=None):
        return layers.convolve(x, kernel, "SAME", stride, bias=bias)

    def plain(*of):
        compute_as_on("tpu")
        return convolve(*of)

    _close(convolve, plain, *of, tolerance=tolerance)
    compute_as_on("cpu")
    step = str(jax.make_jaxpr(jax.grad(lambda *of: convolve(*of).sum(), (0, 1)))(*of))
    assert "dot_general" in step and "conv_general" not in step


def test_a_product_is_filled_up_with_zeros_on_a_gpu(rng, compute_as_on):
    compute_as_on("cuda")
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 37), (37, 5)))
    assert "concatenate" in str(jax.make_jaxpr(layers.wide_product)(x, kernel))
    _close(layers.wide_product, jnp.matmul, x, kernel)


def test_gradient_of_local_response_norm_is_that_of_its_formula(rng):
    def formula(x):
        squares = jnp.pad(x * x, ((0, 0), (2, 2)))
        return x * (1 + 2e-5 * sum(squares[:, i : i + 7] for i in range(5))) ** -0.75

    _close(layers.local_response_norm, formula, jnp.asarray(rng.normal(size=(4, 7)) * 200))


def test_groups_see_their_own_channels_alone(rng):
    x = jnp.asarray(rng.normal(size=(1, 5, 5, 4)), jnp.float32)
    conv = layers.Conv(6, groups=2)
    params = conv.init(jax.random.key(0), x)
    assert params["params"]["kernel"].shape == (3, 3, 2, 6)
    before = conv.apply(params, x)
    after = conv.apply(params, x.at[..., 3].add(1))
    np.testing.assert_array_equal(before[..., :3], after[..., :3])
    assert np.abs(before - after)[..., 3:].min() > 0
