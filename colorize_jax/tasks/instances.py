"""Instance discrimination: recognize every single photo (Wu, Xiong, Yu, Lin, CVPR 2018).

Every photo is its own class. In place of weights for each class, a memory bank holds the last
feature of each photo. The logits are the similarities of a new feature to the bank.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import losses
from colorize_jax.tasks.task import Evaluator, Facts, Score, Task, chosen_layer

SETTINGS = {
    # The layer whose mean over positions becomes the feature. "": the encoder's top.
    "layer": "",
    "dimensions": 128,  # The length of a feature.
    # "nce" (noise-contrastive estimation) compares each photo with some that are drawn, "softmax"
    # with all of them, which suits thousands of photos.
    "loss": "nce",
    "negatives": 4096,  # The number of photos that "nce" draws for each row, with replacement.
    "temperature": 0.07,  # Similarities are divided by it.
    "momentum": 0.5,  # The share of the old feature in a photo's row of the bank.
    # Brightness, contrast and saturation are multiplied by a factor within 1 ± this number, and the
    # hue is turned by up to this share of a turn. Otherwise colors alone would identify a photo.
    "jitter": 0.4,
    "gray": 0.2,  # The share of the training crops that become gray.
}
# At a lower temperature the sum of exp(similarity / temperature) over a large bank overflows.
_COLDEST = 0.02


def unit(x: jax.Array) -> jax.Array:
    """Normalizes vectors [..., dimensions] to unit length; zeros stay zeros."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def updated(
    bank: jax.Array, photo: jax.Array, features: jax.Array, valid: jax.Array, momentum: float
) -> jax.Array:
    """The bank after a batch: unit(momentum * old + (1 - momentum) * feature) for its photos.

    If a photo occurs twice in a batch, only its last place updates the bank. Otherwise a row would
    be written twice, and accelerators do that in no fixed order.

    Args:
        bank: unit vectors, [photos, dimensions].
        photo: rows of the bank, [batch].
        features: unit vectors, [batch, dimensions].
        valid: bool [batch]; invalid rows change nothing.
        momentum: the share of the old row.
    """
    batch = jnp.arange(len(photo))
    later = (photo[:, None] == photo) & (batch[:, None] < batch) & valid
    new = unit(momentum * bank[photo] + (1 - momentum) * features)
    # Such a row gets a place after the end of the bank, where the update is dropped.
    place = jnp.where(valid & ~later.any(1), photo, len(bank) + batch)
    return bank.at[place].set(new, mode="drop", unique_indices=True)


def estimated_z(logits: jax.Array, valid: jax.Array, photos: int) -> jax.Array:
    """Estimates the normalizer of the softmax over all photos from the drawn photos: a scalar.

    It is 0 if no row is valid.

    Args:
        logits: [batch, 1 + negatives], similarity / temperature; the photo's own row counts too.
        valid: bool [batch].
        photos: the number of photos in the bank.
    """
    means = jnp.exp(logits).mean(1)
    return photos * jnp.where(valid, means, 0).sum() / jnp.maximum(valid.sum(), 1)


def noise_contrastive(logits: jax.Array, z: jax.Array, photos: int) -> jax.Array:
    """The noise-contrastive loss that tells the photo's own row from K drawn rows: [batch] nats.

    It sums -log(P / (P + c)) for the own row and -log(c / (P + c)) for each drawn row, with
    P = exp(logit) / z and c = K / photos (section 3.2). The released code adds 1e-7 to both
    divisors; in logarithms that is not needed.

    Args:
        logits: [batch, 1 + K], similarity / temperature, the photo's own row first.
        z: see `estimated_z`; it is treated as a constant.
        photos: the number of photos in the bank.
    """
    noise = jnp.log((logits.shape[1] - 1) / photos)
    over = logits - jnp.log(jnp.maximum(z, np.finfo(np.float32).tiny)) - noise
    return jax.nn.softplus(-over[:, 0]) + jax.nn.softplus(over[:, 1:]).sum(1)


def jittered(key: jax.Array, rgb: jax.Array, strength: float, gray: float) -> jax.Array:
    """Changes the colors of a crop: gray by chance, then brightness, contrast, saturation, hue.

    The order is fixed; torchvision draws it too.

    Args:
        key: the JAX key of this crop.
        rgb: [height, width, 3] in [0, 1].
        strength, gray: `config.task.jitter` and `config.task.gray`.
    """
    gray_key, brightness, contrast, saturation, hue = jax.random.split(key, 5)

    def blended(key, rgb, other):
        factor = jax.random.uniform(key, minval=1 - strength, maxval=1 + strength)
        return jnp.clip(other + factor * (rgb - other), 0, 1)

    rgb = jnp.where(jax.random.bernoulli(gray_key, gray), spaces.gray(rgb)[..., None], rgb)
    rgb = blended(brightness, rgb, 0.0)
    rgb = blended(contrast, rgb, spaces.gray(rgb).mean())
    rgb = blended(saturation, rgb, spaces.gray(rgb)[..., None])
    turn = jax.random.uniform(hue, minval=-strength, maxval=strength)
    angle, chroma = spaces.hue_chroma(rgb)
    value = rgb.max(-1)
    return spaces.hsv_to_rgb(angle + turn, chroma / jnp.maximum(value, 1e-6), value)


def two_views(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two fixed views of photos, uint8 [batch, side, side, 3] -> float32 in [0, 1].

    The first is the photo. The second is its middle half, enlarged, mirrored and gray. With the
    published settings, training might draw both for the same photo.
    """
    rgb = spaces.from_uint8(images)
    side = images.shape[-2]
    margin = round(side * (1 - 0.5**0.5) / 2)
    middle = rgb[:, margin : side - margin, margin : side - margin][:, :, ::-1]
    gray = jnp.broadcast_to(spaces.gray(middle)[..., None], middle.shape)
    return rgb, jax.image.resize(gray, rgb.shape, "linear")


def told_apart(first: np.ndarray, second: np.ndarray, temperature: float) -> dict[str, float]:
    """Scores how well each photo is found by its other view among all of these photos.

    Args:
        first, second: features of the two views, [photos, dimensions].
        temperature: see `SETTINGS`.

    Returns:
        "loss": the cross-entropy of the own photo in a softmax over all, in nats; guessing gives
        ln(photos). "accuracy": the share of photos whose own second view is the most similar.
    """
    loss = hits = 0.0
    for start in range(0, len(first), 1024):  # Blocks bound the memory.
        logits = first[start : start + 1024] @ second.T / temperature
        own = logits[np.arange(len(logits)), start + np.arange(len(logits))]
        largest = logits.max(1)
        loss += (largest + np.log(np.exp(logits - largest[:, None]).sum(1)) - own).sum()
        # A tie counts as wrong: features that have all become equal identify nothing.
        hits += ((logits >= own[:, None]).sum(1) == 1).sum()
    return {"loss": float(loss / len(first)), "accuracy": float(hits / len(first))}


class InstanceNetwork(nn.Module):
    """Encoder -> mean over the positions of one layer -> linear -> unit vectors; and the bank.

    Its collection "memory" holds "bank" [photos, dimensions] and "z", the normalizer that "nce"
    estimates from the first batch, 0 before. Training updates them after their use.

    Attributes:
        encoder: see `models.encoder`.
        projector: mean -> feature of `dimensions`.
        layer: the name of the encoder's layer.
        photos: the number of photos in the bank.
        temperature, momentum: see `SETTINGS`.
    """

    encoder: nn.Module
    projector: nn.Module
    layer: str
    photos: int
    temperature: float
    momentum: float

    def setup(self):  # noqa: D102 (Linen's)
        shape = (self.photos, self.projector.features)

        def random_units():
            return unit(jax.random.normal(self.make_rng("params"), shape))

        self.bank = self.variable("memory", "bank", random_units)
        self.z = self.variable("memory", "z", jnp.zeros, ())

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Network input [batch, height, width, channels] -> unit vectors [batch, dimensions]."""
        means = self.encoder(images, train)[self.layer].astype(jnp.float32).mean((1, 2))
        return unit(self.projector(means))

    def __call__(
        self,
        images: jax.Array,
        photo: jax.Array,
        valid: jax.Array,
        rows: jax.Array | None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """{"logits", "z"}: similarities to rows of the bank, divided by the temperature.

        Args:
            images: network input [batch, height, width, channels].
            photo: the numbers of the photos, [batch].
            valid: whether a row counts, [batch].
            rows: the rows of the bank to compare each photo with, [batch, n]; None: all, in order.
            train: whether to use batch statistics and dropout and to update the bank.
        """
        features, bank = self.features(images, train), self.bank.value
        if rows is None:
            similar = jnp.einsum("bd,nd->bn", features, bank, precision="highest")
        else:
            similar = jnp.einsum("bd,bnd->bn", features, bank[rows], precision="highest")
        logits, z = similar / self.temperature, self.z.value
        if train:
            seen = jax.lax.stop_gradient((photo, features, valid, logits))
            if (axis := self.encoder.axis_name) is not None:
                seen = jax.lax.all_gather(seen, axis, tiled=True)
            photo, features, valid, all_logits = seen
            if rows is not None:
                z = jnp.where(z > 0, z, estimated_z(all_logits, valid, self.photos))
                self.z.value = z
            self.bank.value = updated(bank, photo, features, valid, self.momentum)
        return {"logits": logits, "z": z}


def make_task(config, encoder, facts: Facts) -> Task:
    """Compares each training photo with the bank, by the loss `config.task.loss`.

    A microbatch reads the bank as the previous ones have updated it. That is harmless: rows differ
    by one update, and the bank's features are old by an epoch on average anyway.
    """
    settings, photos = config.task, facts.photos
    _check(config)
    drawn = settings.loss == "nce"
    layer = chosen_layer(config, encoder)
    model = InstanceNetwork(
        encoder, nn.Dense(settings.dimensions), layer, photos, settings.temperature,
        settings.momentum,
    )  # fmt: skip

    def views_and_draws(key, image):
        color_key, draw_key = jax.random.split(key)
        image = jittered(color_key, spaces.from_uint8(image), settings.jitter, settings.gray)
        return image, jax.random.randint(draw_key, (settings.negatives,), 0, photos)

    def prepare(keys, batch):
        photo, valid = batch["photo"], batch["valid"]
        images, draws = jax.vmap(views_and_draws)(keys, batch["image"])
        rows = jnp.concatenate([photo[:, None], draws], 1) if drawn else None
        inputs = (encoder.network_input(images), photo, valid, rows)
        return inputs, {"photo": photo, "valid": valid}

    def loss(outputs, targets):
        if drawn:
            values = noise_contrastive(outputs["logits"], outputs["z"], photos)
        else:
            values, _ = losses.cross_entropy(outputs["logits"], targets["photo"], void=-1)
        valid = targets["valid"]
        return {"loss": jnp.where(valid, values, 0)}, valid.astype(jnp.float32)

    # Held-out photos have no row in the bank, so they are compared with each other.
    def on_batch(variables, statistics, keys, batch):
        del statistics, keys
        first, second = (
            model.apply(variables, encoder.network_input(view), method="features")
            for view in two_views(batch["image"])
        )
        return {}, {"first": first, "second": second, "score": (first * second).sum(1)}

    def summarize(sums, rows):
        del sums
        return told_apart(rows["first"], rows["second"], settings.temperature)

    def pictures(variables, batch):
        del variables
        return jnp.round(255 * jnp.stack(two_views(batch["image"]), 1)).astype(jnp.uint8)

    evaluator = Evaluator(on_batch, summarize, pictures=pictures, panels=("photo", "other view"))
    score = Score("accuracy", higher=True)
    return Task(
        model, prepare, loss, evaluators={"": evaluator}, score=score, split=("memory/bank",)
    )


def _check(config) -> None:
    settings = config.task
    if settings.loss not in ("nce", "softmax"):
        raise ConfigError(
            f"config.task.loss is {settings.loss!r}; instances has 'nce' and 'softmax'"
        )
    for name, low, high in (
        ("dimensions", 1, 2**16),
        ("negatives", 1, 2**20),
        ("temperature", _COLDEST, 1e3),
        ("momentum", 0, 1),
        ("jitter", 0, 1),
        ("gray", 0, 1),
    ):
        if not low <= settings[name] <= high:
            raise ConfigError(
                f"config.task.{name}={settings[name]} must be from {low:g} to {high:g}"
            )
