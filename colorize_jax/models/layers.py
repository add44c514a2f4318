"""Convolution, max pooling and LRN as the encoders need them, on every backend at a sane speed."""

from collections.abc import Callable, Mapping
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import ConfigError

# Caffe's "xavier": uniform in +-sqrt(3 / fan_in).
caffe_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def he_truncated(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """He's start for what comes after a pretrained encoder: [..., in, out], cut off at 2 sigma.

    Sigma is sqrt(1.3 * 2 / fan_in) before the cut, as in TF1's contrib.layers: the 1.3 makes up for
    the cut, nearly (Flax's own he_normal makes up for it exactly).
    """
    sigma = math.sqrt(1.3 * 2 / math.prod(shape[:-1]))
    return sigma * jax.random.truncated_normal(key, -2, 2, shape, dtype)


def check_channels(image: jax.Array, channels: int) -> None:
    """ConfigError unless the input of a network is a batch, [batch, height, width, channels], of
    so many channels."""
    if image.ndim != 4:
        raise ConfigError(
            f"the input is {list(image.shape)}, and not [batch, height, width, channels]: a photo "
            "is a batch of one, photo[None]"
        )
    if image.shape[-1] != channels:
        raise ConfigError(
            f"the input has {image.shape[-1]} channels and the network takes {channels}: "
            "config.model.in_channels is 1 for gray, 3 for color"
        )


class Conv(nn.Module):
    """A 2-D convolution.

    Attributes:
        features: output channels.
        kernel_size: side of the square kernel.
        stride: of both axes.
        groups: the channels are split into so many parts, each of which sees its own part alone.
        padding: see `convolve`.
        dilation: how many cells apart the taps of the kernel lie.
        use_bias: whether there is one; not before batch norm with a bias of its own.
        frozen_bias: the bias gets no gradient. Under batch norm it is cancelled anyway; it stays
            zero until batch norm is absorbed into it.
        dtype: of the computation; parameters are float32.
        kernel_init: of the start.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    padding: str | int = "SAME"
    dilation: int = 1
    use_bias: bool = True
    frozen_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = caffe_xavier

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height', width', features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            if self.frozen_bias:
                bias = jax.lax.stop_gradient(bias)
            bias = bias.astype(self.dtype)
        x = x.astype(self.dtype)
        return convolve(x, kernel, self.padding, self.stride, self.dilation, bias)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    padding: str | int,
    stride: int = 1,
    dilation: int = 1,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Convolution of [batch, h, w, in] with a square kernel [k, k, in / groups, out], and a bias.

    `padding` is XLA's "SAME" (which of an even kernel or a stride puts one cell more behind the map
    than before it) or "VALID", or how many cells are put on every side.

    On a map smaller than the kernel (fc6 on small crops) most taps only ever see padding, and XLA's
    CPU backend takes a path a hundred times slower than the arithmetic asks for: there the taps
    that can touch the map become one matrix product over shifted copies. Kernels of one tap, of
    few channels or of many taps become products where that is faster.
    """
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    groups = x.shape[-1] // kernel.shape[2]
    if groups > 1:  # XLA's own groups take six times as long to differentiate on CPU
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        found = [convolve(*part, padding, stride, dilation) for part in parts]
        return _with_bias(jnp.concatenate(found, -1), bias)
    if padding == "SAME" and stride == dilation == 1 and 0 < min(height, width) < size:
        return _with_bias(_convolve_small(x, kernel), bias)
    pads = _pads(padding, (height, width), size, stride, dilation)
    if size == 1 and pads == ((0, 0), (0, 0)) and kernel.shape[2] >= _FEW:
        return _with_bias(_convolve_one(x, kernel, stride), bias)
    places = [
        (side + sum(pad) - size) // stride + 1
        for side, pad in zip((height, width), pads, strict=True)
    ]
    values = len(x) * math.prod(places) * kernel[..., 0].size
    unusual = kernel.shape[2] < _FEW or size * size > _MANY
    if unusual and dilation == 1 and min(places) > 0 and values <= _MOST:
        return _convolve_unusual(x, kernel, bias, pads, stride)
    return _convolve(x, kernel, bias, pads, stride, dilation)


def _with_bias(x, bias):
    return x if bias is None else x + bias


def _pads(padding, sides, size, stride, dilation):
    """(cells before, cells behind) of both axes."""
    if isinstance(padding, int):
        return ((padding, padding),) * 2
    span = (size - 1) * dilation + 1
    return tuple(jax.lax.padtype_to_pads(sides, (span, span), (stride, stride), padding))


def _convolve(x, kernel, bias, pads, stride, dilation=1):
    found = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _with_bias(found, bias)


def _convolve_one(x, kernel, stride):
    """A convolution of one tap. On a CPU it is a product: there the kernel's gradient of a
    convolution transposes the map, and in a ResNet XLA computes the whole chain of sums again for
    this copy."""

    def plain(x, kernel):
        return _convolve(x, kernel, None, ((0, 0), (0, 0)), stride)

    def product(x, kernel):
        return _product(x[:, ::stride, ::stride], kernel[0, 0])

    return _by_platform(plain, cpu=product)(x, kernel)


@jax.custom_vjp
def _product(x, kernel):
    """[..., in] @ [in, out]. Its gradient is written in the form that XLA's CPU backend computes
    without copying the transposed map."""
    return x @ kernel


def _product_backward(kept, gradient):
    x, kernel = kept
    into_x = jax.lax.dot_general(gradient, kernel, (((gradient.ndim - 1,), (1,)), ((), ())))
    rows, gradient = (x.reshape(-1, x.shape[-1]) for x in (x, gradient))
    return into_x, jax.lax.dot_general(rows, gradient, (((0,), (0,)), ((), ())))


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)


# cuDNN has no fast kernels for fewer channels, or for more taps, and on a CPU XLA copies kernels of
# more taps. Patches of more values than the last would take too much memory.
_FEW, _MANY, _MOST = 8, 25, 2**30


def _by_platform(
    default: Callable, gradients: Mapping[str, Callable] | None = None, **special: Callable
) -> Callable:
    """`default` of some arrays, and on a platform in `special` what gives the same faster there.

    The gradient is chosen by the platform too. JAX's own of `platform_dependent` would keep what
    any of the functions needs for its gradient, such as patches.

    Args:
        default: arrays -> array.
        gradients: {platform: (*arrays, gradient of the result) -> gradients of the arrays}, where
            it is not that of the function.
        special: {"cpu" or "cuda": a function like `default`}.
    """

    def pull(function):
        return lambda *kept: jax.vjp(function, *kept[:-1])[1](kept[-1])

    pulls = {name: pull(function) for name, function in special.items()} | (gradients or {})

    def forward(*arrays):
        return jax.lax.platform_dependent(*arrays, **special, default=default), arrays

    def backward(arrays, gradient):
        return jax.lax.platform_dependent(*arrays, gradient, **pulls, default=pull(default))

    chosen = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
    chosen.defvjp(forward, backward)
    return chosen


def _convolve_unusual(x, kernel, bias, pads, stride):
    """`_convolve` of a kernel with few channels (the first layer) or many taps (fc6).

    On a GPU, the map and the kernel's gradient are products of matrices, of all patches of x. On an
    H100, cuDNN computes both at half the rate of a product or less. The gradient of x stays a
    convolution, which is as fast. On a CPU, where XLA copies a large kernel into another order for
    every convolution, all three are products if there are many taps.
    """
    fixed = {"pads": pads, "stride": stride}
    plain, product = (functools.partial(f, **fixed) for f in (_convolve, _product_of_patches))

    def gradients(x, kernel, bias, gradient):
        one = gradient.shape[1:3] == (1, 1)  # patch, which is x itself
        (into_x,) = jax.vjp(lambda x: (product if one else plain)(x, kernel, bias), x)[1](gradient)
        _, pull = jax.vjp(lambda kernel, bias: product(x, kernel, bias), kernel, bias)
        return into_x, *pull(gradient)

    def simple_product(x, kernel, bias):
        rows = patches(x, len(kernel), pads, stride)
        return _with_bias(_product(rows, kernel.reshape(-1, kernel.shape[-1])), bias)

    many = kernel[..., 0, 0].size > _MANY
    special = {"cuda": product} | ({"cpu": simple_product} if many else {})
    return _by_platform(plain, {"cuda": gradients}, **special)(x, kernel, bias)


def _product_of_patches(x, kernel, bias, pads, stride):
    rows, kernel = patches(x, kernel.shape[0], pads, stride), kernel.reshape(-1, kernel.shape[-1])
    width = -(-len(kernel) // 8) * 8
    rows, kernel = _padded(rows, -1, width), _padded(kernel, 0, width)
    # As a convolution of one tap, since XLA joins batch norm to it in fewer passes.
    return _convolve(rows, kernel[None, None], bias, ((0, 0), (0, 0)), 1)


def patches(x: jax.Array, size: int, pads, stride: int) -> jax.Array:
    """What a square kernel of so many cells sees at every place: [batch, h, w, channels] -> [batch,
    h', w', size * size * channels], rows first."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for axis in (2, 1):  # one axis after the other: 2 k copies instead of k * k
        places = range(0, x.shape[axis] - size + 1, stride)
        x = jnp.concatenate(
            [jax.lax.slice_in_dim(x, i, i + places[-1] + 1, stride, axis) for i in range(size)], -1
        )
    return x


def _padded(x, axis, length):
    """Zeros behind an axis, up to a length."""
    if x.shape[axis] == length:
        return x
    shape = list(x.shape)
    shape[axis] = length - x.shape[axis]
    # XLA joins one concatenation with another one, and not with a pad.
    return jnp.concatenate([x, jnp.zeros(shape, x.dtype)], axis)


def _convolve_small(x: jax.Array, kernel: jax.Array) -> jax.Array:
    before, behind = (kernel.shape[0] - 1) // 2, kernel.shape[0] // 2
    # Taps from -start to stop - 1, counted from the middle one, touch the map.
    spans = [(min(before, side - 1), min(behind, side - 1) + 1) for side in x.shape[1:3]]
    (top, bottom), (left, right) = spans
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (top, bottom - 1), (left, right - 1), (0, 0)))
    shifted = [
        padded[:, dy : dy + height, dx : dx + width]
        for dy in range(top + bottom)
        for dx in range(left + right)
    ]
    taps = kernel[before - top : before + bottom, before - left : before + right]
    product = _by_platform(jnp.matmul, cpu=_product)
    return product(jnp.concatenate(shifted, -1), taps.reshape(-1, kernel.shape[-1]))


def wide_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., in] @ [in, out] of any width `in`. If it is no multiple of 8, a GPU takes three times
    as long, so that there zeros fill both up to one."""
    return _by_platform(jnp.matmul, cpu=_product, cuda=_filled_product)(x, kernel)


def _filled_product(x, kernel):
    width = -(-len(kernel) // 128) * 128
    return _padded(x, -1, width) @ _padded(kernel, 0, width)


class DoublingConv(nn.Module):
    """A transposed 4x4 convolution of stride 2, which doubles height and width.

    Output o is the sum over i and k with o = 2 i + k - 1 of input i times tap k, as of PyTorch's
    ConvTranspose2d(kernel_size=4, stride=2, padding=1).

    Attributes:
        features: output channels.
        dtype: of the computation; parameters are float32.
        kernel_init: of the start. Of 4x4 taps every output meets 2x2.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.variance_scaling(4.0, "fan_in", "uniform")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, 2 height, 2 width, features]."""
        kernel = self.param("kernel", self.kernel_init, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kernel = kernel.astype(self.dtype)
        batch, height, width, _ = x.shape
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        # Even and odd outputs each meet every other tap: four convolutions of 2x2, whose gradient
        # is twenty times cheaper on XLA's CPU backend than that of one on a map between zeros.
        parts = [
            convolve(
                x[:, row : row + height + 1, column : column + width + 1],
                kernel[3 - row :: -2, 3 - column :: -2],
                "VALID",
            )
            for row in (0, 1)
            for column in (0, 1)
        ]
        y = jnp.stack(parts, 3).reshape(batch, height, width, 2, 2, self.features)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, self.features)
        return y + bias.astype(self.dtype)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); its gradient is found from the result, which what follows keeps anyway."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling of stride 2; a last odd row or column forms a window of its own (SAME)."""
    _, height, width, _ = x.shape
    if height % 2 or width % 2:
        edges = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
        x = jnp.pad(x, edges, constant_values=-jnp.inf)
    return _pool_pairs(x)


@jax.custom_vjp
def _pool_pairs(x: jax.Array) -> jax.Array:
    """2x2 max pooling of stride 2 of even sides. Of x its gradient keeps a byte a window."""
    return _pool_pairs_forward(x)[0]


def _pool_pairs_forward(x):
    # Slices, since the gradient of reduce_window is ten times as slow on XLA's CPU backend.
    upper, lower = x[:, ::2], x[:, 1::2]
    rows, from_rows = jnp.maximum(upper, lower), _larger(upper, lower)
    left, right = rows[:, :, ::2], rows[:, :, 1::2]
    # Two bits each: the rows of the left and of the right column, and the columns.
    place = from_rows[:, :, ::2] | from_rows[:, :, 1::2] << 2 | _larger(left, right) << 4
    return jnp.maximum(left, right), place


def _pool_pairs_backward(place, gradient):
    shape = (len(gradient), gradient.shape[1], 2, gradient.shape[2], 2, gradient.shape[3])
    place, gradient = (x[:, :, None, :, None] for x in (place, gradient))
    row, column = (jax.lax.broadcasted_iota(jnp.int8, shape, axis) for axis in (2, 4))
    share = _share(place >> 4 & 3, column) * _share(place >> 2 * column & 3, row)
    spread = gradient * share.astype(gradient.dtype)
    return (spread.reshape(shape[0], 2 * shape[1], 2 * shape[3], shape[5]),)


_pool_pairs.defvjp(_pool_pairs_forward, _pool_pairs_backward)


def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """Which of two is larger: 0 the first, 2 the second, 1 neither, as int8."""
    return (second >= first).astype(jnp.int8) + (second > first).astype(jnp.int8)


def _share(larger: jax.Array, which: jax.Array) -> jax.Array:
    """The share of the gradient of a maximum that goes to the first (which=0) or second (1) of
    two, by `_larger`: as in JAX's own, two equal ones get half of it each."""
    return jnp.where(which == 0, 2 - larger, larger).astype(jnp.float32) * 0.5


# Cells put before and behind a side of so many cells, for windows of 3 every 2 cells.
POOL_PADDINGS = {
    "SAME": lambda side: (side % 2, 1),  # of XLA and TensorFlow
    "VALID": lambda side: (0, 0),
    "CEIL": lambda side: (0, 1 - side % 2),  # of Caffe, which lets the last window hang over
    "BOTH": lambda side: (1, 1),  # of PyTorch's padding=1
}


def overlapping_max_pool(x: jax.Array, padding: str) -> jax.Array:
    """3x3 max pooling of stride 2 with one of `POOL_PADDINGS`."""
    return _overlapping_pool(x, padding, -jnp.inf, jnp.maximum)


def overlapping_mean_pool(x: jax.Array, padding: str) -> jax.Array:
    """3x3 mean pooling of stride 2 with one of `POOL_PADDINGS`; its zeros count, as in PyTorch."""
    return _overlapping_pool(x, padding, 0, jnp.add) * jnp.asarray(1 / 9, x.dtype)


def _overlapping_pool(x, padding, edge, join):
    for axis in (1, 2):
        edges = [(0, 0)] * 4
        edges[axis] = POOL_PADDINGS[padding](x.shape[axis])
        x = jnp.pad(x, edges, constant_values=edge)
        windows = max(0, (x.shape[axis] - 1) // 2)

        def every_other(start, x=x, axis=axis, windows=windows):
            index = [slice(None)] * 4
            index[axis] = slice(start, start + max(0, 2 * windows - 1), 2)
            return x[tuple(index)]

        # One axis after the other, and slices for windows: see `max_pool`.
        x = join(join(every_other(0), every_other(1)), every_other(2))
    return x


def in_halves(lab: jax.Array) -> jax.Array:
    """(L, a, b) -> (L, 0, a, b), [..., 3] -> [..., 4]: two groups of channels of equal size."""
    return jnp.concatenate([lab[..., :1], jnp.zeros_like(lab[..., :1]), lab[..., 1:]], -1)


def local_response_norm(x: jax.Array, groups: int = 1) -> jax.Array:
    """x / (1 + 2e-5 s)^0.75 where s sums the squares of five channels around each; Caffe's LRN.

    [..., channels] of any float type -> the same. Caffe's alpha is 1e-4, which it divides by the
    five channels. Channels of other `groups` do not count.
    """
    if groups > 1:
        return jnp.concatenate([local_response_norm(p) for p in jnp.split(x, groups, -1)], -1)
    return _response_norm(x)


@jax.custom_vjp
def _response_norm(x):
    wide = x.astype(jnp.float32)
    return (wide * _response_scale(wide)[0]).astype(x.dtype)


def _response_scale(wide):
    """(s^-0.75, 1 / s), where s is 1 + 2e-5 times the sum of squares; roots, as a power takes a
    GPU longer than all else here."""
    root = jax.lax.rsqrt(1 + 2e-5 * _five(wide * wide))
    return root * jnp.sqrt(root), root * root


def _five(x):
    """The sum of five channels around each."""
    padded = jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((2, 2),))
    return sum(padded[..., i : i + x.shape[-1]] for i in range(5))


def _response_norm_backward(x, gradient):
    wide, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
    scale, inverse = _response_scale(wide)
    pull = 2 * 0.75 * 2e-5 * _five(gradient * wide * scale * inverse)
    found = (gradient * scale - wide * pull).astype(x.dtype)
    return (jax.lax.optimization_barrier(found),)


_response_norm.defvjp(lambda x: (_response_norm(x), x), _response_norm_backward)


def adaptive_mean_pool(x: jax.Array, cells: int) -> jax.Array:
    """Means over a grid of cells: [batch, h, w, channels] of any size -> [batch, cells, cells,
    channels].

    As PyTorch's AdaptiveAvgPool2d: cell i goes from floor(i h / cells) to ceil((i + 1) h / cells),
    so that cells overlap where the size is no multiple, and repeat where the map is smaller.
    """

    def weights(size):
        rows = np.zeros((cells, size), np.float32)
        for i in range(cells):
            start, stop = i * size // cells, -(-(i + 1) * size // cells)
            rows[i, start:stop] = 1 / (stop - start)
        return rows

    height, width = x.shape[1:3]
    means = jnp.einsum("bhwc,gh->bgwc", x.astype(jnp.float32), weights(height))
    return jnp.einsum("bgwc,kw->bgkc", means, weights(width)).astype(x.dtype)
