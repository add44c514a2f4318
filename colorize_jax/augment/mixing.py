"""Mixes two photos: blended, or with a rectangle of one in the other."""

import jax
import jax.numpy as jnp


def rectangle(key: jax.Array, height: int, width: int, share: jax.Array) -> jax.Array:
    """A rectangle of the form of a photo that takes `share` of it: bool [height, width].

    Its center is anywhere; what lies beyond the border is cut off, so that it may be smaller (Yun
    et al., "CutMix", ICCV 2019).
    """
    center = jax.random.uniform(key, (2,))

    def inside(size, center):
        place = (jnp.arange(size) + 0.5) / size
        return jnp.abs(place - center) < jnp.sqrt(share) / 2

    return inside(height, center[0])[:, None] & inside(width, center[1])


def mixed(
    key: jax.Array, image: jax.Array, other: jax.Array, *, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """A photo mixed with another one, and the share of the first in it.

    Args:
        key: decides everything.
        image, other: photos of the same size, float [height, width, channels].
        mixup: the photos are blended by a share drawn from Beta(mixup, mixup). 0 is off.
        cutmix: a rectangle of `other` is put in, of an area drawn from Beta(cutmix, cutmix). 0 is
            off. With both, one of the two is drawn.

    Returns:
        [height, width, channels], and a number in [0, 1].
    """
    which, blend, area, place = jax.random.split(key, 4)
    blended, cut = (image, jnp.ones(())), (image, jnp.ones(()))
    if mixup:
        share = jax.random.beta(blend, mixup, mixup)
        blended = share * image + (1 - share) * other, share
    if cutmix:
        hole = rectangle(place, *image.shape[:2], jax.random.beta(area, cutmix, cutmix))
        cut = jnp.where(hole[..., None], other, image), 1 - hole.mean(dtype=jnp.float32)
    if not (mixup and cutmix):
        return blended if mixup else cut
    use = jax.random.bernoulli(which)
    return jnp.where(use, blended[0], cut[0]), jnp.where(use, blended[1], cut[1])
