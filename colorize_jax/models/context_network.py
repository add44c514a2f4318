"""Predicts the codes of patches from the codes of other patches on one side of them (CPC)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# {direction: quarter turns of the grid after which it points down}.
DIRECTIONS = {"down": 0, "right": 3, "up": 2, "left": 1}


class ContextNetwork(nn.Module):
    """A masked network: its output in a row of the grid depends on this and earlier rows only.

    Blocks that are added to their input: 1x1, ReLU, 1x3, then 2x1 of the row above and this one,
    ReLU, and 1x1, as in the appendix of Hénaff et al. (2020). Every ReLU reads layer norm over the
    channels of a position: over the whole grid it would tell of later rows.

    Attributes:
        hidden: the number of channels inside a block.
        blocks: the number of blocks; with each, a position sees one more row.
        dtype: the type of the computation.
    """

    hidden: int
    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """[batch, rows, columns, channels] -> the same."""
        x = codes.astype(self.dtype)
        for i in range(self.blocks):

            def dense(x, name, features=self.hidden, i=i):
                return nn.Dense(features, dtype=self.dtype, name=f"block{i + 1}_{name}")(x)

            # Convolutions with few taps on a small grid: products of shifted copies.
            y = nn.relu(_over_channels(dense(x, "in")))
            y = dense(jnp.concatenate([_shifted(y, 2, 1), y, _shifted(y, 2, -1)], -1), "row")
            y = dense(jnp.concatenate([_shifted(y, 1, 1), y], -1), "above")
            x = x + dense(nn.relu(_over_channels(y)), "out", codes.shape[-1])
        return nn.relu(x)


def _over_channels(x):
    return nn.LayerNorm(use_bias=False, use_scale=False, dtype=x.dtype)(x)


def _shifted(x, axis, by):
    """Position i is position i - by of x, or zeros: `by` is 1 or -1."""
    edges = [(0, 0)] * x.ndim
    edges[axis] = (1, 0) if by > 0 else (0, 1)
    kept = jax.lax.slice_in_dim(x, max(0, -by), x.shape[axis] - max(0, by), axis=axis)
    return jnp.pad(kept, edges)


class PredictiveHead(nn.Module):
    """Codes of a grid of patches -> targets of all, and predictions of those that lie beyond.

    Attributes:
        dimensions: the length of a target and of a prediction.
        directions: see `DIRECTIONS`; each has a context network of its own.
        distances: how many rows beyond the last seen row the predicted ones lie; each distance has
            a linear predictor of its own.
        hidden, blocks: see `ContextNetwork`.
        scale: predictions are multiplied by it, so that the first logits are small.
        dtype: the type of the computation; the results are float32.
    """

    dimensions: int
    directions: Sequence[str]
    distances: Sequence[int]
    hidden: int
    blocks: int
    scale: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array) -> dict[str, jax.Array]:
        """Predicts; see `predicted_places` for which target is whose.

        Args:
            codes: [batch, side, side, channels].

        Returns:
            {"targets": [batch, side^2, dimensions], in raster order; "predictions":
            [batch, directions, predictions, dimensions]}, float32.
        """
        batch, side = codes.shape[:2]
        targets = nn.Dense(self.dimensions, dtype=self.dtype, name="targets")(codes)
        turned = [jnp.rot90(codes, DIRECTIONS[direction], (1, 2)) for direction in self.directions]

        # All directions in one program, each with parameters of its own.
        def of_each(module, **settings):
            return nn.vmap(
                module, in_axes=1, out_axes=1, variable_axes={"params": 0},
                split_rngs={"params": True},
            )(dtype=self.dtype, **settings)  # fmt: skip

        context = of_each(ContextNetwork, hidden=self.hidden, blocks=self.blocks, name="context")
        predict = of_each(
            nn.Dense, features=len(self.distances) * self.dimensions, name="predictions"
        )
        found = predict(context(jnp.stack(turned, 1))).astype(jnp.float32) * self.scale
        found = found.reshape(*found.shape[:-1], len(self.distances), self.dimensions)
        rows = [found[:, :, : side - far, :, i] for i, far in enumerate(self.distances)]
        predictions = jnp.concatenate(rows, 2)
        return {
            "targets": targets.astype(jnp.float32).reshape(batch, -1, self.dimensions),
            "predictions": predictions.reshape(batch, len(turned), -1, self.dimensions),
        }


def predicted_places(side: int, directions: Sequence[str], distances: Sequence[int]) -> np.ndarray:
    """The places, in raster order, of the patches that `PredictiveHead` predicts.

    Returns:
        int32 [directions, predictions], in the order of the predictions.
    """
    grid = np.arange(side**2, dtype=np.int32).reshape(side, side)
    turned = [np.rot90(grid, DIRECTIONS[direction]) for direction in directions]
    return np.stack(
        [np.concatenate([rows[distance:].ravel() for distance in distances]) for rows in turned]
    )


class PatchNetwork(nn.Module):
    """One encoder for every patch of a photo, and a head that predicts codes from codes.

    Attributes:
        encoder: see `models.encoder`.
        head: see `PredictiveHead`.
        layer: the name of the encoder's layer whose mean over positions is the code of a patch.
    """

    encoder: nn.Module
    head: PredictiveHead
    layer: str

    def codes(self, patches: jax.Array, train: bool = False) -> jax.Array:
        """Network input [batch, side^2, patch, patch, channels] -> [batch, side, side, features].

        The features are float32.
        """
        batch, count = patches.shape[:2]
        maps = self.encoder(patches.reshape(-1, *patches.shape[2:]), train)[self.layer]
        side = round(count**0.5)
        return maps.astype(jnp.float32).mean((1, 2)).reshape(batch, side, side, -1)

    def __call__(self, patches: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """See `codes` and `PredictiveHead`."""
        return self.head(self.codes(patches, train))
