"""Split-brain autoencoder: L of Lab from a and b, and a and b from L, by two halves of a network.

After Zhang, Isola and Efros, "Split-Brain Autoencoders" (CVPR 2017). Any weight between the halves
would let one of them see what it predicts, so they share none. Together they are one encoder of the
full width, which reads color.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.color import gamut, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import hypercolumn, layers
from colorize_jax.tasks import colorization, losses, points
from colorize_jax.tasks.task import Facts, Task, chosen_layer

SETTINGS = {
    "loss": "bins",  # "bins" of L and of a and b, or "regression" of both.
    "neighbors": 5,  # The number of bins of a and b that a pixel's color is spread over.
    "lightness_bins": 100,  # The number of bins of L. Our choice.
    # The layer of the encoder that is read, at each of its cells. "": its top.
    "layer": "",
}
TEMPERATURE = 0.38  # of the colors in pictures, as in `zhang`
_SHOWN_LIGHTNESS = 65.0  # of a and b, where they are shown without their own


class SplitHead(nn.Module):
    """Linear outputs of each half of the channels.

    Attributes:
        outputs: {name: width} of the first and of the second half.
        dtype: the type of the computation; outputs are float32.
    """

    outputs: Mapping[str, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: jax.Array) -> dict[str, jax.Array]:
        """[batch, h, w, channels] -> {name: [batch, h, w, width]}."""
        halves = jnp.split(maps, 2, -1)
        found = {}
        for (name, width), half in zip(self.outputs.items(), halves, strict=True):
            linear = nn.Dense(width, kernel_init=layers.caffe_xavier, dtype=self.dtype, name=name)
            found[name] = linear(half).astype(jnp.float32)
        return found


class SplitBrain(nn.Module):
    """Encoder in two halves -> one layer -> a linear answer of each half at every cell.

    Attributes:
        encoder: an encoder with `split`.
        head: the outputs.
        layer: the name of the encoder's layer.
    """

    encoder: nn.Module
    head: SplitHead
    layer: str

    def __call__(self, lab: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Network input [batch, side, side, 3] -> {"ab", "lightness": [batch, h, w, width]}."""
        return self.head(self.encoder(lab, train)[self.layer])


def make_task(config, encoder, facts: Facts) -> Task:
    """The sum of both losses, each the mean over the cells of a layer.

    A cell's answer is that of the pixel in its middle. It does not color photos of other sizes.
    """
    del facts
    settings = config.task
    layer = chosen_layer(config, encoder)
    _check(config, encoder)
    regression, count = settings.loss == "regression", settings.lightness_bins
    outputs = {"ab": 2, "lightness": 1} if regression else {"ab": gamut.BINS, "lightness": count}
    model = SplitBrain(encoder, SplitHead(outputs, encoder.dtype), layer)
    stride = encoder.strides[layer]
    cells = (config.data.crop // stride) ** 2
    centers = (jnp.arange(count) + 0.5) * 100 / count

    def targets_of(lab):
        """Of network input [batch, side, side, 3]: everything by cell, [batch, cells, ...]."""
        seen = lab[:, stride // 2 :: stride, stride // 2 :: stride].reshape(len(lab), -1, 3)
        lightness, ab = seen[..., 0] * 100 + 50, seen[..., 1:] * 100
        targets = {"has_color": gamut.has_color(ab)}
        if regression:
            return targets | {"ab": seen[..., 1:], "lightness": seen[..., :1]}
        bin_ = jnp.clip(jnp.floor(lightness * count / 100), 0, count - 1).astype(jnp.int32)
        return targets | {"ab": gamut.encode(ab, settings.neighbors), "lightness": bin_}

    def prepare(keys, batch):
        del keys
        lab = encoder.network_input(batch["image"])
        return (lab,), targets_of(lab) | {"valid": batch["valid"]}

    def loss(outputs, targets):
        shape = targets["ab"].shape[:2]
        ab, lightness = (_by_cell(outputs[name], shape) for name in ("ab", "lightness"))
        if regression:
            of_ab = losses.regression_loss(ab, targets["ab"])
            of_lightness = losses.regression_loss(lightness, targets["lightness"])
        else:
            of_ab = -(targets["ab"] * jax.nn.log_softmax(ab)).sum(-1)
            of_lightness, _ = losses.cross_entropy(lightness, targets["lightness"], void=-1)
        counted = targets["valid"] & targets["has_color"]
        of_ab, of_lightness = (
            jnp.where(counted[:, None], value, 0).sum(1) for value in (of_ab, of_lightness)
        )
        values = {"loss": of_ab + of_lightness, "loss_ab": of_ab, "loss_lightness": of_lightness}
        return values, targets["valid"].astype(jnp.float32) * cells

    def statistics(keys, batch):
        _, targets = prepare(keys, batch)
        lightness = targets["lightness"]
        if not regression:
            lightness = jax.nn.one_hot(lightness, count)
        counted = (targets["valid"] & targets["has_color"])[:, None, None]
        return {
            "ab": jnp.where(counted, targets["ab"], 0).sum((0, 1)),
            "lightness": jnp.where(counted, lightness, 0).sum((0, 1)),
            "cells": counted.sum() * cells,
        }

    def constant_outputs(variables, sums):
        del variables

        def best(total):
            if regression:
                return total / jnp.maximum(sums["cells"], 1)
            # One cell's worth of the uniform distribution keeps bins that never occurred finite.
            return jnp.log(total + 1 / len(total))

        # One cell, for all cells of all photos.
        return {name: best(sums[name])[None, None] for name in ("ab", "lightness")}

    def predicted(variables, image):
        """Predicted a and b, and predicted L, of all pixels: [batch, side, side, 2 and 1]."""
        found = model.apply(variables, encoder.network_input(image))
        if regression:
            ab, lightness = found["ab"] * 100, found["lightness"] * 100 + 50
        else:
            ab = gamut.annealed_mean(found["ab"], TEMPERATURE)
            shares = jax.nn.softmax(found["lightness"])
            lightness = (shares * centers).sum(-1, keepdims=True)
        sides = image.shape[1:3]
        return tuple(hypercolumn.from_grid(x, *sides, "center") for x in (ab, lightness))

    def colors(variables, image):
        lab = spaces.lab(spaces.from_uint8(image))
        return _rgb(lab[..., :1], predicted(variables, image)[0])

    def lightness(variables, image):
        found = predicted(variables, image)[1]
        return _rgb(found, jnp.zeros((*found.shape[:-1], 2)))

    def given_ab(variables, image):
        del variables
        lab = spaces.lab(spaces.from_uint8(image))
        return _rgb(jnp.full_like(lab[..., :1], _SHOWN_LIGHTNESS), lab[..., 1:])

    def without_color(rgb):
        lab = spaces.lab(rgb)
        return _rgb(lab[..., :1], jnp.zeros_like(lab[..., 1:]))

    evaluator = colorization.colors_evaluator(
        model,
        prepare,
        loss,
        colors,
        statistics,
        constant_outputs,
        without_color=without_color,
        more={"a and b": given_ab, "predicted lightness": lightness},
        constants=("loss", "loss_ab", "loss_lightness"),
    )
    return Task(model, prepare, loss, evaluators={"": evaluator})


def _by_cell(values: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[batch, h, w, width], or one cell of it for all, -> [batch, cells, width]."""
    flat = values.reshape(len(values), -1, values.shape[-1])
    return jnp.broadcast_to(flat, (*shape, flat.shape[-1]))


def _rgb(lightness: jax.Array, ab: jax.Array) -> jax.Array:
    """L [..., 1] and a and b [..., 2] -> RGB [..., 3] in [0, 1], clipped."""
    return spaces.lab_to_rgb(jnp.concatenate([lightness, ab], -1))


def _check(config, encoder):
    task = config.task
    if not getattr(encoder, "split", False):
        raise ConfigError(
            "split_brain needs a network of two halves: take VGG-16 or an AlexNet, and set "
            "config.model.split=True"
        )
    points.check_dense(config, encoder)
    if task.loss not in ("bins", "regression"):
        raise ConfigError(f"config.task.loss is {task.loss!r}; known: 'bins', 'regression'")
    if not 1 <= task.neighbors <= gamut.BINS:
        raise ConfigError(
            f"config.task.neighbors={task.neighbors} must be between 1 and {gamut.BINS}, the "
            "number of bins"
        )
    if task.lightness_bins < 2:
        raise ConfigError(f"config.task.lightness_bins={task.lightness_bins} must be 2 or more")
