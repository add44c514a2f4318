"""Colorization: predict the colors of a photo from its gray, at sampled pixels."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.color import histograms, instantiate, quality, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import hypercolumn
from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.tasks import losses, points
from colorize_jax.tasks.task import Batch, Caption, Colors, Evaluator, Facts, Task

Tree = Any

SETTINGS = points.SETTINGS | {
    "loss": "histogram",  # "histogram" of hue and chroma, or "regression" of Lab's a and b.
    "window": 7,  # The side in pixels of the window of a target histogram.
    "bins": 32,  # The number of bins of a histogram.
    # Lets the regression loss pull as hard as the histogram loss at the start. Measured with
    #   python -m colorize_jax.bench.regression_scale --config=configs/vgg16_col.py:regression \
    #     --config.model.width=0.0625 --config.model.fc6_kernel=3 \
    #     --config.data.source=builtin:photos
    # 4.55; it hardly depends on the network or the photos (4.2 to 4.8 on three other sets).
    "regression_scale": 4.5,
}
AB_SCALE = 100.0  # a and b are predicted in hundreds, so that outputs are of order one
# A run is told of it if a smaller share of the hidden units responds to any photo.
FEW_UNITS = 0.1
# Of the predicted colors, each beside that of the same photo left gray.
_COLOR_SCORES = ("psnr", "psnr_gray", "auc", "auc_gray")


def histogram_targets(rgb: jax.Array, points: jax.Array, *, window: int, bins: int) -> dict:
    """Targets of one photo [height, width, 3] at points [points, 2].

    Returns:
        "hue" and "chroma": [points, bins] histograms of the windows around the points;
        "hue_weight" [points]: chroma of the center pixel; "chroma_weight" [points]: from its gray.
    """
    hue, chroma = spaces.hue_chroma(rgb)
    gray = histograms.at_points(spaces.gray(rgb), points)

    def window_histogram(values):
        index = histograms.bin_index(values, bins)
        return histograms.window_histogram(index, points, window=window, bins=bins)

    return {
        "hue": window_histogram(hue),
        "chroma": window_histogram(chroma),
        "hue_weight": histograms.at_points(chroma, points),
        "chroma_weight": histograms.chroma_weight(gray),
    }


def regression_targets(rgb: jax.Array, points: jax.Array) -> dict:
    """Lab's a and b in hundreds, of a photo [height, width, 3] at points: {"ab": [points, 2]}."""
    return {"ab": spaces.lab(histograms.at_points(rgb, points))[..., 1:] / AB_SCALE}


def histogram_losses(outputs: dict, targets: dict) -> dict[str, jax.Array]:
    """Losses per point, [...]: "loss" = 5 "loss_hue" + "loss_chroma".

    The hue counts as much as the center pixel has color, the chroma as much as one can see of it.
    """
    hue = losses.weighted_kl(outputs["hue"], targets["hue"], targets["hue_weight"])
    chroma = losses.weighted_kl(outputs["chroma"], targets["chroma"], targets["chroma_weight"])
    return {"loss": losses.HUE_WEIGHT * hue + chroma, "loss_hue": hue, "loss_chroma": chroma}


def regression_losses(outputs: dict, targets: dict, *, scale: float) -> dict[str, jax.Array]:
    """{"loss"}: [...] per point, `scale` times half the squared distance in (a, b) / 100."""
    return {"loss": scale * losses.regression_loss(outputs["ab"], targets["ab"])}


def left_gray(rgb: jax.Array) -> jax.Array:
    """The photo without its colors: RGB [..., 3] in [0, 1] -> the same shape."""
    return jnp.broadcast_to(spaces.gray(rgb)[..., None], rgb.shape)


def caption(row: dict) -> Caption:
    """How close a photo's colors come, beside the same photo left gray."""
    return Caption(
        f"PSNR {row['psnr']:.1f} dB (gray {row['psnr_gray']:.1f}), "
        f"AuC {row['auc']:.3f} (gray {row['auc_gray']:.3f})"
    )


def remark(scores: dict[str, float]) -> str:
    """What to tell a person of these scores: dead hidden units, or colors that look worse than
    none although the loss is good; "" if there is nothing to tell."""
    return _dead_units(scores.get("active_units", 1.0)) or _worse_than_gray(scores)


def _worse_than_gray(scores: dict[str, float]) -> str:
    if scores["loss"] >= scores["loss_constant"]:
        return ""
    worse = [
        f"{label} {scores[name]:.4g} (left gray {scores[name + '_gray']:.4g})"
        for name, label in (("psnr", "PSNR"), ("auc", "AuC"))
        if scores[name] < scores[f"{name}_gray"]
    ]
    if not worse:
        return ""
    return (
        f"by {' and '.join(worse)} the colors are further from the truth than the photos left "
        "gray, although the loss is below that of a constant: a wrong color costs these scores "
        "more than none, and the loss asks for the whole distribution of colors"
    )


def _dead_units(share: float) -> str:
    """What to say of a head most of whose hidden units have died; "" of any other.

    All weights into a unit start near zero and see activations that are never negative, so that a
    few large steps in one direction can leave it below zero for good, whatever the photo.
    """
    if share >= FEW_UNITS:
        return ""
    answer = "the answer is the same for every photo" if not share else "the others have died"
    return (
        f"{share:.0%} of the head's hidden units respond to any held-out photo: {answer}, and "
        "training on does not bring them back. Start again with a smaller config.optimizer.rate"
    )


def colors_evaluator(
    model: nn.Module,
    prepare: Callable,
    loss: Callable,
    colors: Callable[[Tree, jax.Array], jax.Array],
    statistics: Callable[[jax.Array, Batch], Tree],
    constant_outputs: Callable[[Tree, Tree], dict[str, jax.Array]],
    *,
    without_color: Callable[[jax.Array], jax.Array] = left_gray,
    more: Mapping[str, Callable[[Tree, jax.Array], jax.Array]] | None = None,
    constants: tuple[str, ...] = ("loss",),
) -> Evaluator:
    """How a task that predicts colors is scored: its losses, beside that of a constant prediction,
    and the colors, beside those of the photos left gray; with pictures.

    Args:
        model, prepare, loss: of the `Task`; the loss divides by points.
        colors: (variables, uint8 photos [batch, height, width, 3]) -> predicted RGB in [0, 1] of
            the same shape.
        statistics: see `Evaluator`.
        constant_outputs: (variables, sums of the statistics) -> outputs, the same everywhere, with
            the lowest loss on the training photos.
        without_color: RGB in [0, 1] -> what is left of a photo that is not colored.
        more: {heading: a function as `colors`} of further panels in the pictures.
        constants: the names of the losses that are also given for the constant prediction.
    """
    more = more or {}
    # A layer of units that may die stands in the head of a point network alone.
    has_units = hasattr(model, "hidden_units")

    def evaluate(variables, sums, keys, batch):
        inputs, targets = prepare(keys, batch)
        if has_units:
            hidden = model.apply(variables, *inputs, method="hidden_units")
            outputs = model.apply(variables, hidden, method="read_out")
        else:
            outputs = model.apply(variables, *inputs)
        values, counts = loss(outputs, targets)
        constant, _ = loss(constant_outputs(variables, sums), targets)
        predicted, truth = colors(variables, batch["image"]), spaces.from_uint8(batch["image"])
        gray = without_color(truth)
        valid = targets["valid"]
        rows = {
            "psnr": quality.psnr(predicted, truth),
            "psnr_gray": quality.psnr(gray, truth),
            "auc": quality.auc(predicted, truth),
            "auc_gray": quality.auc(gray, truth),
        }
        sums = {
            "values": {name: value.sum() for name, value in values.items()},
            "constant": {name: constant[name].sum() for name in constants},
            "points": counts.sum(),
            **{name: jnp.where(valid, value, 0).sum() for name, value in rows.items()},
            "error_ab": jnp.where(valid, quality.squared_error_ab(predicted, truth), 0).sum(),
            "photos": valid.sum(),
        }
        if has_units:
            active = ((hidden > 0) & valid[:, None, None]).any((0, 1))
            sums["active"] = active.astype(jnp.int32)
        return sums, rows | {"score": rows["auc"] - rows["auc_gray"]}

    def summarize(sums, rows):
        del rows
        means = {name: value / sums["points"] for name, value in sums["values"].items()}
        for name, value in sums["constant"].items():
            means[f"{name}_constant"] = value / sums["points"]
        means |= {name: sums[name] / sums["photos"] for name in _COLOR_SCORES}
        means["rmse_ab"] = (sums["error_ab"] / sums["photos"]) ** 0.5
        if "active" in sums:
            means["active_units"] = (sums["active"] > 0).mean()
        return {name: float(value) for name, value in means.items()}

    def pictures(variables, batch):
        rgb = spaces.from_uint8(batch["image"])
        others = [color(variables, batch["image"]) for color in more.values()]
        predicted = colors(variables, batch["image"])
        panels = jnp.stack([without_color(rgb), predicted, rgb, *others], 1)
        return jnp.round(panels * 255).astype(jnp.uint8)

    return Evaluator(
        on_batch=evaluate,
        summarize=summarize,
        statistics=statistics,
        remark=remark,
        pictures=pictures,
        panels=("gray", "predicted", "truth", *more),
        caption=caption,
    )


def make_model(config, encoder) -> PointNetwork:
    """The network of the recipe, with one linear output for every target of its loss."""
    outputs = {
        "histogram": {"hue": config.task.bins, "chroma": config.task.bins},
        "regression": {"ab": 2},
    }[config.task.loss]
    return PointNetwork(
        encoder=encoder,
        head=Head(outputs, hidden=config.model.hidden, dtype=encoder.dtype),
        hypercolumn=config.model.hypercolumn,
        alignment=config.model.alignment,
    )


def make_task(config, encoder, facts: Facts) -> Task:
    """Colorization with the histogram or the regression loss, as `config.task.loss` says."""
    del facts
    _check(config)
    settings = config.task
    model = make_model(config, encoder)
    points.check(config, model)
    regression = settings.loss == "regression"

    def targets_of(rgb, at):
        if regression:
            return regression_targets(rgb, at)
        return histogram_targets(rgb, at, window=settings.window, bins=settings.bins)

    def losses_of(outputs, targets):
        if regression:
            return regression_losses(outputs, targets, scale=settings.regression_scale)
        return histogram_losses(outputs, targets)

    def prepare(keys, batch):
        at = points.of_rows(keys, config)
        targets = jax.vmap(targets_of)(spaces.from_uint8(batch["image"]), at)
        return (encoder.network_input(batch["image"]), at), targets | {"valid": batch["valid"]}

    def loss(outputs, targets):
        valid = targets["valid"].astype(jnp.float32)
        values = losses_of(outputs, targets)
        return {k: v.sum(1) * valid for k, v in values.items()}, valid * settings.points

    def statistics(keys, batch):
        _, targets = prepare(keys, batch)
        valid = targets["valid"].astype(jnp.float32)[:, None]
        if regression:
            total = (targets["ab"] * valid[..., None]).sum((0, 1))
            return {"ab": total, "points": valid.sum() * settings.points}

        def weighted(name):
            weight = targets[f"{name}_weight"] * valid
            return {
                name: (weight[..., None] * targets[name]).sum((0, 1)),
                f"{name}_weight": weight.sum(),
            }

        return weighted("hue") | weighted("chroma")

    def constant_outputs(sums):
        """The outputs, the same everywhere, with the lowest loss on the summed training targets."""
        if regression:
            return {"ab": sums["ab"] / sums["points"]}

        def logits(name):
            # One window's worth of the uniform histogram keeps bins that never occurred finite.
            uniform = 1 / settings.bins
            return jnp.log((sums[name] + uniform) / (sums[f"{name}_weight"] + 1))

        return {name: logits(name) for name in ("hue", "chroma")}

    def predict(variables, image):
        outputs = model.apply(variables, encoder.network_input(image), method="dense")
        if regression:
            return outputs
        return {name: jax.nn.softmax(outputs[name]) for name in ("hue", "chroma")}

    def enlarged(predicted, height, width):
        """At every pixel: a and b, or the histograms."""
        found = {
            name: hypercolumn.from_grid(values, height, width, config.model.alignment)
            for name, values in predicted.items()
        }
        return (found["ab"] * AB_SCALE,) if regression else (found["hue"], found["chroma"])

    def plane(predicted, height, width, decoding, temperature, keys=None):
        found = enlarged(predicted, height, width)
        if regression:
            return found[0]
        return instantiate.hue_chroma_plane(*found, decoding, temperature, keys)

    def colors(variables, image):
        found = enlarged(predict(variables, image), *image.shape[1:3])
        gray = spaces.gray(spaces.from_uint8(image))
        return (instantiate.ab_to_rgb if regression else instantiate.colorize)(*found, gray)

    evaluator = colors_evaluator(
        model, prepare, loss, colors, statistics, lambda variables, sums: constant_outputs(sums)
    )
    photos = Colors(
        spaces.gray,
        predict,
        plane,
        instantiate.join_ab if regression else instantiate.join_hue_chroma,
        decodings=("mean",) if regression else instantiate.DECODINGS,
        stride=max(encoder.strides.values()),
        distributions=not regression,
    )
    return Task(model=model, prepare=prepare, loss=loss, evaluators={"": evaluator}, colors=photos)


def check_gray(config) -> None:
    """ConfigError if the network would see the colors that it is to predict."""
    if config.model.in_channels != 1:
        raise ConfigError(
            "colorization wants config.model.in_channels=1, since color would give the answer away"
        )


def _check(config):
    task = config.task
    check_gray(config)
    if task.loss not in ("histogram", "regression"):
        raise ConfigError(f"config.task.loss is {task.loss!r}; known: 'histogram', 'regression'")
    if task.window < 1 or task.window % 2 == 0:
        raise ConfigError(f"config.task.window={task.window} must be odd and positive")
    if task.bins < 1:
        raise ConfigError("config.task.bins must be positive")
