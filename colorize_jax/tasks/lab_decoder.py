"""Colorization by a decoder: a and b of every pixel from gray, by squared error.

It is the task of Macar and Liu's student report on self-supervision as they meant it: the input has
no color, a and b come from a real conversion to Lab, and the last layer is linear.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.color import instantiate, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.decoder import Decoder, decoder_of
from colorize_jax.tasks import colorization
from colorize_jax.tasks.task import Facts, Task, chosen_layer

SETTINGS = {
    # The layer of the encoder that is read. "": its top.
    "layer": "",
    "decoder": 256,  # The number of channels of the decoder's first layer.
}
AB_SCALE = 110.0  # a and b are predicted in this unit, so that they are of order one.
_FAR = 100.0  # No color is beyond 1, and the square of a huge prediction would overflow.


class DecodedNetwork(nn.Module):
    """Encoder -> one layer -> decoder.

    Attributes:
        encoder: see `models.encoder`.
        decoder: the decoder of a and b.
        layer: the name of the encoder's layer.
    """

    encoder: nn.Module
    decoder: Decoder
    layer: str

    def __call__(self, gray: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Network input [batch, side, side, 1] -> {"ab": [batch, side, side, 2]}, scaled."""
        ab = self.decoder(self.encoder(gray, train)[self.layer], train)
        return {"ab": jnp.clip(ab, -_FAR, _FAR)}


def make_task(config, encoder, facts: Facts) -> Task:
    """The mean squared error of a and b over all pixels.

    The decoder connects all positions of a map of one size. So it works only for crops of that
    size, and does not color photos.
    """
    del facts
    colorization.check_gray(config)
    if config.task.decoder < 1:
        raise ConfigError(f"config.task.decoder={config.task.decoder} must be positive")
    layer, crop = chosen_layer(config, encoder), config.data.crop
    decoder = decoder_of(encoder, 2, crop, config.task.decoder)
    # It starts with gray. The steps that bring down random colors, which are far from those of
    # photos, would spoil the encoder.
    decoder = decoder.clone(out_init=nn.initializers.zeros)
    model = DecodedNetwork(encoder, decoder, layer)

    def prepare(keys, batch):
        del keys
        ab = spaces.lab(spaces.from_uint8(batch["image"]))[..., 1:] / AB_SCALE
        return (encoder.network_input(batch["image"]),), {"ab": ab, "valid": batch["valid"]}

    def loss(outputs, targets):
        valid = targets["valid"]
        values = jnp.square(outputs["ab"] - targets["ab"]).mean((1, 2, 3))
        return {"loss": jnp.where(valid, values, 0)}, valid.astype(jnp.float32)

    def statistics(keys, batch):
        _, targets = prepare(keys, batch)
        valid = targets["valid"].astype(jnp.float32)
        means = targets["ab"].mean((1, 2)) * valid[:, None]
        return {"ab": means.sum(0), "photos": valid.sum()}

    def constant_outputs(variables, sums):
        del variables
        return {"ab": sums["ab"] / jnp.maximum(sums["photos"], 1)}

    def colors(variables, image):
        ab = model.apply(variables, encoder.network_input(image))["ab"] * AB_SCALE
        return instantiate.ab_to_rgb(ab, spaces.gray(spaces.from_uint8(image)))

    evaluator = colorization.colors_evaluator(
        model, prepare, loss, colors, statistics, constant_outputs
    )
    return Task(model, prepare, loss, evaluators={"": evaluator})
