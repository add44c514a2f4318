"""Rotation: which of four right-angled turns was made (Gidaris, Singh, Komodakis, ICLR 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models.classifier import LinearHead
from colorize_jax.tasks import evaluators, losses
from colorize_jax.tasks.task import Facts, Score, Task, chosen_layer

TURNS = 4
SETTINGS = {
    # The layer whose mean over positions the classifier reads. "": the encoder's top.
    "layer": "",
}


def turned(image: jax.Array) -> jax.Array:
    """All turns of square photos: [..., side, side, channels] -> [..., 4, side, side, channels].

    Number k is turned by k right angles counter-clockwise. Pixels change their places and nothing
    else: resampling or black corners would give the answer away.
    """
    return jnp.stack([jnp.rot90(image, k, axes=(-3, -2)) for k in range(TURNS)], -4)


class RotationNetwork(nn.Module):
    """Encoder -> mean over the positions of one layer -> linear classifier of four turns.

    Attributes:
        encoder: see `models.encoder`.
        head: reads the mean.
        layer: of the encoder.
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
    """Cross-entropy over the four turns of each photo, which all lie in its row of a batch."""
    del facts
    layer = chosen_layer(config, encoder)
    model = RotationNetwork(encoder, LinearHead(TURNS, encoder.dtype), layer)

    def prepare(keys, batch):
        del keys  # nothing is drawn: every photo comes in all four turns
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
