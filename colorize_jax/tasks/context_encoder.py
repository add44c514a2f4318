"""Context encoder: predict the hidden part of a photo.

After Pathak, Krähenbühl, Donahue, Darrell and Efros, "Context Encoders: Feature Learning by
Inpainting" (CVPR 2016).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.augment import masking
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import layers
from colorize_jax.models.decoder import Decoder, decoder_of
from colorize_jax.tasks import evaluators
from colorize_jax.tasks.task import Facts, Task, chosen_layer

SETTINGS = {
    # The hidden part: "center", a square in the middle, or "random", regions of any form.
    "region": "center",
    # The side of the square in pixels. It is what the network predicts.
    "hole": lambda config: config.data.get_ref("crop") // 2,
    # This many pixels at the border of the square are predicted although they are visible. They
    # count `overlap_weight` times, so that the prediction fits to its surroundings.
    "overlap": lambda config: config.data.get_ref("crop") // 32,
    "overlap_weight": 10.0,
    "share": 0.25,  # The share of a photo that is hidden, with "random".
    # The color of the hidden part: red, green and blue in 0 to 255. The mean of photos is no hint.
    "fill": (123, 117, 104),
    # The weight of the adversarial loss, which wants the discriminator to take a prediction for
    # real. It is 0.001 in the paper; with 0 there is no discriminator. config.optimizer.groups can
    # give the discriminator another optimizer.
    "adversarial": 0.0,
    "decoder": 256,  # The number of channels of the decoder's first layer.
    # The layer of the encoder that is read. "": its top.
    "layer": "",
}


def squared_error(predicted: jax.Array, truth: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean over all values of weight times the squared difference: [batch].

    It is not divided by the sum of weights: a weight of ten counts ten times.

    Args:
        predicted, truth: [batch, h, w, channels] in [-1, 1].
        weight: [h, w], or [batch, h, w].
    """
    return (weight[..., None] * jnp.square(predicted - truth)).mean((1, 2, 3))


class Discriminator(nn.Module):
    """4x4 convolutions of stride 2 with leaky ReLU, then one logit: whether this is a real part.

    It is the paper's without batch norm. Photos and predictions come in separate batches, and batch
    norm would reveal which is which.

    Attributes:
        features: the channels of the first convolution.
        dtype: the type of the computation; parameters are float32.
    """

    features: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, side, side, channels] in [-1, 1] -> logits [batch] in float32."""
        for i in range(4):
            if min(x.shape[1:3]) < 4:
                break
            conv = layers.Conv(self.features << i, 4, 2, dtype=self.dtype, name=f"conv{i + 1}")
            x = nn.leaky_relu(conv(x), 0.2)
        flat = x.astype(jnp.float32).reshape(len(x), -1)
        return nn.Dense(1, name="out")(flat)[:, 0]


class ContextNetwork(nn.Module):
    """Encoder -> decoder, and a discriminator if there is an adversarial loss.

    Attributes:
        encoder: see `models.encoder`.
        decoder: one layer -> the hidden part.
        layer: the name of the encoder's layer.
        discriminator: None without an adversarial loss.
    """

    encoder: nn.Module
    decoder: Decoder
    layer: str
    discriminator: Discriminator | None = None

    def __call__(
        self, images: jax.Array, truth: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """The network's predictions for the holes, and the discriminator's logits.

        Args:
            images: network input [batch, height, width, channels], with holes.
            truth: the hidden parts, [batch, side, side, 3] in [-1, 1].
            train: whether to use batch statistics.

        Returns:
            {"predicted": like the truth}, and with a discriminator three logits [batch]: "real" of
            the truth; "false" of the prediction, without a gradient to the prediction; and "taken",
            the same without a gradient to the discriminator. So one gradient trains both networks
            in the same step.
        """
        predicted = jnp.tanh(self.decoder(self.encoder(images, train)[self.layer], train))
        outputs = {"predicted": predicted}
        if self.discriminator is not None:
            outputs["real"] = self.discriminator(truth)
            outputs["false"] = self.discriminator(jax.lax.stop_gradient(predicted))
            constant = jax.lax.stop_gradient(self.discriminator.variables)
            outputs["taken"] = self.discriminator.clone(parent=None).apply(constant, predicted)
        return outputs


def make_task(config, encoder, facts: Facts) -> Task:
    """The squared error of the hidden part, and the adversarial loss if it has a weight."""
    del facts
    settings, crop = config.task, config.data.crop
    layer = chosen_layer(config, encoder)
    _check(config)
    center = settings.region == "center"
    side = settings.hole if center else crop
    fill = jnp.asarray(np.array(settings.fill, np.float32) / 127.5 - 1)
    model = ContextNetwork(
        encoder=encoder,
        decoder=decoder_of(encoder, 3, side, settings.decoder),
        layer=layer,
        discriminator=Discriminator(dtype=encoder.dtype) if settings.adversarial else None,
    )
    start = (crop - side) // 2
    middle = slice(start, start + side)

    def hidden_of(keys):
        """[batch, crop, crop] bool."""
        if center:
            mask = masking.center(crop, settings.hole, settings.overlap)
            return jnp.broadcast_to(mask, (len(keys), crop, crop))
        return jax.vmap(lambda key: masking.regions(key, crop, settings.share))(keys)

    def weights_of(hidden):
        """The weight of each predicted pixel: [side, side], or [batch, side, side]."""
        if center:
            return masking.border_weights(side, settings.overlap, settings.overlap_weight)
        shares = hidden.mean((1, 2), keepdims=True, dtype=jnp.float32)
        return hidden / jnp.maximum(shares, 1e-6)  # This gives the mean over hidden pixels.

    def prepare(keys, batch):
        rgb = spaces.from_uint8(batch["image"]) * 2 - 1
        hidden = hidden_of(keys)
        seen = masking.filled(rgb, hidden, fill)
        truth = rgb[:, middle, middle]
        visible = ~hidden[..., None]
        count = jnp.maximum(visible.sum((1, 2), keepdims=True, dtype=jnp.float32), 1)
        mean = jnp.where(visible, rgb, 0).sum((1, 2), keepdims=True) / count
        targets = {"truth": truth, "mean": mean, "weight": weights_of(hidden)}
        return (encoder.network_input((seen + 1) / 2), truth), targets | {"valid": batch["valid"]}

    def loss(outputs, targets):
        truth, weight = targets["truth"], targets["weight"]
        found = {"loss_l2": squared_error(outputs["predicted"], truth, weight)}
        # The error of predicting the mean color of the visible part. Any useful network is better.
        found["loss_mean_color"] = squared_error(targets["mean"], truth, weight)
        found["loss"] = found["loss_l2"]
        if settings.adversarial:
            share = settings.adversarial
            found["loss_taken"] = jax.nn.softplus(-outputs["taken"])
            real, false = jax.nn.softplus(-outputs["real"]), jax.nn.softplus(outputs["false"])
            found["loss_discriminator"] = (real + false) / 2
            found["loss"] = (
                (1 - share) * found["loss_l2"]
                + share * found["loss_taken"]
                + found["loss_discriminator"]
            )
        valid = targets["valid"]
        return (
            {name: jnp.where(valid, value, 0) for name, value in found.items()},
            valid.astype(jnp.float32),
        )

    def pictures(variables, batch):
        keys = jax.vmap(jax.random.key)(batch["photo"])
        inputs, _ = prepare(keys, batch)
        hidden = hidden_of(keys)
        rgb = spaces.from_uint8(batch["image"]) * 2 - 1
        predicted = model.apply(variables, *inputs)["predicted"]
        whole = jnp.zeros_like(rgb).at[:, middle, middle].set(predicted)
        answered = jnp.where(hidden[..., None], whole, rgb)
        panels = jnp.stack([masking.filled(rgb, hidden, fill), answered, rgb], 1)
        return jnp.round((jnp.clip(panels, -1, 1) + 1) * 127.5).astype(jnp.uint8)

    panels = ("given", "filled in", "photo")
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    return Task(model, prepare, loss, evaluators={"": evaluator})


def _check(config) -> None:
    settings, crop = config.task, config.data.crop
    if settings.region not in ("center", "random"):
        raise ConfigError(
            f"config.task.region is {settings.region!r}; known: 'center' and 'random'"
        )
    if not 1 <= settings.hole <= crop:
        raise ConfigError(
            f"config.task.hole={settings.hole} must be from 1 to config.data.crop={crop}"
        )
    if not 0 <= 2 * settings.overlap < settings.hole:
        raise ConfigError(
            f"config.task.overlap={settings.overlap} leaves nothing of config.task.hole="
            f"{settings.hole} hidden: twice the overlap must be below the hole"
        )
    if len(settings.fill) != 3 or not all(0 <= value <= 255 for value in settings.fill):
        raise ConfigError(
            f"config.task.fill={tuple(settings.fill)} must be three numbers from 0 to 255"
        )
    for name, low, high in (
        ("share", 0.01, 0.99),
        ("adversarial", 0, 1),
        ("overlap_weight", 0, 1e6),
    ):
        if not low <= settings[name] <= high:
            raise ConfigError(
                f"config.task.{name}={settings[name]} must be from {low:g} to {high:g}"
            )
    if settings.decoder < 1:
        raise ConfigError(f"config.task.decoder={settings.decoder} must be positive")
