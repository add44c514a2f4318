"""What a linear model sees in simple statistics of tiles must not tell where they were, and the
border of a photo must not tell how it was turned.

The photos of the tiles are the same smooth scene with a gradient of brightness, a colored light and
the color fringes of a lens, each of which says where a tile was, in other random textures.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
import tiny

from colorize_jax.augment import tiles
from colorize_jax.color import spaces
from colorize_jax.tasks.registry import make_task

PHOTOS, CROP = 96, 48


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    down, right = np.indices((CROP, CROP)) / CROP
    coarse = jnp.asarray(rng.uniform(0, 1, (PHOTOS, CROP // 4, CROP // 4, 1)), jnp.float32)
    gray = np.asarray(jax.image.resize(coarse, (PHOTOS, CROP, CROP, 1), "linear"))
    fringes = [np.roll(gray, shift, axis=(1, 2)) for shift in ((1, 1), (0, 0), (-1, -1))]
    light = np.stack([0.3 + 0.7 * down, 0.5 + 0.3 * right, 0.9 - 0.6 * down], -1)
    image = 255 * np.concatenate(fringes, -1) * light
    number = np.arange(PHOTOS)
    return {
        "image": image.astype(np.uint8),
        "position": number,
        "photo": number,
        "valid": np.ones(PHOTOS, bool),
    }


def _statistics(inputs):
    """[photos, tiles, values]: mean, spread and border of every channel of every tile."""
    inputs = np.asarray(inputs)
    axes = (-3, -2)
    border = [
        inputs[..., 0, :, :],
        inputs[..., -1, :, :],
        inputs[..., :, 0, :],
        inputs[..., :, -1, :],
    ]
    means = [line.mean(-2) for line in border]
    return np.concatenate([inputs.mean(axes), inputs.std(axes), *means], -1)


def _accuracy(values, labels):
    """Of a linear model, fitted to one half of the photos, on the other half."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    half = len(values) // 2
    scaler = StandardScaler().fit(values[:half])
    model = LogisticRegression(C=0.01, max_iter=300)
    model.fit(scaler.transform(values[:half]), labels[:half])
    return model.score(scaler.transform(values[half:]), labels[half:])


def _inputs(name, batch, **settings):
    config = tiny.config(task__name=name, model__in_channels=3, data__crop=CROP, **settings)
    task = make_task(config)
    keys = jax.random.split(jax.random.key(1), PHOTOS)
    (inputs,), _ = jax.jit(task.prepare)(keys, batch)
    return config, inputs


def _by_tile(values):
    """Rows are tiles; the label is the place of the tile in the photo."""
    labels = np.tile(np.arange(values.shape[1]), len(values))
    return values.reshape(-1, values.shape[-1]), labels


def test_plain_tiles_reveal_their_place(batch):
    """The judge sees a shortcut where there is one."""
    corners = tiles.tile_corners(jnp.zeros((9, 2), jnp.int32), CROP // 3)
    plain = jax.vmap(lambda x: tiles.cut(x, corners, 12))(spaces.from_uint8(batch["image"]))
    assert _accuracy(*_by_tile(_statistics(plain))) > 0.5


def test_patches_do_not(batch):
    _, inputs = _inputs("relative_patch", batch)
    assert _accuracy(*_by_tile(_statistics(inputs))) < 1 / 9 + 0.06


def test_tiles_of_a_jigsaw_do_not(batch):
    # One permutation is the identity: the tiles lie where they were. Colored light, which photos do
    # not have, stays in the color of tiles: here all photos are gray.
    _, inputs = _inputs("jigsaw", batch, task__permutations=1, task__gray=1.0)
    assert np.abs(np.asarray(inputs).mean((-3, -2, -1))).max() < 1e-5
    values = _statistics(inputs)
    assert _accuracy(*_by_tile(values)) < 1 / 9 + 0.10


@pytest.fixture(scope="module")
def fringed():
    """Gray textures seen through a lens that enlarges red and shrinks blue: far from the middle,
    the channels are three pixels apart."""
    rng, middle = np.random.default_rng(0), (CROP - 1) / 2
    gray = ndimage.zoom(rng.uniform(0, 255, (PHOTOS, CROP // 2, CROP // 2)), (1, 2, 2), order=1)
    number, *place = np.indices(gray.shape)
    channels = [
        ndimage.map_coordinates(
            gray, [number, *((x - middle) * size + middle for x in place)], order=1, mode="nearest"
        )
        for size in (0.94, 1.0, 1.06)
    ]
    photo = np.arange(PHOTOS)
    rest = {"position": photo, "photo": photo, "valid": np.ones(PHOTOS, bool)}
    return {"image": np.stack(channels, -1).astype(np.uint8)} | rest


def _fringes(found):
    """[photos, tiles, 9]: how well red agrees with blue that is moved by up to one pixel."""
    found = np.asarray(found, np.float64)
    found = found - found.mean((-3, -2), keepdims=True)
    found /= found.std((-3, -2), keepdims=True) + 1e-6
    red, blue = found[..., 0], found[..., 2]
    moved = [np.roll(blue, step, (-2, -1)) for step in np.ndindex(3, 3)]
    inner = [(np.roll(red, (1, 1), (-2, -1)) * x)[..., 2:-1, 2:-1].mean((-2, -1)) for x in moved]
    return np.stack(inner, -1)


def test_fringes_of_a_lens_reveal_the_place_of_plain_tiles_and_of_no_patch(fringed):
    corners = tiles.tile_corners(jnp.full((9, 2), 2, jnp.int32), CROP // 3)
    plain = jax.vmap(lambda x: tiles.cut(x, corners, 12))(spaces.from_uint8(fringed["image"]))
    assert _accuracy(*_by_tile(_fringes(plain))) > 0.8
    _, inputs = _inputs("relative_patch", fringed)
    assert _accuracy(*_by_tile(_fringes(inputs))) < 1 / 9 + 0.06


@pytest.mark.slow
def test_fringes_tell_little_of_the_tiles_of_a_jigsaw(fringed):
    # Half of the photos stay in color, as in the release, and half of these keep all colors.
    _, inputs = _inputs("jigsaw", fringed, task__permutations=1)
    assert _accuracy(*_by_tile(_fringes(inputs))) < 0.3


def _of_border(images):
    """(The pixels of the border of every turn and their contrast with the next ones, the turn)."""
    images = np.asarray(images)
    sides = [np.rot90(images, k, (-3, -2))[:, :, :2] for k in range(4)]
    pixels = [side[:, :, 0].reshape(*images.shape[:2], -1) for side in sides]
    contrasts = [np.abs(np.diff(side, axis=2)).mean((2, 3, 4))[..., None] for side in sides]
    return _by_tile(np.concatenate(pixels + contrasts, -1))


def test_the_border_of_a_turned_photo_tells_nothing():
    # Noise looks the same in all turns. A black line below is what other ways of turning leave.
    noise = np.random.default_rng(0).integers(0, 256, (PHOTOS, 8, 8, 3), np.uint8)
    line = noise * (np.arange(8) < 7)[:, None, None].astype(np.uint8)
    found = []
    for image in (noise, line):
        batch = {"image": image, "valid": np.ones(PHOTOS, bool)}
        config = tiny.config(task__name="rotation", model__in_channels=3, data__crop=8)
        (inputs,), _ = make_task(config).prepare(None, batch)
        found.append(_accuracy(*_of_border(inputs)))
    assert found[0] < 1 / 4 + 0.06 and found[1] > 0.9
