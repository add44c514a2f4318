"""Encoder, hypercolumn and head in one network, with outputs at sampled points or on a grid."""

import flax.linen as nn
import jax

from colorize_jax.models import hypercolumn
from colorize_jax.models.encoder import kept
from colorize_jax.models.heads import Head


class PointNetwork(nn.Module):
    """Encoder -> hypercolumn -> head.

    Attributes:
        encoder: an encoder; see `models.encoder`.
        head: the head, which reads the columns.
        fov: blocks on top of the encoder for a larger field of view, with their own `strides`. They
            are always read, after all layers of the encoder.
        hypercolumn: whether the encoder's hypercolumn is read; otherwise only its top layer.
        alignment: see `hypercolumn.ALIGNMENTS`.
    """

    encoder: nn.Module
    head: Head
    fov: nn.Module | None = None
    hypercolumn: bool = True
    alignment: str = "corner"

    def _strides(self) -> dict[str, int]:
        top = self.encoder.top
        strides = self.encoder.hypercolumn
        if not self.hypercolumn:
            strides = {top: self.encoder.strides[top]}
        return strides if self.fov is None else strides | self.fov.strides

    def _maps(self, gray: jax.Array, train: bool) -> dict[str, jax.Array]:
        maps = self.encoder(gray, train)
        return maps if self.fov is None else maps | self.fov(maps[self.encoder.top])

    def columns(self, gray: jax.Array, points: jax.Array, train: bool = False) -> jax.Array:
        """What the head reads at the points: [batch, points, channels]."""
        top = self.encoder.top

        def read(keep):
            def keep_below(name, x):
                return (x, x) if name == top else keep(name, x)  # blocks of `fov` read the top

            found = self.encoder.read(gray, train, keep_below)
            above = {} if self.fov is None else self.fov(found[top])
            return found | kept({top: found[top]} | above, keep)

        return hypercolumn.sparse_columns(read, self._strides(), points, self.alignment)

    def __call__(
        self, gray: jax.Array, points: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Outputs at pixels: {name: [batch, points, width]}.

        Args:
            gray: [batch, height, width, channels] network input.
            points: [batch, points, 2] integer (y, x).
            train: whether to use batch statistics and dropout.
        """
        return self.head(self.columns(gray, points, train), train)

    def hidden_units(self, gray: jax.Array, points: jax.Array) -> jax.Array:
        """The head's hidden layer at the points, not in training: [batch, points, hidden]."""
        return self.head.hidden_units(self.columns(gray, points))

    def read_out(self, hidden: jax.Array) -> dict[str, jax.Array]:
        """The head's outputs for its hidden layer: {name: [..., width]}."""
        return self.head.read_out(hidden)

    def dense(self, gray: jax.Array) -> dict[str, jax.Array]:
        """Outputs on the grid of every fourth pixel: {name: [batch, h / 4, w / 4, width]}.

        They equal those of `__call__` at the pixels of the grid if height and width are multiples
        of the coarsest stride, 128 with both blocks of `fov`. Otherwise the last cell of a coarse
        map extends over the edge, and with "corner" the map is squeezed into the image, like TF1's
        resize. For example, for 448 pixels conv9_1 has 4 cells, which are then 112 pixels apart,
        but 128 where points are sampled. Both grids are the paper's; it is better to pad to 512.
        """
        return self.head.dense(self._maps(gray, False), self._strides(), self.alignment)
