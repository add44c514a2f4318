"""One encoder for all tiles of a photo, and a head that classifies several tiles together."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers
from colorize_jax.models.heads import LinearHead


class TileEmbedding(nn.Module):
    """One layer of an encoder, averaged to a grid -> linear -> ReLU -> dropout, for every tile.

    Attributes:
        features: the number of features of a tile.
        grid: the number of cells a side; 1 is the mean over all positions.
        dropout: the rate of dropout in training.
        dtype: the type of the computation.
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
        classes: the number of classes.
        hidden: the number of hidden units.
        dropout: the rate of dropout in training.
        dtype: the type of the computation; logits are float32.
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
    """Encoder and embedding with the same weights for every tile, and a head that reads several.

    Attributes:
        encoder: see `models.encoder`.
        embedding: computes the features of one tile.
        head: classifies the features of several tiles.
        layer: the name of the encoder's layer that the embedding reads.
        groups: rows of the numbers of tiles that the head reads together, for example one row with
            all nine, or the pairs of neighbors.
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
