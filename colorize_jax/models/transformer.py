"""The parts of a vision transformer: blocks of attention and fixed positions.

After Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), with the positions and the
random start of He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-6  # of layer norm
MLP = 4  # The hidden layer of a block is so many times as wide as its tokens.
# A dense layer starts with Xavier's uniform weights, a token that is learned with N(0, 0.02).
dense_init = nn.initializers.xavier_uniform()
token_init = nn.initializers.normal(0.02)


def positions(height: int, width: int, features: int) -> np.ndarray:
    """Fixed positions of the cells of a grid, row by row: float32 [height * width, features].

    The first half of the features is the sine and then the cosine of the column times the
    frequencies, the second half the same of the row. Frequency i of a quarter of the features is
    10000^(-i / quarter).

    Args:
        height, width: of the grid, in cells.
        features: a multiple of 4.
    """
    quarter = features // 4
    frequencies = 10_000.0 ** (-np.arange(quarter) / quarter)
    rows, columns = np.indices((height, width)).reshape(2, -1, 1) * frequencies
    waves = [wave(angle) for angle in (columns, rows) for wave in (np.sin, np.cos)]
    return np.concatenate(waves, 1).astype(np.float32)


class LayerNorm(nn.Module):
    """Every token at mean 0 and variance 1, times a scale and plus a bias; computed in float32.

    Attributes:
        dtype: the type of the result; parameters are float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features] of any float type -> the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = jax.nn.standardize(x.astype(jnp.float32), epsilon=EPSILON, algorithm="stable")
        return (x * scale + bias).astype(self.dtype)


class Block(nn.Module):
    """Attention among all tokens and then a perceptron on each, both after layer norm and added to
    what they read.

    Attributes:
        heads: the number of heads; the features of a token are a multiple of it.
        dropped: in training, the share of photos for which each of the two is left out, and the
            rest is divided by what remains (stochastic depth).
        dtype: the type of the computation; parameters are float32.
    """

    heads: int
    dropped: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, tokens, features] -> the same shape."""
        batch, tokens, features = x.shape
        dense = functools.partial(nn.Dense, kernel_init=dense_init, dtype=self.dtype)

        def left_out(branch):
            # One decision for all values of a photo.
            return nn.Dropout(self.dropped, (1, 2), deterministic=not train)(branch)

        y = dense(3 * features, name="qkv")(LayerNorm(self.dtype, name="norm1")(x))
        query, key, value = jnp.moveaxis(y.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
        with jax.numpy_dtype_promotion("standard"):  # JAX computes the scores in float32.
            y = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        x = x + left_out(dense(features, name="proj")(y))
        y = dense(MLP * features, name="fc1")(LayerNorm(self.dtype, name="norm2")(x))
        y = nn.gelu(y, approximate=False)
        return x + left_out(dense(features, name="fc2")(y))
