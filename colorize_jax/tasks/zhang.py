"""Colorization by classes at every place of a grid, as Zhang, Isola and Efros (ECCV 2016) do it.

Their head stands on any encoder, on `config.model.name=zhang` it is their network: which of 313
bins of Lab's a and b the color is, every fourth pixel, from the lightness L.
"""

import jax
import jax.numpy as jnp

from colorize_jax.color import gamut, instantiate, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import hypercolumn
from colorize_jax.models.dense_network import DenseHead, DenseNetwork
from colorize_jax.tasks import colorization, losses, points
from colorize_jax.tasks import gamut as bins
from colorize_jax.tasks.task import Colors, Facts, Fit, Task

SETTINGS = {
    "loss": "bins",  # "bins" of a and b, or "regression" of a and b: their L2 variant.
    # The number of bins that a pixel's color is spread over. 10 in the paper's released code.
    "neighbors": 5,
    # The share of the uniform distribution in that of the bins before it is inverted to weights.
    # With 1 all pixels count the same.
    "uniform": 0.5,
    # The standard deviation, in units of a and b, of the Gaussian that smooths the distribution of
    # the bins. 0 leaves it as it is.
    "smoothing": gamut.SIGMA,
    "temperature": 0.38,  # Of the predicted colors. 1 is dull, 0 takes the most likely bin.
    # The number of training batches that the distribution of the bins is taken from.
    "prior_batches": 500,
}
AB_SCALE = 110.0  # a and b are regressed in units of this, as in the released PyTorch networks
STRIP = (1.0, 0.58, 0.2, 0.0)  # temperatures of the further panels in pictures
_ALIGNMENT = "corner"  # an answer is that of the upper left pixel of its cell, as it was trained


class DenseBinsHead(DenseHead):
    """A head that knows how often each bin occurs, beside its own outputs.

    Its collection "constants" has the "prior", [313]: uniform until it is fitted.
    """

    def setup(self):  # noqa: D102 (Linen's)
        super().setup()
        self.prior = bins.prior_variable(self)

    def __call__(self, top: jax.Array) -> dict[str, jax.Array]:
        """[batch, h, w, channels] -> {"bins": logits [batch, 2 h, 2 w, 313], "prior": [313]}."""
        return super().__call__(top) | {"prior": self.prior.value}


def make_model(config, encoder) -> DenseNetwork:
    """The network of the recipe."""
    head, outputs = DenseBinsHead, {"bins": gamut.BINS}
    if config.task.loss == "regression":
        head, outputs = DenseHead, {"ab": 2}
    return DenseNetwork(encoder, head(outputs, config.model.width, encoder.dtype))


def make_task(config, encoder, facts: Facts) -> Task:
    """Colors on a grid, by bins of which rare ones weigh more, or by regression."""
    del facts
    _check(config, encoder)
    settings = config.task
    model = make_model(config, encoder)
    regression = settings.loss == "regression"

    def targets_of(batch):
        # Pixels as they are: the mean of several would have less color.
        seen = batch["image"][:, :: model.grid, :: model.grid]
        ab = _flat(spaces.lab(spaces.from_uint8(seen))[..., 1:])
        if regression:
            targets = {"ab": ab / AB_SCALE, "has_color": gamut.has_color(ab)}
        else:
            targets = bins.bin_targets(ab, neighbors=settings.neighbors)
        return targets | {"valid": batch["valid"]}

    def prepare(keys, batch):
        del keys
        return (encoder.network_input(batch["image"]),), targets_of(batch)

    def loss(outputs, targets):
        outputs = {name: _flat(values) for name, values in outputs.items()}
        if regression:
            counts = targets["has_color"][:, None].astype(jnp.float32)
            values = {"loss": counts * losses.regression_loss(outputs["ab"], targets["ab"])}
        else:
            values = bins.bin_losses(outputs, targets, uniform=settings.uniform)
        valid = targets["valid"].astype(jnp.float32)
        cells = (config.data.crop // model.grid) ** 2
        return {name: v.sum(1) * valid for name, v in values.items()}, valid * cells

    def sums(keys, batch):
        del keys
        return bins.counted_bins(targets_of(batch)).sum((0, 1))

    def constants(sums):
        prior = bins.prior_of(sums)
        if settings.smoothing:
            prior = gamut.smooth(prior, settings.smoothing)
        return {"head": {"prior": prior}}

    def statistics(keys, batch):
        del keys
        targets = targets_of(batch)
        if not regression:
            return bins.bin_statistics(targets)
        counts = (targets["valid"] & targets["has_color"])[:, None].astype(jnp.float32)
        pixels = counts * jnp.ones(targets["ab"].shape[:2])
        return {"ab": (pixels[..., None] * targets["ab"]).sum((0, 1)), "pixels": pixels.sum()}

    def constant_outputs(variables, sums):
        if regression:
            return {"ab": sums["ab"] / jnp.maximum(sums["pixels"], 1)}
        prior = variables["constants"]["head"]["prior"]
        return bins.best_constant(sums, prior, settings.uniform)

    def outputs_of(variables, image):
        return model.apply(variables, encoder.network_input(image), method="dense")

    def enlarged(ab, image_shape):
        # As in the paper, colors are enlarged: distributions would take 1.3 kB for every pixel.
        return hypercolumn.from_grid(ab, *image_shape, _ALIGNMENT)

    def colors_at(temperature):
        def colors(variables, image):
            outputs = outputs_of(variables, image)
            if regression:
                ab = outputs["ab"] * AB_SCALE
            else:
                ab = gamut.annealed_mean(outputs["bins"], temperature)
            return _with_lightness_of(spaces.from_uint8(image), enlarged(ab, image.shape[1:3]))

        return colors

    def predict(variables, image):
        outputs = outputs_of(variables, image)
        return outputs if regression else {"bins": jax.nn.softmax(outputs["bins"])}

    def plane(predicted, height, width, decoding, temperature, keys=None):
        if regression:
            ab = predicted["ab"] * AB_SCALE
        else:
            ab = gamut.plane(predicted["bins"], decoding, temperature, keys)
        return enlarged(ab, (height, width))

    strip = {} if regression else {f"T = {value:g}": colors_at(value) for value in STRIP}
    evaluator = colorization.colors_evaluator(
        model,
        prepare,
        loss,
        colors_at(settings.temperature),
        statistics,
        constant_outputs,
        without_color=lambda rgb: _with_lightness_of(rgb, jnp.zeros((*rgb.shape[:-1], 2))),
        more=strip,
    )
    return Task(
        model=model,
        prepare=prepare,
        loss=loss,
        evaluators={"": evaluator},
        fit=None if regression else Fit(sums, constants, settings.prior_batches),
        colors=Colors(
            spaces.lightness_gray,
            predict,
            plane,
            instantiate.join_ab_at_lightness,
            decodings=("mean",) if regression else gamut.DECODINGS,
            temperature=settings.temperature,
            stride=max(encoder.strides.values()),
            distributions=not regression,
        ),
    )


def _flat(values: jax.Array) -> jax.Array:
    """[batch, h, w, ...] -> [batch, h w, ...]; what is no map stays as it is."""
    if values.ndim < 4:
        return values
    return values.reshape(len(values), -1, *values.shape[3:])


def _with_lightness_of(rgb: jax.Array, ab: jax.Array) -> jax.Array:
    """The lightness of a photo joined with other a and b: RGB [..., 3] in [0, 1], clipped."""
    return spaces.lab_to_rgb(jnp.concatenate([spaces.lab(rgb)[..., :1], ab], -1))


def _check(config, encoder):
    task = config.task
    colorization.check_gray(config)
    points.check_dense(config, encoder)
    if task.loss not in ("bins", "regression"):
        raise ConfigError(f"config.task.loss is {task.loss!r}; known: 'bins', 'regression'")
    bins.check_settings(task)
    if not task.smoothing >= 0:
        raise ConfigError(f"config.task.smoothing={task.smoothing} must not be negative")
    if encoder.strides[encoder.top] < 2:
        raise ConfigError(
            f"the top of config.model.name={config.model.name!r} has a stride of 1: the head of "
            "zhang would answer between the pixels"
        )
