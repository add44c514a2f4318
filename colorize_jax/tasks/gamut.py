"""Colorization by classes: which of 313 bins of Lab's a and b a pixel's color lies in.

After Zhang, Isola and Efros, "Colorful Image Colorization" (ECCV 2016), with its loss that lets
rare colors count more; the network is that of `colorization`, and answers at sampled pixels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.color import gamut, histograms, instantiate, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import hypercolumn
from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.tasks import colorization, points
from colorize_jax.tasks.task import Colors, Facts, Fit, Task

SETTINGS = points.SETTINGS | {
    "neighbors": 5,  # bins that a pixel's color is spread over; 10 in the paper's released code
    # Share of the uniform distribution in that of the bins before it is inverted to weights; with 1
    # all pixels count the same.
    "uniform": 0.5,
    "temperature": 0.38,  # of the colors in pictures; 1: dull, 0: the most likely bin
    "prior_batches": 500,  # training batches that the distribution of the bins is taken from
}


def prior_variable(head: nn.Module) -> nn.Variable:
    """How often each bin occurs, "prior" [313] of the collection "constants": uniform until it is
    fitted."""
    return head.variable("constants", "prior", jnp.full, (gamut.BINS,), 1 / gamut.BINS)


class BinsHead(Head):
    """A head that knows how often each bin occurs, beside its own outputs.

    Its collection "constants" has the "prior", [313]: uniform until it is fitted.
    """

    def setup(self):  # noqa: D102 (Linen's)
        super().setup()
        self.prior = prior_variable(self)

    def read_out(self, hidden: jax.Array) -> dict[str, jax.Array]:
        """[..., hidden] -> {"bins": logits [..., 313], "prior": [313]}."""
        return super().read_out(hidden) | {"prior": self.prior.value}


def bin_targets(ab: jax.Array, *, neighbors: int) -> dict[str, jax.Array]:
    """Targets of photos whose sampled pixels have these a and b, [..., points, 2].

    Returns:
        "bins": [..., points, 313] distributions; "has_color": [...], whether the photo counts.
    """
    return {"bins": gamut.encode(ab, neighbors), "has_color": gamut.has_color(ab)}


def bin_losses(outputs: dict, targets: dict, *, uniform: float) -> dict[str, jax.Array]:
    """Losses per point, [..., points], in nats.

    Returns:
        "loss": cross-entropy times the weight of the target's largest bin;
        "loss_unweighted": cross-entropy. Both are 0 in photos without color.
    """
    log_p = jax.nn.log_softmax(outputs["bins"].astype(jnp.float32))
    counts = targets["has_color"][..., None].astype(jnp.float32)
    cross_entropy = -(targets["bins"] * log_p).sum(-1) * counts
    weights = gamut.class_weights(outputs["prior"], uniform)[targets["bins"].argmax(-1)]
    return {"loss": weights * cross_entropy, "loss_unweighted": cross_entropy}


def counted_bins(targets: dict[str, jax.Array]) -> jax.Array:
    """The distributions [batch, points, 313] of pixels that count, and zeros of the others.

    Args:
        targets: of `bin_targets`, with "valid" [batch].
    """
    counted = targets["valid"] & targets["has_color"]
    return jnp.where(counted[:, None, None], targets["bins"], 0)


def prior_of(sums: jax.Array) -> jax.Array:
    """Distributions summed over pixels, [313], as one distribution.

    It is uniform if no photo has color: then no pixel counts, whatever it is.
    """
    total = sums.sum()
    return jnp.where(total > 0, sums / jnp.where(total > 0, total, 1), 1 / gamut.BINS)


def bin_statistics(targets: dict[str, jax.Array]) -> jax.Array:
    """[313, 313]: the summed distributions of the pixels whose largest bin is the row's."""
    found = counted_bins(targets)
    largest = found.argmax(-1)[..., None] == jnp.arange(gamut.BINS)
    return jnp.einsum("bpi,bpj->ij", largest.astype(found.dtype), found, precision="highest")


def best_constant(sums: jax.Array, prior: jax.Array, uniform: float) -> dict[str, jax.Array]:
    """The outputs, the same everywhere, with the lowest loss on pixels of these statistics."""
    weighted = gamut.class_weights(prior, uniform) @ sums
    # One pixel's worth of the uniform distribution keeps bins that never occurred finite.
    return {"bins": jnp.log(weighted + 1 / gamut.BINS), "prior": prior}


def make_task(config, encoder, facts: Facts) -> Task:
    """Classification of colors, each weighted by how rare it is in the training photos."""
    del facts
    _check(config)
    settings = config.task
    head = BinsHead({"bins": gamut.BINS}, hidden=config.model.hidden, dtype=encoder.dtype)
    model = PointNetwork(
        encoder, head, hypercolumn=config.model.hypercolumn, alignment=config.model.alignment
    )
    points.check(config, model)

    def targets_of(keys, batch):
        at = points.of_rows(keys, config)
        rgb = jax.vmap(histograms.at_points)(spaces.from_uint8(batch["image"]), at)
        targets = bin_targets(spaces.lab(rgb)[..., 1:], neighbors=settings.neighbors)
        return at, targets | {"valid": batch["valid"]}

    def prepare(keys, batch):
        at, targets = targets_of(keys, batch)
        return (encoder.network_input(batch["image"]), at), targets

    def loss(outputs, targets):
        valid = targets["valid"].astype(jnp.float32)
        values = bin_losses(outputs, targets, uniform=settings.uniform)
        return {k: v.sum(1) * valid for k, v in values.items()}, valid * settings.points

    def sums(keys, batch):
        return counted_bins(targets_of(keys, batch)[1]).sum((0, 1))

    def constants(sums):
        return {"head": {"prior": prior_of(sums)}}

    def statistics(keys, batch):
        return bin_statistics(targets_of(keys, batch)[1])

    def constant_outputs(variables, sums):
        return best_constant(sums, variables["constants"]["head"]["prior"], settings.uniform)

    def colors(variables, image):
        logits = model.apply(variables, encoder.network_input(image), method="dense")["bins"]
        # As in the paper, colors are enlarged: distributions would take 1.3 kB for every pixel.
        ab = gamut.annealed_mean(logits, settings.temperature)
        ab = hypercolumn.from_grid(ab, *image.shape[1:3], config.model.alignment)
        return instantiate.ab_to_rgb(ab, spaces.gray(spaces.from_uint8(image)))

    def predict(variables, image):
        outputs = model.apply(variables, encoder.network_input(image), method="dense")
        return {"bins": jax.nn.softmax(outputs["bins"])}

    def plane(predicted, height, width, decoding, temperature, keys=None):
        ab = gamut.plane(predicted["bins"], decoding, temperature, keys)
        return hypercolumn.from_grid(ab, height, width, config.model.alignment)

    evaluator = colorization.colors_evaluator(
        model, prepare, loss, colors, statistics, constant_outputs
    )
    return Task(
        model=model,
        prepare=prepare,
        loss=loss,
        evaluators={"": evaluator},
        fit=Fit(sums, constants, settings.prior_batches),
        colors=Colors(
            spaces.gray,
            predict,
            plane,
            instantiate.join_ab,
            decodings=gamut.DECODINGS,
            temperature=settings.temperature,
            stride=max(encoder.strides.values()),
        ),
    )


def _check(config):
    colorization.check_gray(config)
    check_settings(config.task)


def check_settings(task) -> None:
    """ConfigError, by name, for a setting of `config.task` that bins of color cannot have."""
    if not 1 <= task.neighbors <= gamut.BINS:
        raise ConfigError(
            f"config.task.neighbors={task.neighbors} must be between 1 and {gamut.BINS}, the "
            "number of bins"
        )
    if not 0 < task.uniform <= 1:
        raise ConfigError(
            f"config.task.uniform={task.uniform} must be above 0, or a color that never occurred "
            "would have an infinite weight, and at most 1"
        )
    if not task.temperature >= 0:
        raise ConfigError(f"config.task.temperature={task.temperature} must not be negative")
    if task.prior_batches < 1:
        raise ConfigError("config.task.prior_batches must be positive")
