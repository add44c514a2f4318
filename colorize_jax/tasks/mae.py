"""Masked autoencoder: predict three quarters of a photo from the patches that are left.

After He, Chen, Xie, Li, Dollar and Girshick, "Masked Autoencoders Are Scalable Vision Learners"
(CVPR 2022).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.augment import masking
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import transformer
from colorize_jax.tasks import evaluators
from colorize_jax.tasks.task import Facts, Task

SETTINGS = {
    "hidden": 0.75,  # The share of the patches of a photo that the encoder does not read.
    # Whether the target of a patch is its pixels less their mean and divided by their deviation.
    # The brightness of a patch, and a weak contrast, then count nothing.
    "normalized": True,
    "decoder": 512,  # The number of features of the decoder's tokens.
    "decoder_blocks": 8,  # The number of blocks of the decoder.
    "decoder_heads": 16,  # The number of heads in each of them.
    # The shares that are hidden in the pictures.
    "pictures": (0.75, 0.85, 0.95),
}


def normalized(patches: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every patch at mean 0 and variance 1, and what they were.

    (x - mean) / sqrt(variance + 1e-6), with the unbiased variance; a flat patch becomes zeros.

    Args:
        patches: [..., patches, values], float32.

    Returns:
        The patches, their mean and their sqrt(variance + 1e-6); the last two are [..., patches, 1].
    """
    mean = patches.mean(-1, keepdims=True)
    deviation = jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + 1e-6)
    return (patches - mean) / deviation, mean, deviation


def hidden_error(
    predicted: jax.Array, truth: jax.Array, hidden: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The squared error of hidden patches, and their number, each [batch].

    The error of a patch is the mean over its values; visible patches count nothing in both.

    Args:
        predicted, truth: [batch, patches, values].
        hidden: bool [batch, patches].
    """
    error = jnp.square(predicted - truth).mean(-1)
    return jnp.where(hidden, error, 0).sum(-1), hidden.sum(-1).astype(jnp.float32)


class MaskedDecoder(nn.Module):
    """Tokens of visible patches -> the pixels of all patches.

    Attributes:
        outputs: the number of values of a patch.
        features: those of its tokens, a multiple of four.
        blocks, heads: as of the encoder.
        dtype: the type of the computation; parameters and outputs are float32.
    """

    outputs: int
    features: int
    blocks: int
    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: jax.Array, restore: jax.Array, grid: tuple[int, int], train: bool = False
    ) -> jax.Array:
        """Values of all patches in their order: [batch, patches, outputs] in float32.

        Args:
            tokens: the token of the photo and those of the visible patches, [batch, 1 + kept, ...].
            restore: see `masking.shuffled`.
            grid: the number of rows and columns of patches.
            train: whether this is training.
        """
        dense = nn.Dense(
            self.features, kernel_init=transformer.dense_init, dtype=self.dtype, name="embed"
        )
        x = dense(tokens)
        mask = self.param("token", transformer.token_init, (self.features,)).astype(self.dtype)
        x = jnp.concatenate([x[:, :1], put_back(x[:, 1:], restore, mask)], 1)
        where = transformer.positions(*grid, self.features)
        x = x.at[:, 1:].add(jnp.asarray(where, self.dtype))
        for i in range(self.blocks):
            x = transformer.Block(self.heads, dtype=self.dtype, name=f"block{i + 1}")(x, train)
        x = transformer.LayerNorm(self.dtype, name="norm")(x)[:, 1:]
        out = nn.Dense(
            self.outputs, kernel_init=transformer.dense_init, dtype=self.dtype, name="out"
        )
        return out(x).astype(jnp.float32)


def put_back(tokens: jax.Array, restore: jax.Array, mask: jax.Array) -> jax.Array:
    """Tokens of visible patches in their places, and the mask's token in all others.

    Args:
        tokens: [batch, kept, features].
        restore: see `masking.shuffled`: [batch, patches].
        mask: [features].
    """
    batch, kept, features = tokens.shape
    masks = jnp.broadcast_to(mask, (batch, restore.shape[-1] - kept, features))
    return jnp.take_along_axis(jnp.concatenate([tokens, masks], 1), restore[..., None], 1)


class MaskedAutoencoder(nn.Module):
    """Encoder of the visible patches -> decoder of all.

    Attributes:
        encoder: a `Vit`.
        decoder: see there.
    """

    encoder: nn.Module
    decoder: MaskedDecoder

    def __call__(
        self, images: jax.Array, keep: jax.Array, restore: jax.Array, train: bool = False
    ) -> jax.Array:
        """The predicted patches [batch, patches, values] in float32.

        Args:
            images: network input [batch, height, width, channels].
            keep, restore: see `masking.shuffled`.
            train: whether this is training.
        """
        tokens = self.encoder.tokens(images, keep, train)
        rows, columns = (side // self.encoder.patch for side in images.shape[1:3])
        return self.decoder(tokens, restore, (rows, columns), train)


def make_task(config, encoder, facts: Facts) -> Task:
    """The squared error of the hidden patches."""
    del facts
    settings, crop = config.task, config.data.crop
    _check(config, encoder)
    side = encoder.patch
    number = (crop // side) ** 2
    model = MaskedAutoencoder(
        encoder,
        MaskedDecoder(
            side * side * encoder.in_channels,
            settings.decoder,
            settings.decoder_blocks,
            settings.decoder_heads,
            encoder.dtype,
        ),
    )

    def pixels_of(batch):
        """What is to be predicted, in [0, 1]: color, or gray if the encoder reads gray."""
        rgb = spaces.from_uint8(batch["image"])
        return rgb if encoder.in_channels == 3 else spaces.gray(rgb)[..., None]

    def chosen(keys, share):
        noise = jax.vmap(lambda key: jax.random.uniform(key, (number,)))(keys)
        return masking.shuffled(noise, masking.number_kept(number, share))

    def prepare(keys, batch):
        keep, restore, hidden = chosen(keys, settings.hidden)
        truth = masking.patches(pixels_of(batch), side)
        if settings.normalized:
            truth = normalized(truth)[0]
        inputs = (encoder.network_input(batch["image"]), keep, restore)
        return inputs, {"truth": truth, "hidden": hidden, "valid": batch["valid"]}

    def loss(predicted, targets):
        error, count = hidden_error(predicted, targets["truth"], targets["hidden"])
        valid = targets["valid"]
        return {"loss": jnp.where(valid, error, 0)}, jnp.where(valid, count, 0)

    def pictures(variables, batch):
        keys = jax.vmap(jax.random.key)(batch["photo"])
        truth = masking.patches(pixels_of(batch), side)
        panels = [truth]
        for share in settings.pictures:
            keep, restore, hidden = chosen(keys, share)
            predicted = model.apply(variables, encoder.network_input(batch["image"]), keep, restore)
            if settings.normalized:
                # Brightness and contrast are not predicted. They are those of the photo.
                _, mean, deviation = normalized(truth)
                predicted = predicted * deviation + mean
            hidden = hidden[..., None]
            panels += [jnp.where(hidden, 0.5, truth), jnp.where(hidden, predicted, truth)]
        shown = masking.joined(jnp.stack(panels, 1), crop, crop, side)
        shown = jnp.round(jnp.clip(shown, 0, 1) * 255).astype(jnp.uint8)
        return jnp.broadcast_to(shown, (*shown.shape[:-1], 3))

    headings = [(f"{share:.0%} hidden", "filled in") for share in settings.pictures]
    panels = ("photo", *(heading for pair in headings for heading in pair))
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    return Task(model, prepare, loss, evaluators={"": evaluator})


def _check(config, encoder) -> None:
    settings, crop = config.task, config.data.crop
    if not hasattr(encoder, "tokens"):
        raise ConfigError(
            f"config.model.name={config.model.name!r} cannot leave out patches of a photo, which "
            "mae hides from it: set config.model.name='vit'"
        )
    if crop % encoder.patch:
        raise ConfigError(
            f"config.data.crop={crop} must be a multiple of config.model.patch={encoder.patch}"
        )
    number = (crop // encoder.patch) ** 2
    shares = [("hidden", settings.hidden), *(("pictures", share) for share in settings.pictures)]
    for name, share in shares:
        if not 0 < share < 1 or not 0 < masking.number_kept(number, share) < number:
            raise ConfigError(
                f"config.task.{name}={share} of {number} patches: of both, hidden and visible "
                "patches, there must be at least one"
            )
    for name in ("decoder", "decoder_heads"):
        if settings[name] < 1:
            raise ConfigError(f"config.task.{name}={settings[name]} must be positive")
    if settings.decoder % 4 or settings.decoder % settings.decoder_heads:
        raise ConfigError(
            f"config.task.decoder={settings.decoder} must be a multiple of 4 and of "
            f"config.task.decoder_heads={settings.decoder_heads}"
        )
