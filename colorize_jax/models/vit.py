"""The vision transformer, from tiny to huge, with fixed positions; it can leave out patches."""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.errors import ConfigError
from colorize_jax.models import layers, transformer
from colorize_jax.models.encoder import Encoder, check_known


class Size(NamedTuple):
    """What a size of the network stands for.

    Attributes:
        heads: the number of heads in a block.
        channels: the features of a head at width 1.
        blocks: the number of blocks.
    """

    heads: int
    channels: int
    blocks: int


SIZES = {
    "tiny": Size(3, 64, 12),
    "small": Size(6, 64, 12),
    "base": Size(12, 64, 12),
    "large": Size(16, 64, 24),
    "huge": Size(16, 80, 32),
}


class Embedding(nn.Module):
    """Patches as tokens: one linear layer for all of them, and a token that stands for the photo.

    Attributes:
        features: those of a token.
        patch: the side of a patch in pixels.
        dtype: the type of the computation; parameters are float32.
    """

    features: int
    patch: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[batch, height, width, channels] -> tokens with positions [batch, rows, columns,
        features], and the token of the photo [features].

        Zeros extend a photo whose side is no multiple of the patch, at the bottom and on the right.
        """
        batch, height, width, channels = image.shape
        side = self.patch
        image = jnp.pad(image, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
        rows, columns = (size // side for size in image.shape[1:3])
        cells = image.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)

        def as_dense(key, shape, dtype=jnp.float32):
            return transformer.dense_init(key, (side * side * channels, shape[-1]), dtype).reshape(
                shape
            )

        kernel = self.param("kernel", as_dense, (side, side, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        flat = cells.astype(self.dtype).reshape(batch, rows, columns, -1)
        x = flat @ kernel.astype(self.dtype).reshape(-1, self.features) + bias.astype(self.dtype)
        where = transformer.positions(rows, columns, self.features)
        where = jnp.asarray(where, self.dtype).reshape(rows, columns, self.features)
        token = self.param("token", transformer.token_init, (self.features,))
        return x + where, token.astype(self.dtype)


class Vit(Encoder):
    """Patches as tokens, blocks of attention, and layer norm.

    Every activation is the map of the patches after that layer; "norm" is the last one, after layer
    norm. The token of the photo passes through all blocks with the patches and is in no map.
    Positions are counted in patches from the upper left corner and are not learned, so photos may
    have any size; those of sizes that it was not trained on are new to the network.

    It always has layer norm and never batch norm: `norm` and `norm_decay` have no effect.

    See `Encoder` for the other attributes. `width` multiplies the features of each head, which stay
    a multiple of four.

    Attributes:
        size: one of `SIZES`.
        blocks: the number of blocks; 0 takes that of the size.
        patch: the side of a patch in pixels.
        drop_path: the share of photos for which the last block is left out in training. It grows
            linearly from 0 at the first block.
    """

    size: str = "base"
    blocks: int = 0
    patch: int = 16
    drop_path: float = 0.0

    SETTINGS: ClassVar = {
        # "tiny", "small", "base", "large" or "huge": 192, 384, 768, 1024 or 1280 features.
        "size": "base",
        # The number of blocks. 0 takes that of the size: 12, of large 24, of huge 32.
        "blocks": 0,
        "patch": 16,  # The side of a patch in pixels. The published huge network has 14.
        # Stochastic depth: the share of photos for which the last block is left out in training.
        # Blocks below are left out less often, the first one never.
        "drop_path": 0.0,
    }
    architecture = ("width", "size", "blocks", "patch")
    layer_norm = True
    # It has layer norm and no batch norm, so no value of `norm` is wrong.
    absorbs = True
    layer_norm = True

    def setup(self):  # noqa: D102 (Linen's)
        self.embed = Embedding(self.features, self.patch, self.dtype)
        block = transformer.Block
        if self.remat:
            block = nn.remat(block, static_argnums=(2,))
        last = max(self.depth - 1, 1)
        self.stack = [
            block(
                SIZES[self.size].heads, self.drop_path * i / last, self.dtype, name=f"block{i + 1}"
            )
            for i in range(self.depth)
        ]
        self.last_norm = transformer.LayerNorm(self.dtype, name="norm")

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.blocks or SIZES[self.size].blocks

    @property
    def features(self) -> int:
        """The number of features of a token."""
        heads, channels, _ = SIZES[self.size]
        return heads * max(4, 4 * round(channels * self.width / 4))

    @property
    def strides(self) -> dict[str, int]:
        """{activation: stride in pixels of the input}, from the input to the top."""
        names = ("embed", *(f"block{i + 1}" for i in range(self.depth)), "norm")
        return {"gray": 1} | dict.fromkeys(names, self.patch)

    @property
    def hypercolumn(self) -> dict[str, int]:
        """{activation: stride} of the hypercolumn: the map after each quarter of the blocks."""
        quarters = {f"block{max(1, round(self.depth * i / 4))}" for i in (1, 2, 3)}
        quarters.discard(f"block{self.depth}")  # "norm" reads it.
        return {k: s for k, s in self.strides.items() if k in quarters or k == self.top}

    @classmethod
    def check_settings(cls, own):
        """See `Encoder.check_settings`."""
        check_known("size", own["size"], tuple(SIZES))
        for name, low in (("blocks", 0), ("patch", 1)):
            if not low <= own[name] <= 128:
                raise ConfigError(f"config.model.{name}={own[name]} must be from {low} to 128")
        if not 0 <= own["drop_path"] < 1:
            raise ConfigError(
                f"config.model.drop_path={own['drop_path']}: give a number from 0 to below 1"
            )

    def tokens(
        self, image: jax.Array, keep: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """The tokens of some patches alone; the network never reads the others.

        Args:
            image: [batch, height, width, in_channels], from `network_input`.
            keep: the patches that are read, numbered row by row: integers [batch, kept]. None reads
                all of them.
            train: stochastic depth.

        Returns:
            [batch, 1 + kept, features] after the last layer norm: the token of the photo, and those
            of the patches in the order of `keep`.
        """
        *_, last = self._walk(image, keep, train)
        return last

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """{layer: the patches after it, [batch, rows, columns, features]}; "gray" is the input.

        Args:
            image: [batch, height, width, in_channels], from `network_input`.
            train: stochastic depth.
        """
        rows, columns = (-(-side // self.patch) for side in image.shape[1:3])
        maps = {"gray": image.astype(self.dtype)}
        for name, x in zip(self.layers, self._walk(image, None, train), strict=True):
            maps[name] = x[:, 1:].reshape(len(x), rows, columns, -1)
        return maps

    def _walk(self, image, keep, train):
        """Yields the tokens after every layer."""
        layers.check_channels(image, self.in_channels)
        x, token = self.embed(image)
        x = x.reshape(len(x), -1, x.shape[-1])
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], 1)
        # The token of the photo has no position.
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, len(token))), x], 1)
        yield x
        for block in self.stack:
            x = block(x, train)
            yield x
        yield self.last_norm(x)
