"""The colors that a screen can show as 313 bins of Lab's a and b, and distributions over them.

All of it is after Zhang, Isola and Efros, "Colorful Image Colorization" (ECCV 2016).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import instantiate, spaces

SPACING = 10  # of the bins, in units of a and b
BINS = 313
SIGMA = 5.0  # of the Gaussian that spreads a color over the bins around it
_GRAY = 5.0  # a photo whose |a| and |b| are nowhere above this has no color to learn from


@functools.cache
def bins() -> np.ndarray:
    """(a, b) of the middle of every bin: float32 [313, 2], by rising a, then by rising b.

    A point of the grid of spacing 10 is a bin if the square that reaches to its neighbors, of side
    20, touches the convex hull of all colors of sRGB. This rule is inferred: it gives the published
    bins, as any side from 19.5 to 20.08 does.
    """
    import scipy.spatial  # it takes a while to import, and only this task needs it

    # The hull is that of the edges of the cube of sRGB; eight corners are too few, since the edges
    # are curved in Lab.
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    share = np.linspace(0, 1, 256)[:, None]
    edges = [
        start + (end - start) * share
        for start, end in itertools.combinations(corners, 2)
        if np.abs(end - start).sum() == 1
    ]
    with jax.ensure_compile_time_eval():  # also where a function is traced that asks for the bins
        colors = np.asarray(spaces.lab(jnp.asarray(np.concatenate(edges), jnp.float32)))[:, 1:]
    side = np.arange(-11, 12) * SPACING
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    # Two convex shapes are apart if, and only if, a line along a side of one lies between them.
    hull = scipy.spatial.ConvexHull(colors).equations  # outward normals, and offsets
    normals, offsets = hull[:, :2], hull[:, 2]
    nearest_corner = grid @ normals.T - SPACING * np.abs(normals).sum(1) + offsets
    apart = (nearest_corner > 0).any(1)
    apart |= ((grid - SPACING > colors.max(0)) | (grid + SPACING < colors.min(0))).any(1)
    found = grid[~apart].astype(np.float32)
    found.flags.writeable = False  # every caller gets the same array
    return found


def nearest(ab: jax.Array, neighbors: int = 5) -> tuple[jax.Array, jax.Array]:
    """The bins around a color, and how much each takes of it.

    Args:
        ab: [..., 2] Lab's a and b, unscaled; also out of the gamut.
        neighbors: number of bins; 5 in the paper, 10 in its released code.

    Returns:
        Numbers of the bins, int32 [..., neighbors], the nearest first and of equally near ones the
        one with the lower number; and their shares, [..., neighbors], by a Gaussian of the
        distance, which sum to one.
    """
    # In this order: in float32, |x|^2 - 2 x y + |y|^2 would lose digits.
    distance = jnp.square(ab[..., None, :] - bins()).sum(-1)
    negative, index = jax.lax.top_k(-distance, neighbors)
    # Far out of the gamut all Gaussians are zero in float32; a softmax needs their ratios only.
    return index, jax.nn.softmax(negative / (2 * SIGMA**2))


def nearest_bin(ab: jax.Array) -> jax.Array:
    """Number of the nearest bin, as the first of `nearest`: [..., 2] -> int32 [...].

    For whole photos: it holds nothing of [..., 313] in memory, as `nearest` does, and where all
    colors can be shown, so that the nearest point of the grid is a bin, it compares none.
    """
    half = len(_bin_of_point()) // 2
    # Half way between two points it is the lower one, as in `nearest`.
    point = jnp.ceil(ab / SPACING - 0.5).astype(jnp.int32) + half
    inside = ((point >= 0) & (point <= 2 * half)).all(-1)
    point = jnp.clip(point, 0, 2 * half)
    found = jnp.where(inside, jnp.asarray(_bin_of_point())[point[..., 0], point[..., 1]], -1)

    def compared():
        a, b = bins().T
        distance = jnp.square(ab[..., :1] - a) + jnp.square(ab[..., 1:] - b)
        return distance.argmin(-1).astype(jnp.int32)

    return jax.lax.cond((found >= 0).all(), lambda: found, compared)


@functools.cache
def _bin_of_point() -> np.ndarray:
    """The bin on every point of the grid, by its place in a and in b, or -1: int32 [23, 23]."""
    half = int(np.abs(bins()).max()) // SPACING
    found = np.full((2 * half + 1, 2 * half + 1), -1, np.int32)
    place = (bins() // SPACING).astype(int) + half
    found[place[:, 0], place[:, 1]] = np.arange(BINS)
    return found


def encode(ab: jax.Array, neighbors: int = 5) -> jax.Array:
    """Colors [..., 2] as distributions over all bins, [..., 313]; see `nearest`."""
    index, share = nearest(ab, neighbors)
    return jnp.where(index[..., None] == jnp.arange(BINS), share[..., None], 0).sum(-2)


def has_color(ab: jax.Array) -> jax.Array:
    """Whether a photo, or what was sampled of it, has any color: [..., pixels, 2] -> bool [...].

    Photos without are left out, as in the released code: gray would be learned from them.
    """
    return (jnp.abs(ab) > _GRAY).any((-2, -1))


def smooth(prior: jax.Array, sigma: float = SIGMA) -> jax.Array:
    """A distribution of the bins, [313], spread by a Gaussian of that width in units of a and b.

    The mass of a bin stays among the bins, also near the border of the gamut: which grid the paper
    smooths on, and how it ends, is not known.
    """
    distance = np.square(bins()[:, None] - bins()).sum(-1)
    spread = np.exp(-distance / (2 * sigma**2))
    spread = jnp.asarray(spread / spread.sum(0), jnp.float32)
    return jnp.matmul(spread, prior, precision="highest")


def class_weights(prior: jax.Array, uniform: float = 0.5) -> jax.Array:
    """How much a pixel of each bin counts, so that rare colors are learned too.

    Args:
        prior: [313] share of each bin among the training pixels; sums to one.
        uniform: share of the uniform distribution that is mixed into it before it is inverted.
            With 1 all weights are one; with 0 those of bins that never occur are infinite.

    Returns:
        [313], whose mean over pixels distributed as the prior is one. The uniform part is spread
        over the bins that occur; a bin that does not is weighted as if it were very rare.
    """
    occurring = (prior > 0).sum().astype(jnp.float32)
    inverse = 1 / ((1 - uniform) * prior + uniform / occurring)
    return inverse / (prior * inverse).sum()


def annealed_mean(logits: jax.Array, temperature: float = 0.38) -> jax.Array:
    """One color from a predicted distribution: [..., 313] -> Lab's a and b, [..., 2].

    Args:
        logits: of the bins.
        temperature: 1: the mean, which is dull; towards 0, the most likely bin, which is vivid
            and patchy; 0.38 in the paper.
    """
    if temperature == 0:
        return jnp.asarray(bins())[logits.argmax(-1)]
    return mean(jax.nn.softmax(logits.astype(jnp.float32) / temperature))


def mean(shares: jax.Array) -> jax.Array:
    """The expected a and b, [..., 2], of distributions [..., 313]."""
    return jnp.einsum("...k,kc->...c", shares, bins(), precision="highest")


DECODINGS = ("annealed", "mean", "mode")


def plane(
    shares: jax.Array, decoding: str, temperature: jax.Array | float = 0.38, keys=None
) -> jax.Array:
    """a and b, [batch, ..., 2], of distributions [batch, ..., 313], by one of `DECODINGS`.

    Args:
        shares: they sum to one.
        decoding: "annealed" as `annealed_mean`; "mean": at temperature 1; "mode": the largest bin.
        temperature: of "annealed", and of what is drawn.
        keys: draw a color, see `instantiate.annealed`.
    """
    if keys is None and decoding == "mode":
        return jnp.asarray(bins())[shares.argmax(-1)]
    if keys is None and decoding == "mean":
        return mean(shares)
    return mean(instantiate.annealed(shares, temperature, keys))
