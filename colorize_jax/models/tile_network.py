"""One encoder for all tiles of a photo, and a classifier of what they are together."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers
from colorize_jax.models.classifier import LinearHead


class TileEmbedding(nn.Module):
    """One layer of an encoder on a grid of cells -> linear -> ReLU -> dropout, for every tile.

    Attributes:
        features: of a tile.
        grid: cells a side that the layer is averaged to; 1 is the mean over all positions.
        dropout: rate, while training.
        dtype: of the computation.
    """

    features: int
    grid: int
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool = False) -> jax.Array:
        """[tiles, height, width, channels] -> [tiles, features]."""
        cells = layers.adaptive_mean_pool(maps, self.grid).reshape(len(maps), -1)
        hidden = nn.relu(nn.Dense(self.features, dtype=self.dtype, name="fc6")(cells))
        return nn.Dropout(self.dropout, deterministic=not train)(hidden)


class JoinedHead(nn.Module):
    """Features of several tiles side by side -> hidden (ReLU, dropout) -> logits.

    Attributes:
        classes: their number.
        hidden: units.
        dropout: rate, while training.
        dtype: of the computation; logits are float32.
    """

    classes: int
    hidden: int
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, joined: jax.Array, train: bool = False) -> jax.Array:
        """[..., channels] -> [..., classes]."""
        hidden = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="fc7")(joined))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return LinearHead(self.classes, self.dtype, name="out")(hidden)


class TileNetwork(nn.Module):
    """Encoder and embedding with the same weights for every tile, and a head that sees several.

    Attributes:
        encoder: see `models.encoder`.
        embedding, head: see above.
        layer: of the encoder, which the embedding reads.
        groups: the tiles that the head sees together, as rows of numbers; for example all nine in
            one row, or the pairs of neighbors.
    """

    encoder: nn.Module
    embedding: TileEmbedding
    head: JoinedHead
    layer: str
    groups: tuple[tuple[int, ...], ...]

    def __call__(self, tiles: jax.Array, train: bool = False) -> jax.Array:
        """Network input [batch, tiles, side, side, channels] -> logits [batch, groups, classes].

        With one group, [batch, classes].
        """
        batch, count = tiles.shape[:2]
        maps = self.encoder(tiles.reshape(-1, *tiles.shape[2:]), train)[self.layer]
        features = self.embedding(maps, train).reshape(batch, count, -1)
        groups = jnp.asarray(self.groups)
        joined = features[:, groups].reshape(batch, len(groups), -1)
        logits = self.head(joined, train)
        return logits[:, 0] if len(groups) == 1 else logits
