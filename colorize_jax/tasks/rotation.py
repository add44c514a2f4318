"""Rotation: recognize by which of four right angles a photo was turned.

After Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image
Rotations" (ICLR 2018).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models.heads import LinearHead
from colorize_jax.tasks import evaluators, losses
from colorize_jax.tasks.task import Facts, Score, Task, chosen_layer

TURNS = 4
SETTINGS = {
    # The layer whose mean over positions the classifier reads. "": the encoder's top.
    "layer": "",
}


def turned(image: jax.Array) -> jax.Array:
    """All turns of square photos: [..., side, side, channels] -> [..., 4, side, side, channels].

    Number k is turned by k right angles counter-clockwise. Only the places of pixels change:
    resampling or black corners would reveal the turn.
    """
    return jnp.stack([jnp.rot90(image, k, axes=(-3, -2)) for k in range(TURNS)], -4)


class RotationNetwork(nn.Module):
    """Encoder -> mean over the positions of one layer -> linear classifier of four turns.

    Attributes:
        encoder: see `models.encoder`.
        head: the classifier of the mean.
        layer: the name of the encoder's layer.
    """

    encoder: nn.Module
    head: nn.Module
    layer: str

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Network input [batch, 4, side, side, channels] -> logits [batch, 4, 4] in float32."""
        batch, turns = images.shape[:2]
        maps = self.encoder(images.reshape(-1, *images.shape[2:]), train)
        features = maps[self.layer].astype(jnp.float32).mean((1, 2))
        return self.head(features).reshape(batch, turns, TURNS)


def make_task(config, encoder, facts: Facts) -> Task:
    """Cross-entropy over the four turns of each photo; one row of a batch holds all four."""
    del facts
    layer = chosen_layer(config, encoder)
    model = RotationNetwork(encoder, LinearHead(TURNS, encoder.dtype), layer)

    def prepare(keys, batch):
        del keys  # Nothing is random: every photo comes in all four turns.
        labels = jnp.broadcast_to(jnp.arange(TURNS), (len(batch["image"]), TURNS))
        images = turned(batch["image"])
        flat = encoder.network_input(images.reshape(-1, *images.shape[2:]))
        inputs = flat.reshape(*images.shape[:2], *flat.shape[1:])
        return (inputs,), {"labels": labels, "valid": batch["valid"]}

    def loss(logits, targets):
        values, _ = losses.cross_entropy(logits, targets["labels"], void=-1)
        valid = targets["valid"].astype(jnp.float32)
        return {"loss": values.sum(1) * valid}, valid * TURNS

    def pictures(variables, batch):
        del variables
        return turned(batch["image"])

    panels = tuple(f"{90 * k} degrees" for k in range(TURNS))
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    score = Score("accuracy", higher=True)
    return Task(model, prepare, loss, evaluators={"": evaluator}, score=score)
