"""Encoder and linear classifier in one network that answers once for a whole image."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers


class LinearHead(nn.Module):
    """One linear output, "classes".

    Attributes:
        classes: its width.
        dtype: of the computation; parameters are float32 and so are the outputs.
    """

    classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """[..., channels] -> [..., classes] in float32."""
        linear = nn.Dense(
            self.classes, kernel_init=layers.he_truncated, dtype=self.dtype, name="classes"
        )
        return linear(features).astype(jnp.float32)


class Classifier(nn.Module):
    """Encoder -> linear classifier at every position of its top layer -> mean over positions.

    Attributes:
        encoder: an encoder: maps by name, and the name of its `top`.
        classes: their number.
        dtype: of the computation of the classifier.
    """

    encoder: nn.Module
    classes: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):  # noqa: D102 (Linen's)
        self.head = LinearHead(self.classes, self.dtype)

    def __call__(
        self, gray: jax.Array, inside: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Logits of every class: [batch, classes] in float32.

        Args:
            gray: [batch, height, width, channels] network input.
            inside: [batch, h, w] weights, not negative, of the positions of the top layer, so that
                those in padding do not vote. A row without any weight, and all rows if there is
                no `inside`, are averaged over all positions.
            train: batch statistics and dropout.
        """
        top = self.encoder(gray, train)[self.encoder.top].astype(jnp.float32)
        if inside is None:
            inside = jnp.zeros(top.shape[:3])
        inside = inside.astype(jnp.float32)
        inside = jnp.where(inside.sum((1, 2), keepdims=True) > 0, inside, 1.0)
        weights = inside / inside.sum((1, 2), keepdims=True)
        # The mean of linear answers is the answer to the mean, which is computed once.
        return self.head((top * weights[..., None]).sum((1, 2)))
