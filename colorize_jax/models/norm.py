"""Batch norm without parameters, which can later be absorbed into the weights; scale and bias
behind it, for the networks that keep it; and layer norm, in which no row sees another one."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5
DECAY = 0.999


def warning(decay: float, steps: int) -> str:
    """What to say before a run of so many steps whose running averages will lag behind, or will be
    of a handful of batches because they are still on the ramp; or ""."""
    back = ramp(decay)
    if steps < back:
        batches = round(1 / (1 - decay * steps / back))
        if steps < 100 or batches >= 5:
            return ""
        what, scores = f"are of {batches} batch(es) after {steps:,} steps", "swing"
    elif back < steps < 5 * back:
        what, scores = f"look back over {back:,} of {steps:,} steps", "be far too low"
    else:
        return ""
    return (
        f"the running averages of batch norm {what}, and evaluation sees them: scores may "
        f"{scores}. config.eval.norm_batches=60 takes them anew, "
        f"config.model.norm_decay={1 - 20 / steps:.4g} looks back over a twentieth of the run"
    )


def ramp(decay: float) -> int:
    """Updates after which a running average with that decay looks back over its full window."""
    return round(1 / (1 - decay))


RAMP = ramp(DECAY)


def forgotten(averages):
    """The running averages {..., layer: {"mean", "var", "count"}}, to be taken anew by a batch."""
    return _each(lambda own: own | {"count": jnp.zeros_like(own["count"])}, averages)


def moments(averages):
    """What to add up over batches: of averages of one batch, which were `forgotten` before."""
    return _each(lambda own: (own["mean"], own["var"] + own["mean"] ** 2, 1.0), averages)


def settled(averages, total):
    """The averages with the means and variances that follow from the sum of `moments`."""

    def settle(own, sums):
        *sums, batches = sums
        mean, square = (x / batches for x in sums)
        return own | {"mean": mean, "var": jnp.maximum(square - mean**2, 0)}

    return _each(settle, averages, total)


def _each(function, *trees):
    """Maps a function over the {"mean", "var", "count"} of every layer with batch norm."""
    return jax.tree.map(function, *trees, is_leaf=lambda x: isinstance(x, dict) and "mean" in x)


class Affine(NamedTuple):
    """x * scale + bias per channel: [channels] float32 each."""

    scale: jax.Array
    bias: jax.Array


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) per channel, over batch and space; biased variance.

    The running averages decay with 0.999 min(count, 1000) / 1000: a ramp from 0, so that they mean
    something after a few steps already. They live in `batch_stats` as `mean`, `var` and `count`.
    With another decay d the ramp is 1 / (1 - d) steps long, as long as the average looks back.

    Attributes:
        decay: 0.999 in the release, which trains for tens of thousands of steps. A run with a few
            hundred steps behind its last drop of the rate needs less: its averages would be those
            of weights that it has left.
        axis_name: mapped axis over which the batch is split, under shard_map or pmap. Under jit the
            batch is global anyway and this stays None.
    """

    decay: float = DECAY
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, affine: Affine | None = None, relu: bool = False
    ) -> jax.Array:
        """[..., channels] of any float type -> the same; statistics are float32.

        Args:
            x: what is normalized.
            train: by the batch, and not by the running averages.
            affine: of a `Scale` behind it.
            relu: whether ReLU follows. Both are done in the same pass over x.
        """
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.float32)
        if not train:
            y = _normalize(x, mean.value, jax.lax.rsqrt(var.value + EPSILON))
            return _activate(y, affine, relu).astype(x.dtype)
        axis = None if self.is_initializing() else self.axis_name
        y, batch_mean, batch_var = standardize(x, affine, relu, axis)
        if not self.is_initializing():
            full = ramp(self.decay)
            decay = self.decay * jnp.minimum(count.value, full) / full
            mean.value = decay * mean.value + (1 - decay) * batch_mean
            var.value = decay * var.value + (1 - decay) * batch_var
            count.value = count.value + 1
        return y


def _normalize(x, mean, scale):
    return (x.astype(jnp.float32) - mean) * scale


def _activate(y, affine, relu):
    if affine is not None:
        y = y * affine.scale + affine.bias
    return nn.relu(y) if relu else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def standardize(
    x: jax.Array,
    affine: Affine | None = None,
    relu: bool = False,
    axis_name: str | None = None,
) -> tuple[jax.Array, ...]:
    """Every channel at mean 0 and variance 1, and what they were.

    Its gradient, in closed form, is that of the first result; the other two are constants to it.
    It reads x and the gradient twice, once for two sums and once for the result, and nothing else
    of the size of x: where ReLU has cut off is found from x again.

    Args:
        x: [..., channels] of any float type.
        affine: a scale and a bias of every channel, which follow.
        relu: whether ReLU follows after that.
        axis_name: mapped axis over which the batch is split.

    Returns:
        x's like, and the mean and the biased variance before it, [channels] float32.
    """
    return _forward(x, affine, relu, axis_name)[0]


def _forward(x, affine, relu, axis_name):
    wide = x.astype(jnp.float32)
    sums = _sum(wide), _sum(wide * wide)
    mean, square = _over_all(sums, x, axis_name)
    var = jnp.maximum(square - mean * mean, 0)
    scale = jax.lax.rsqrt(var + EPSILON)
    y = _activate(_normalize(x, mean, scale), affine, relu).astype(x.dtype)
    return (y, mean, var), (x, affine, mean, scale)


def _backward(relu, axis_name, kept, gradients):
    x, affine, mean, scale = kept
    y, gradient = _normalize(x, mean, scale), gradients[0].astype(jnp.float32)
    if relu:
        gradient = jnp.where(_activate(y, affine, False) > 0, gradient, 0)
    sums = _sum(gradient), _sum(gradient * y)
    pull, along = _over_all(sums, x, axis_name)
    if affine is None:
        return (scale * (gradient - pull - y * along)).astype(x.dtype), None
    into_x = affine.scale * scale * (gradient - pull - y * along)
    return into_x.astype(x.dtype), Affine(scale=sums[1], bias=sums[0])


standardize.defvjp(_forward, _backward)


def _over_all(sums, x, axis_name):
    """Sums over all but the channels of x -> the means, over the mapped axis too."""
    means = [value / (x.size // x.shape[-1]) for value in sums]
    return means if axis_name is None else jax.lax.pmean(means, axis_name)


def _sum(x: jax.Array) -> jax.Array:
    """[..., channels] -> [channels]."""

    def by_product(x):  # XLA's CPU backend walks through a sum channel by channel
        rows = x.reshape(-1, x.shape[-1])
        return jnp.matmul(jnp.ones(len(rows), x.dtype), rows, precision="highest")

    return jax.lax.platform_dependent(
        x, cpu=by_product, default=lambda x: x.sum(tuple(range(x.ndim - 1)))
    )


def layer_norm(x: jax.Array, affine: Affine | None = None, relu: bool = False) -> jax.Array:
    """Every row of a batch at mean 0 and variance 1, over all its positions and channels.

    No row sees another one, in training neither (Ba, Kiros, Hinton, 2016).

    Args:
        x: [batch, ..., channels] of any float type; the statistics are float32.
        affine: the scale and the bias of every channel, which follow.
        relu: whether ReLU follows after that.
    """
    axes, wide = tuple(range(1, x.ndim)), x.astype(jnp.float32)
    centered = wide - wide.mean(axes, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(centered).mean(axes, keepdims=True) + EPSILON)
    return _activate(centered * scale, affine, relu).astype(x.dtype)


class Scale(nn.Module):
    """The scale and the bias of every channel: the part of batch norm that is learned, apart from
    it as in Caffe.

    Attributes:
        learned_bias: whether there is a bias; otherwise it is 0.
    """

    learned_bias: bool = True

    @nn.compact
    def __call__(self, channels: int) -> Affine:
        """Both float32 [channels], for `BatchNorm`."""
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        if not self.learned_bias:
            return Affine(scale, jnp.zeros(channels, jnp.float32))
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return Affine(scale, bias)
