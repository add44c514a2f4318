"""The vision transformer: its positions and sizes, and what a block computes."""

import functools

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import tiny
import toys

from colorize_jax.errors import ConfigError
from colorize_jax.models import registry, transformer
from colorize_jax.models.vit import Embedding, Vit
from colorize_jax.tasks import registry as tasks
from colorize_jax.training.step import init_state, train_step

SMALL = Vit(size="tiny", width=0.125, blocks=2, patch=8, in_channels=3)


def test_golden_mae_positions():
    golden = golden_pretexts.group("mae")["positions_4x4_16"]
    np.testing.assert_allclose(transformer.positions(4, 4, 16), golden, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ("base", 16, 85_798_656),
        pytest.param("large", 16, 303_301_632, marks=pytest.mark.slow),
        pytest.param("huge", 14, 630_764_800, marks=pytest.mark.slow),
    ],
)
def test_the_published_sizes_have_the_published_numbers_of_parameters(size, patch, expected):
    encoder = Vit(size=size, patch=patch, in_channels=3)
    count = sum(x.size for x in jax.tree.leaves(registry.variable_shapes(encoder)))
    # The release counts the fixed positions of a crop of 224 pixels, and those of its token.
    fixed = ((224 // patch) ** 2 + 1) * encoder.features
    assert count + fixed == expected


def _params(rng):
    shapes = registry.variable_shapes(SMALL)["params"]
    return jax.tree.map(lambda v: rng.normal(0, 0.3, v.shape).astype(np.float32), shapes)


def _norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def _block(x, p, heads):
    """A block in plain sums, of one photo: [tokens, features] in float64."""
    dense = {name: (p[name]["kernel"], p[name]["bias"]) for name in ("qkv", "proj", "fc1", "fc2")}
    y = _norm(x, p["norm1"]) @ dense["qkv"][0] + dense["qkv"][1]
    query, key, value = (part.reshape(len(x), heads, -1) for part in np.split(y, 3, 1))
    out = np.zeros_like(query)
    for head in range(heads):
        scores = query[:, head] @ key[:, head].T / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out[:, head] = weights / weights.sum(1, keepdims=True) @ value[:, head]
    x = x + out.reshape(x.shape) @ dense["proj"][0] + dense["proj"][1]
    y = _norm(x, p["norm2"]) @ dense["fc1"][0] + dense["fc1"][1]
    y = y * 0.5 * (1 + scipy.special.erf(y / np.sqrt(2)))
    return x + y @ dense["fc2"][0] + dense["fc2"][1]


def test_it_is_what_its_description_says_and_reads_the_patches_it_is_told(rng):
    """The maps, against plain sums in float64; the tokens of some patches, against a walk of those
    patches alone."""
    params, image = _params(rng), rng.normal(size=(2, 20, 24, 3)).astype(np.float32)
    keep = np.array([[4, 0], [7, 8]])

    @jax.jit
    def both(image, keep):
        variables = {"params": params}
        return SMALL.apply(variables, image), SMALL.apply(variables, image, keep, method="tokens")

    maps, tokens = both(image, keep)
    assert set(maps) == {"gray", *SMALL.layers} == set(SMALL.strides)
    padded = np.zeros((2, 24, 24, 3))
    padded[:, :20] = image
    p = jax.tree.map(lambda x: x.astype(np.float64), params)
    kernel = p["embed"]["kernel"].reshape(-1, SMALL.features)
    for i, kept in ((0, range(9)), (0, keep[0]), (1, keep[1])):
        cells = [
            padded[i, r : r + 8, c : c + 8].reshape(-1) for r in (0, 8, 16) for c in (0, 8, 16)
        ]
        x = np.stack(cells) @ kernel + p["embed"]["bias"]
        x += transformer.positions(3, 3, SMALL.features)
        x = np.concatenate([p["embed"]["token"][None], x[list(kept)]])
        for name in ("block1", "block2"):
            x = _block(x, p[name], 3)
            if len(kept) == 9:
                np.testing.assert_allclose(
                    maps[name][i].reshape(9, -1), x[1:], rtol=1e-4, atol=1e-4
                )
        x = _norm(x, p["norm"])
        if len(kept) == 9:
            np.testing.assert_allclose(maps["norm"][i].reshape(9, -1), x[1:], rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_allclose(tokens[i], x, rtol=1e-4, atol=1e-4)


def test_patches_start_as_a_linear_layer_of_xavier():
    embedding = Embedding(features=192, patch=16)
    params = jax.jit(embedding.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    limit = np.sqrt(6 / (768 + 192))
    assert 0.99 * limit < np.abs(params["kernel"]).max() <= limit
    assert np.std(params["token"]) == pytest.approx(0.02, rel=0.2)


def test_layers_for_transfer():
    encoder = Vit()
    assert encoder.layers == ("embed", *(f"block{i}" for i in range(1, 13)), "norm")
    assert encoder.hypercolumn == dict.fromkeys(("block3", "block6", "block9", "norm"), 16)
    assert SMALL.hypercolumn == dict.fromkeys(("block1", "norm"), 8)
    assert encoder.top_centers(64).tolist() == [8, 24, 40, 56]
    assert Vit(size="tiny", width=0.5).features == 96


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "giant"}, "size is 'giant'; known: 'tiny', 'small'"),
        ({"blocks": -1}, "blocks=-1 must be from 0 to 128"),
        ({"patch": 0}, "patch=0 must be from 1 to 128"),
        ({"drop_path": 1.0}, "drop_path=1.0: give a number from 0 to below 1"),
    ],
)
def test_what_it_does_not_have_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        registry.make_encoder({"name": "vit"} | settings)


def test_whole_blocks_are_left_out_in_training():
    """Of every photo by itself: the rows of a batch are those of none, of one, or of both parts of
    the block, divided by what remains."""
    block = transformer.Block(heads=1, dropped=0.5)
    x = jnp.broadcast_to(jnp.arange(8.0), (64, 2, 8))
    params = jax.tree.map(
        lambda v: jnp.full(v.shape, 0.1), jax.eval_shape(block.init, jax.random.key(0), x)
    )
    run = jax.jit(lambda key: block.apply(params, x, train=True, rngs={"dropout": key}))
    rows = {row.tobytes() for row in np.asarray(run(jax.random.key(1)))}
    assert len(rows) == 4 and np.asarray(x[0]).tobytes() in rows


def test_the_config_of_a_run_has_its_settings():
    config = tiny.config(**tiny.VIT)
    encoder = registry.make_encoder(config.model)
    assert (encoder.features, encoder.depth, encoder.patch) == (48, 2, 8)
    assert registry.name_of(encoder) == "vit"


@pytest.mark.parametrize(
    "name",
    [
        name if name == "segmentation" else pytest.param(name, marks=pytest.mark.slow)
        for name in tasks.names()
        if name != "split_brain"  # It needs a network of two halves.
    ],
)
def test_every_task_trains_it(name):
    config, task = toys.make(name, **tiny.VIT)
    batch = toys.batch(config, task, np.random.default_rng(0))
    sgd = optax.sgd(1.0)
    state = jax.eval_shape(lambda key: init_state(key, task, sgd, batch), jax.random.key(0))
    step = functools.partial(train_step, task=task, optimizer=sgd)
    after, metrics = jax.eval_shape(step, state, batch, jax.random.key(0))
    assert set(after.params["encoder"]) == {"embed", "block1", "block2", "norm"}
    assert metrics["loss"].shape == ()
