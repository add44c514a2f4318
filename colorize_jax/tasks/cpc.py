"""Contrastive predictive coding: predict the codes of patches that the network has not seen.

After van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding"
(2018), and Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding"
(ICML 2020). Overlapping patches of a photo are encoded one by one. A masked network reads the codes
of some rows of patches and predicts those of later rows: the right code must be found among the
codes of all patches of all photos of the batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.augment import photometric, tiles
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.context_network import (
    DIRECTIONS,
    PatchNetwork,
    PredictiveHead,
    predicted_places,
)
from colorize_jax.tasks import evaluators
from colorize_jax.tasks.task import Facts, Score, Task, chosen_layer

SETTINGS = {
    # The side of a patch and the step from one to the next in pixels: 64 and 32 in the papers, with
    # a crop of 256 pixels, which is a grid of 7 x 7.
    "patch": lambda config: config.data.get_ref("crop") // 4,
    "stride": lambda config: config.data.get_ref("crop") // 8,
    # A patch shows a random part of its place, which is smaller by this many pixels a side.
    "jitter": lambda config: config.data.get_ref("crop") // 64,
    "one_color": 0.5,  # The share of the patches that keep one of their three channels only.
    "mirrored": 0.5,  # The share of the patches that are mirrored, each by itself.
    # The sides to which codes are predicted, each by a context network of its own. The first paper
    # predicts down only.
    "directions": tuple(DIRECTIONS),
    # The nearest and the farthest row that is predicted, counted from the last row that is seen.
    # The nearest one must not overlap what is seen. 0 as the farthest: to the end of the grid.
    "nearest": 2,
    "farthest": 0,
    # The layer of the encoder whose mean over a patch is the code of the patch. "": its top.
    "layer": "",
    "model.dimensions": 64,  # The length of what is predicted: a linear map of the code.
    "model.context": 256,  # The number of channels inside a context network.
    "model.context_blocks": 5,  # The number of blocks of a context network.
    "model.prediction_scale": 0.1,  # Predictions are multiplied by it.
}
_NEVER = -1e30  # A logit of what is no candidate. Minus infinity would make gradients NaN.


def info_nce(
    predictions: jax.Array, targets: jax.Array, own: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The loss of InfoNCE: the cross-entropy of the own target among all targets.

    The logits are dot products. The mean loss is never below 0, and the logarithm of the number of
    targets less the loss is a lower bound of the mutual information, in nats.

    Args:
        predictions: [n, dimensions].
        targets: [m, dimensions].
        own: the number of the target that each prediction should match, [n].
        valid: bool [m], which targets are candidates beside the own one.

    Returns:
        The losses [n], and whether the own logit is the only largest one, bool [n].
    """
    logits = jnp.einsum("nd,md->nm", predictions, targets, precision="highest")
    mine = own[:, None] == jnp.arange(len(targets))
    logits = jnp.where(mine | valid, logits, _NEVER)
    score = jnp.take_along_axis(logits, own[:, None], 1)
    loss = jax.nn.logsumexp(logits, axis=1) - score[:, 0]
    return loss, (logits >= score).sum(1) == 1


def patches(
    key: jax.Array,
    image: jax.Array,
    corners: jax.Array,
    patch: int,
    jitter: int,
    one_color: float,
    mirrored: float,
) -> jax.Array:
    """Cuts the patches of a photo, each moved, mirrored and robbed of colors by itself.

    Args:
        key: a JAX key of this photo.
        image: uint8 [height, width, 3].
        corners: (y, x) of the places of the patches, [n, 2].
        patch, jitter, one_color, mirrored: see `SETTINGS`.

    Returns:
        [n, patch - jitter, patch - jitter, 3] in [0, 1].
    """
    offset_key, mirror_key, color_key = jax.random.split(key, 3)
    offsets = jax.random.randint(offset_key, corners.shape, 0, jitter + 1)
    found = tiles.cut(spaces.from_uint8(image), corners + offsets, patch - jitter)
    turned = jax.random.bernoulli(mirror_key, mirrored, (len(corners), 1, 1, 1))
    found = jnp.where(turned, found[:, :, ::-1], found)
    colors = jax.random.split(color_key, len(corners))
    return jax.vmap(lambda key, x: photometric.one_color(key, x, one_color))(colors, found)


def make_task(config, encoder, facts: Facts) -> Task:
    """Prediction of patches of a photo from others, to all `config.task.directions`."""
    del facts
    settings = config.task
    layer = chosen_layer(config, encoder)
    side, distances = _check(config, encoder)
    directions = tuple(settings.directions)
    places = predicted_places(side, directions, distances)
    head = PredictiveHead(
        config.model.dimensions, directions, distances, config.model.context,
        config.model.context_blocks, config.model.prediction_scale, encoder.dtype,
    )  # fmt: skip
    model = PatchNetwork(encoder, head, layer)
    corners = tiles.grid(side) * settings.stride
    border = (settings.jitter // 2, settings.jitter - settings.jitter // 2)

    def cut(key, image):
        return patches(
            key, image, corners, settings.patch, settings.jitter, settings.one_color,
            settings.mirrored,
        )  # fmt: skip

    def prepare(keys, batch):
        found = jax.vmap(cut)(keys, batch["image"])
        inputs = encoder.network_input(found.reshape(-1, *found.shape[2:]))
        # The border is the zeros that a convolution sees around a photo.
        inputs = jnp.pad(inputs, [(0, 0), border, border, (0, 0)])
        return (inputs.reshape(*found.shape[:2], *inputs.shape[1:]),), {"valid": batch["valid"]}

    def loss(outputs, targets):
        valid, predictions = targets["valid"], outputs["predictions"]
        batch, _, count, dimensions = predictions.shape
        codes = outputs["targets"].reshape(-1, dimensions)
        candidates = jnp.repeat(valid, side**2)
        first = jnp.arange(batch)[:, None] * side**2

        # One direction after the other, and again in the backward pass: the logits are large.
        @jax.checkpoint
        def of_direction(given):
            predictions, places = given
            own = (first + places).reshape(-1)
            found = info_nce(predictions.reshape(-1, dimensions), codes, own, candidates)
            return [x.reshape(batch, count).sum(1, dtype=jnp.float32) for x in found]

        sums, hits = jax.lax.map(of_direction, (jnp.moveaxis(predictions, 1, 0), places))
        answers = len(directions) * count
        information = jnp.log(jnp.maximum(candidates.sum(), 1).astype(jnp.float32)) * answers
        values = {
            "loss": sums.sum(0),
            "accuracy": hits.sum(0),
            "information": information - sums.sum(0),
        }
        # The mean of a direction: there are as many answers in each.
        values |= {name: sums[i] * len(directions) for i, name in enumerate(directions)}
        counts = valid.astype(jnp.float32) * answers
        return {name: jnp.where(valid, value, 0) for name, value in values.items()}, counts

    # Every so many places, patches do not overlap.
    step = -(-settings.patch // settings.stride)
    apart = np.arange(side**2).reshape(side, side)[::step, ::step].ravel()
    # The nearest predictions to the first direction.
    guessed = places[0, : side * (side - distances[0])]

    def pictures(variables, batch):
        images = batch["image"]
        keys = jax.vmap(jax.random.key)(batch["photo"])
        given = jax.vmap(cut)(keys, images)
        whole = jax.vmap(lambda x: tiles.cut(spaces.from_uint8(x), corners, settings.patch))(images)
        inputs, _ = prepare(keys, batch)
        outputs = model.apply(variables, *inputs)
        asked = outputs["predictions"][:, 0, : len(guessed)]
        logits = jnp.einsum("bpd,cqd->bpcq", asked, outputs["targets"], precision="highest")
        best = logits.reshape(*asked.shape[:2], -1).argmax(-1)
        found = whole.at[:, guessed].set(whole.reshape(-1, *whole.shape[2:])[best])

        def shown(patches):
            of_photo = functools.partial(tiles.in_place, corners[apart], side=config.data.crop)
            return jax.vmap(of_photo)(patches[:, apart])

        panels = jnp.round(jnp.stack([shown(given), shown(found)], 1) * 255).astype(jnp.uint8)
        return jnp.concatenate([images[:, None], panels], 1)

    panels = ("photo", "given", f"{directions[0]}: most likely")
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    score = Score("information", higher=True)
    return Task(model, prepare, loss, {"": evaluator}, score, microbatches=False)


def _check(config, encoder) -> tuple[int, tuple[int, ...]]:
    """(Patches a side of the grid, distances that are predicted); ConfigError if none are."""
    settings, crop = config.task, config.data.crop
    patch, stride = settings.patch, settings.stride
    if not 1 <= patch <= crop or stride < 1 or (crop - patch) % stride:
        raise ConfigError(
            f"patches of config.task.patch={patch} every config.task.stride={stride} pixels do not "
            f"fill config.data.crop={crop}: the crop less a patch must be a multiple of the stride"
        )
    if not 0 <= settings.jitter < patch:
        raise ConfigError(
            f"config.task.jitter={settings.jitter} must be from 0 to below "
            f"config.task.patch={patch}"
        )
    if patch < encoder.smallest_input:
        raise ConfigError(
            f"config.task.patch={patch} is too small for {config.model.name}, which takes "
            f"{encoder.smallest_input} pixels"
        )
    for name in ("one_color", "mirrored"):
        if not 0 <= settings[name] <= 1:
            raise ConfigError(f"config.task.{name}={settings[name]} must be from 0 to 1")
    unknown = [name for name in settings.directions if name not in DIRECTIONS]
    if (
        unknown
        or not settings.directions
        or len(set(settings.directions)) < len(settings.directions)
    ):
        raise ConfigError(
            f"config.task.directions={tuple(settings.directions)} must be some of "
            f"{', '.join(DIRECTIONS)}, each once"
        )
    side = (crop - patch) // stride + 1
    nearest, farthest = settings.nearest, settings.farthest or side - 1
    if nearest * stride < patch:
        raise ConfigError(
            f"config.task.nearest={nearest}: rows of patches that overlap what is seen would be "
            f"predicted; the nearest without overlap is {-(-patch // stride)}"
        )
    if not nearest <= farthest < side:
        raise ConfigError(
            f"config.task.nearest={nearest} and config.task.farthest={settings.farthest}: the grid "
            f"has {side} rows, so that rows up to {side - 1} beyond the first can be predicted"
        )
    return side, tuple(range(nearest, farthest + 1))
