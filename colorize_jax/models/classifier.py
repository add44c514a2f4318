"""Encoder and linear classifier in one network, with one prediction for a whole image."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models.heads import LinearHead


class Classifier(nn.Module):
    """Encoder -> linear classifier at every position of the top layer -> mean over positions.

    Attributes:
        encoder: an encoder, which returns activations by name and names its `top`.
        classes: the number of classes.
        dtype: the type of the classifier's computation.
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
            inside: weights [batch, h, w] >= 0 of the positions of the top layer. Positions
                in padding get 0. Rows whose weights are all 0, and all rows without `inside`, are
                averaged over all positions.
            train: whether to use batch statistics and dropout.
        """
        top = self.encoder(gray, train)[self.encoder.top].astype(jnp.float32)
        if inside is None:
            inside = jnp.zeros(top.shape[:3])
        inside = inside.astype(jnp.float32)
        inside = jnp.where(inside.sum((1, 2), keepdims=True) > 0, inside, 1.0)
        weights = inside / inside.sum((1, 2), keepdims=True)
        # A linear classifier commutes with the mean, so it is applied once, to the mean.
        return self.head((top * weights[..., None]).sum((1, 2)))
