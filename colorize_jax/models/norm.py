"""Batch norm without parameters, which can later be absorbed into the weights; and scale and bias
behind it, for the networks that keep it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5
DECAY = 0.999


def warning(decay: float, steps: int) -> str:
    """What to say before a run of so many steps whose running averages will lag behind; or ""."""
    back = ramp(decay)
    if not back < steps < 5 * back:
        return ""
    return (
        f"the running averages of batch norm look back over {back:,} of {steps:,} steps, and "
        "evaluation sees them: scores may be far too low. "
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
            return self._normalize(x, mean.value, var.value)
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        batch_mean, batch_square = wide.mean(axes), (wide * wide).mean(axes)
        if self.axis_name is not None and not self.is_initializing():
            batch_mean, batch_square = jax.lax.pmean((batch_mean, batch_square), self.axis_name)
        batch_var = jnp.maximum(batch_square - batch_mean * batch_mean, 0)
        if not self.is_initializing():
            full = ramp(self.decay)
            decay = self.decay * jnp.minimum(count.value, full) / full
            mean.value = decay * mean.value + (1 - decay) * batch_mean
            var.value = decay * var.value + (1 - decay) * batch_var
            count.value = count.value + 1
        return self._normalize(x, batch_mean, batch_var)

    def _normalize(self, x, mean, var):
        scale = jax.lax.rsqrt(var + EPSILON)
        return ((x.astype(jnp.float32) - mean) * scale).astype(x.dtype)


class Scale(nn.Module):
    """x * scale + bias per channel: the part of batch norm that is learned, apart from it as in
    Caffe."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., channels] of any float type -> the same; parameters are float32."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return x * scale.astype(x.dtype) + bias.astype(x.dtype)
