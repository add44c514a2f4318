"""Batch norm without parameters, which can later be absorbed into the weights; and scale and bias
behind it, for the networks that keep it."""

import functools

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
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., channels] of any float type -> the same; statistics are float32."""
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.float32)
        if not train:
            return _normalize(x, mean.value, jax.lax.rsqrt(var.value + EPSILON)).astype(x.dtype)
        axis = None if self.is_initializing() else self.axis_name
        y, batch_mean, batch_var = standardize(x, axis)
        if not self.is_initializing():
            full = ramp(self.decay)
            decay = self.decay * jnp.minimum(count.value, full) / full
            mean.value = decay * mean.value + (1 - decay) * batch_mean
            var.value = decay * var.value + (1 - decay) * batch_var
            count.value = count.value + 1
        return y


def _normalize(x, mean, scale):
    return (x.astype(jnp.float32) - mean) * scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, ...]:
    """Every channel at mean 0 and variance 1, and what they were.

    Its gradient, in closed form, is that of the first result; the other two are constants to it.

    Args:
        x: [..., channels] of any float type.
        axis_name: mapped axis over which the batch is split.

    Returns:
        x's like, and the mean and the biased variance before it, [channels] float32.
    """
    return _forward(x, axis_name)[0]


def _forward(x, axis_name):
    wide = x.astype(jnp.float32)
    mean, square = _means((wide, wide * wide), axis_name)
    var = jnp.maximum(square - mean * mean, 0)
    scale = jax.lax.rsqrt(var + EPSILON)
    return (_normalize(x, mean, scale).astype(x.dtype), mean, var), (x, mean, scale)


def _backward(axis_name, kept, gradients):
    x, mean, scale = kept
    y, gradient = _normalize(x, mean, scale), gradients[0].astype(jnp.float32)
    pull, along = _means((gradient, gradient * y), axis_name)
    return ((scale * (gradient - pull - y * along)).astype(x.dtype),)


standardize.defvjp(_forward, _backward)


def _means(values, axis_name):
    """Per channel, over everything else and over the mapped axis."""
    means = [_sum(value) / (value.size // value.shape[-1]) for value in values]
    return means if axis_name is None else jax.lax.pmean(means, axis_name)


def _sum(x: jax.Array) -> jax.Array:
    """[..., channels] -> [channels]."""

    def by_product(x):  # XLA's CPU backend walks through a sum channel by channel
        rows = x.reshape(-1, x.shape[-1])
        return jnp.matmul(jnp.ones(len(rows), x.dtype), rows, precision="highest")

    return jax.lax.platform_dependent(
        x, cpu=by_product, default=lambda x: x.sum(tuple(range(x.ndim - 1)))
    )


class Scale(nn.Module):
    """x * scale + bias per channel: the part of batch norm that is learned, apart from it as in
    Caffe."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., channels] of any float type -> the same; parameters are float32."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return x * scale.astype(x.dtype) + bias.astype(x.dtype)
