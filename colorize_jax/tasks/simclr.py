"""SimCLR: find the other view of the same photo among all views of a batch.

After Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations" (ICML 2020), and its released code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.augment import crops, photometric
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import norm
from colorize_jax.tasks import instances
from colorize_jax.tasks.task import Evaluator, Facts, Score, Task, chosen_layer

SETTINGS = {
    # The layer whose mean over positions the projector reads. "": the encoder's top.
    "layer": "",
    "projector_layers": 2,  # The number of linear layers of the projector.
    # The number of units of its hidden layers. 0: as many as it reads.
    "projector_hidden": 0,
    "dimensions": 128,  # The number of outputs of the projector.
    "temperature": 0.1,  # Similarities are divided by it.
    # How strongly colors are changed. At 1, brightness, contrast and saturation are multiplied by a
    # factor within 1 ± 0.8, and the hue is turned by up to a fifth of a turn.
    "jitter": 1.0,
    "jittered": 0.8,  # The share of the views whose colors are changed.
    "gray": 0.2,  # The share of the views that become gray.
    # The share of the views that are blurred, by a filter as wide as a tenth of the crop.
    "blur": 0.5,
}
_SIGMA = (0.1, 2.0)  # The standard deviation of the filter in pixels.
# In the place of the similarity to a view that does not count; it leaves nothing in float32.
_NEVER = -1e9
_PICTURES = 4  # The number of views of a photo in pictures.


def nt_xent(
    own: jax.Array,
    everyone: jax.Array,
    valid: jax.Array,
    first: int | jax.Array,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """The normalized temperature-scaled cross-entropy loss, for both views of each photo.

    Each view must find the other view of its photo among all views of all photos but itself
    (equation 1 of the paper). The released code reports the sum of the means over first and over
    second views, which is twice the mean of these values.

    Args:
        own: unit vectors of some photos, [n, 2, dimensions].
        everyone: those of all photos of the batch, [batch, 2, dimensions].
        valid: bool [batch]; nothing is compared with photos that are not valid.
        first: the row of `everyone` that is own[0]; the others follow it.
        temperature: similarities are divided by it.

    Returns:
        The loss in nats, [n, 2]; and whether the other view is the most similar of all, bool
        [n, 2].
    """
    photo = jnp.arange(len(everyone)).repeat(2)
    flat = everyone.reshape(-1, everyone.shape[-1])
    logits = jnp.einsum("nvd,md->nvm", own, flat, precision="highest") / temperature
    # A photo's own two views are the answer and the view that asks: neither is a negative.
    other = photo != (first + jnp.arange(len(own)))[:, None]
    negatives = jnp.where((other & valid.repeat(2))[:, None], logits, _NEVER)
    answer = ((own[:, 0] * own[:, 1]).sum(-1) / temperature)[:, None]
    loss = jax.nn.softplus(jax.nn.logsumexp(negatives, -1) - answer)
    return loss, answer > negatives.max(-1)


class Projector(nn.Module):
    """Linear layers, each with batch norm, and ReLU between them.

    As in the released code, the hidden layers have a learned scale and bias, and the last one has
    a scale only. Without batch norm, linear layers have biases instead.

    Attributes:
        layers: the number of linear layers.
        hidden: the number of hidden units; 0: as many as it reads.
        dimensions: the number of outputs.
        batch_norm: whether there is batch norm.
        norm_decay: see `norm.BatchNorm`.
        axis_name: see `norm.BatchNorm`.
        dtype: the type of the computation.
    """

    layers: int
    hidden: int
    dimensions: int
    batch_norm: bool = True
    norm_decay: float = norm.DECAY
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[rows, channels] -> [rows, dimensions] in float32."""
        hidden = self.hidden or x.shape[-1]
        for i in range(1, self.layers + 1):
            last = i == self.layers
            width = self.dimensions if last else hidden
            name = f"linear{i}"
            x = nn.Dense(width, use_bias=not self.batch_norm, dtype=self.dtype, name=name)(x)
            if self.batch_norm:
                affine = norm.Scale(learned_bias=not last, name=f"scale_{name}")(width)
                batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"batch_{name}")
                x = batch_norm(x, train, affine)
            if not last:
                x = nn.relu(x)
        return x.astype(jnp.float32)


class ContrastiveNetwork(nn.Module):
    """Encoder -> mean over the positions of one layer -> projector -> unit vectors.

    Attributes:
        encoder: see `models.encoder`.
        projector: mean -> embedding.
        layer: the name of the encoder's layer.
    """

    encoder: nn.Module
    projector: Projector
    layer: str

    def embeddings(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Network input [rows, height, width, channels] -> unit vectors [rows, dimensions]."""
        means = self.encoder(images, train)[self.layer].astype(jnp.float32).mean((1, 2))
        return instances.unit(self.projector(means, train))

    def __call__(
        self, views: jax.Array, valid: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """The embeddings of all views, and what they are compared with; see `nt_xent`.

        Both views go through the network together: batch norm with other statistics for each would
        tell them apart.

        Args:
            views: network input, [batch, 2, height, width, channels].
            valid: whether a photo counts, [batch].
            train: whether to use batch statistics and dropout.

        Returns:
            {"own", "everyone", "valid", "first"}. If the batch is split over a mapped axis,
            "own" are the photos of this device, and "everyone" and "valid" are of all devices.
        """
        flat = self.embeddings(views.reshape(-1, *views.shape[2:]), train)
        own = everyone = flat.reshape(*views.shape[:2], -1)
        first = jnp.zeros((), jnp.int32)
        if (axis := self.encoder.axis_name) is not None:
            first = jax.lax.axis_index(axis) * len(own)
            everyone, valid = jax.lax.all_gather((own, valid), axis, tiled=True)
        return {"own": own, "everyone": everyone, "valid": valid, "first": first}


def make_task(config, encoder, facts: Facts) -> Task:
    """The loss `nt_xent` of two views of each photo, over the whole batch of all devices."""
    del facts
    settings, data = config.task, config.data
    _check(config)
    projector = Projector(
        settings.projector_layers, settings.projector_hidden, settings.dimensions,
        encoder.norm == "batch", encoder.norm_decay, encoder.axis_name, encoder.dtype,
    )  # fmt: skip
    model = ContrastiveNetwork(encoder, projector, chosen_layer(config, encoder))

    def recolored(key, rgb):
        return augmented(key, rgb, settings.jitter, settings.jittered, settings.gray, settings.blur)

    def prepare(keys, batch):
        rgb = spaces.from_uint8(batch["image"])
        views = jax.vmap(jax.vmap(recolored))(_split(keys, 2), rgb)
        valid = batch["valid"]
        return (_input(encoder, views), valid), {"valid": valid}

    def loss(outputs, targets):
        values, found = nt_xent(**outputs, temperature=settings.temperature)
        valid = targets["valid"]
        parts = {"loss": values, "accuracy": found.astype(jnp.float32)}
        return (
            {name: jnp.where(valid, part.mean(1), 0) for name, part in parts.items()},
            valid.astype(jnp.float32),
        )

    def drawn(keys, batch, count):
        """`count` random views of held-out photos, [batch, count, side, side, 3]."""

        def view(key, rgb):
            crop_key, color_key = jax.random.split(key)
            part = crops.resized_crop(
                crop_key, rgb, tuple(data.area), tuple(data.ratio), data.mirror
            )
            return recolored(color_key, part)

        rgb = spaces.from_uint8(batch["image"])
        return jax.vmap(jax.vmap(view, (0, None)))(_split(keys, count), rgb)

    def on_batch(variables, statistics, keys, batch):
        del statistics
        views = _input(encoder, drawn(keys, batch, 2))
        both = model.apply(variables, views, batch["valid"])["own"]
        return {}, {"first": both[:, 0], "second": both[:, 1], "score": both.prod(1).sum(1)}

    def summarize(sums, rows):
        del sums
        return instances.told_apart(rows["first"], rows["second"], settings.temperature)

    def pictures(variables, batch):
        del variables
        views = drawn(jax.vmap(jax.random.key)(batch["photo"]), batch, _PICTURES)
        views = jnp.round(255 * views).astype(jnp.uint8)
        return jnp.concatenate([batch["image"][:, None], views], 1)

    panels = ("photo", *(f"view {i + 1}" for i in range(_PICTURES)))
    return Task(
        model=model,
        prepare=prepare,
        loss=loss,
        evaluators={"": Evaluator(on_batch, summarize, pictures=pictures, panels=panels)},
        score=Score("accuracy", higher=True),
        views=2,
        microbatches=False,
    )


def augmented(
    key: jax.Array, rgb: jax.Array, jitter: float, jittered: float, gray: float, blur: float
) -> jax.Array:
    """Changes the colors of a crop by chance, then makes it gray by chance, then blurs it.

    Args:
        key: the JAX key of this view.
        rgb: [side, side, 3] in [0, 1].
        jitter, jittered, gray, blur: see `SETTINGS`.

    Returns:
        The same shape, in [0, 1].
    """
    apply_key, jitter_key, gray_key, blur_key, sigma_key = jax.random.split(key, 5)
    changed = photometric.color_jitter(jitter_key, rgb, jitter)
    rgb = jnp.where(jax.random.bernoulli(apply_key, jittered), changed, rgb)
    rgb = photometric.gray_by_chance(gray_key, rgb, gray)
    if blur and (radius := len(rgb) // 10 // 2):
        sigma = jax.random.uniform(sigma_key, minval=_SIGMA[0], maxval=_SIGMA[1])
        soft = photometric.blurred(rgb, sigma, radius)
        rgb = jnp.where(jax.random.bernoulli(blur_key, blur), soft, rgb)
    return jnp.clip(rgb, 0, 1)


def _split(keys: jax.Array, count: int) -> jax.Array:
    """Keys [batch] -> [batch, count], independent of each other."""
    return jax.vmap(lambda key: jax.random.split(key, count))(keys)


def _input(encoder, views: jax.Array) -> jax.Array:
    """RGB [batch, views, side, side, 3] -> network input of the same layout."""
    flat = encoder.network_input(views.reshape(-1, *views.shape[2:]))
    return flat.reshape(*views.shape[:2], *flat.shape[1:])


def _check(config) -> None:
    for name, low, high in (
        ("projector_layers", 1, 8),
        ("projector_hidden", 0, 2**16),
        ("dimensions", 1, 2**16),
        ("temperature", 0.01, 1e3),
        ("jitter", 0, 1.25),  # Beyond it a factor could be negative.
        ("jittered", 0, 1),
        ("gray", 0, 1),
        ("blur", 0, 1),
    ):
        if not low <= config.task[name] <= high:
            raise ConfigError(
                f"config.task.{name}={config.task[name]} must be from {low:g} to {high:g}"
            )
    if config.data.batch_size < 2:
        raise ConfigError(
            "simclr compares each photo with the others of the batch: config.data.batch_size="
            f"{config.data.batch_size} must be at least 2"
        )
