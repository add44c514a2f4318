"""Two photos in one: blended, or with a rectangle; the share is that of what can be seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.augment import mixing

WHITE, BLACK = jnp.ones((16, 24, 3)), jnp.zeros((16, 24, 3))


def _mixed(**settings):
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.jit(jax.vmap(lambda key: mixing.mixed(key, WHITE, BLACK, **settings)))(keys)
    return [np.asarray(x) for x in found]


@pytest.mark.slow  # Beta takes the compiler seconds.
def test_the_share_is_that_of_the_first_photo():
    image, share = _mixed(mixup=0.8, cutmix=1.0)
    np.testing.assert_allclose(image.mean((1, 2, 3)), share, rtol=1e-5, atol=1e-6)
    cut = np.isin(image, (0, 1)).all((1, 2, 3)) & (share > 0.01) & (share < 0.99)
    assert 60 < cut.sum() < 130  # of the rest, each is blended, or nearly one of the two photos
    blended = image[~cut]
    assert (blended.std((1, 2, 3)) < 0.2).all()
    row = image[cut][:, :, :, 0] == 0
    # Every row of a cut photo has the same hole, or none.
    for hole in row:
        assert len({line.tobytes() for line in hole if line.any()}) == 1


def test_a_rectangle_in_the_middle_has_its_area():
    keys = jax.random.split(jax.random.key(1), 50)
    inside = jax.jit(jax.vmap(lambda key: mixing.rectangle(key, 64, 64, jnp.float32(0.04))))(keys)
    areas = np.asarray(inside).mean((1, 2))
    assert max(areas) <= 0.05 and np.median(areas) > 0.03  # Some lie beyond the border.
