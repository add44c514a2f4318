"""Trunk, hypercolumn and head in one network that answers at sampled points or on a grid."""

import flax.linen as nn
import jax

from colorize_jax.models import hypercolumn
from colorize_jax.models.heads import Head


class PointNetwork(nn.Module):
    """Encoder -> hypercolumn -> head.

    Attributes:
        encoder: a trunk: maps by name, `strides`, and the name of its `top`.
        head: reads the columns.
        hypercolumn: all layers of the trunk; otherwise its top layer alone is read.
        alignment: see `hypercolumn.ALIGNMENTS`.
    """

    encoder: nn.Module
    head: Head
    hypercolumn: bool = True
    alignment: str = "corner"

    def _strides(self) -> dict[str, int]:
        strides = self.encoder.strides
        return strides if self.hypercolumn else {self.encoder.top: strides[self.encoder.top]}

    def columns(self, gray: jax.Array, points: jax.Array, train: bool = False) -> jax.Array:
        """What the head reads at the points: [batch, points, channels]."""
        maps = self.encoder(gray, train)
        return hypercolumn.sparse_columns(maps, self._strides(), points, self.alignment)

    def __call__(
        self, gray: jax.Array, points: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Outputs at pixels: {name: [batch, points, width]}.

        Args:
            gray: [batch, height, width, 1] network input.
            points: [batch, points, 2] integer (y, x).
            train: batch statistics and dropout.
        """
        return self.head(self.columns(gray, points, train), train)

    def dense(self, gray: jax.Array) -> dict[str, jax.Array]:
        """Outputs on the grid of every fourth pixel: {name: [batch, h / 4, w / 4, width]}."""
        return self.head.dense(self.encoder(gray, False), self._strides(), self.alignment)
