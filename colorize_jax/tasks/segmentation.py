"""Semantic segmentation: the class of every pixel, learned at sampled pixels, scored at all."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.data.masks import VOID, palette
from colorize_jax.errors import ConfigError
from colorize_jax.models import hypercolumn, layers
from colorize_jax.models.fov import FieldOfView
from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.tasks import losses, metrics, points, scores
from colorize_jax.tasks.task import Caption, Evaluator, Facts, Score, Task

SETTINGS = points.SETTINGS | {
    # The number of classes of the masks, with background. 0 takes that of the data.
    "classes": 0,
    "model.fov": False,  # Adds two blocks to the encoder for a larger field of view.
    # Names of classes over which the score is averaged too. (): only over all.
    "eval.classes": (),
}
VISIBLE = 0.6  # The share of the classes' colors in an overlay; the rest is the photo.


def make_model(config, encoder) -> PointNetwork:
    """The encoder, the FoV blocks if configured, and a head with one output for every class."""
    dtype = encoder.dtype
    fov = FieldOfView(config.model.width, dtype, encoder.strides[encoder.top])
    return PointNetwork(
        encoder=encoder,
        fov=fov if config.model.fov else None,
        head=Head(
            {"classes": config.task.classes},
            hidden=config.model.hidden,
            output_init=layers.he_truncated,
            dtype=dtype,
        ),
        hypercolumn=config.model.hypercolumn,
        alignment=config.model.alignment,
    )


def remark(scores: dict[str, float]) -> str:
    """A sentence about classes without a score; see `Evaluator.remark`."""
    if math.isnan(scores["miou"]):
        return (
            "miou has no value: fewer than two classes occur in the masks that were evaluated, and "
            "there is nothing to tell apart"
        )
    each = {k.removeprefix("iou/"): v for k, v in scores.items() if k.startswith("iou/")}
    lacking = [name for name, value in each.items() if math.isnan(value)]
    if not lacking:
        return ""
    shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
    return (
        f"miou is the mean over {len(each) - len(lacking)} of {len(each)} classes; neither in a "
        f"mask that was evaluated nor predicted: {shown}"
    )


def make_task(config, encoder, facts: Facts) -> Task:
    """Cross-entropy at sampled pixels without the void ones; mean IoU over whole photos."""
    crop, number = config.data.crop, config.task.classes
    names = facts.classes or tuple(f"class {i}" for i in range(number))
    _check(config, names)
    model = make_model(config, encoder)
    points.check(config, model)
    network_input = encoder.network_input
    averaged = [names.index(name) for name in config.eval.classes]

    def prepare(keys, batch):
        at = points.of_rows(keys, config)
        labels = jax.vmap(lambda mask, yx: mask[yx[:, 0], yx[:, 1]])(batch["mask"], at)
        labels = jnp.where(batch["valid"][:, None], labels, VOID)
        return (network_input(batch["image"]), at), {"classes": labels}

    def loss(outputs, targets):
        values, counted = losses.cross_entropy(outputs["classes"], targets["classes"], void=VOID)
        return {"loss": values.sum(1)}, counted.sum(1).astype(jnp.float32)

    def logits_of(variables, batch):
        image = batch["image"]
        outputs = model.apply(variables, network_input(image), method="dense")
        return hypercolumn.from_grid(outputs["classes"], *image.shape[1:3], config.model.alignment)

    def evaluate(variables, statistics, keys, batch):
        del statistics, keys
        truth = jnp.where(batch["valid"][:, None, None], batch["mask"], VOID)
        logits = logits_of(variables, batch)
        values, counted = losses.cross_entropy(logits, truth, void=VOID)

        def of_photo(truth, predicted):
            return metrics.confusion(truth, predicted, number, void=VOID)

        confusion = jax.vmap(of_photo)(truth, logits.argmax(-1))
        sums = {"confusion": confusion.sum(0), "loss": values.sum(), "pixels": counted.sum()}
        seen = confusion.sum(-1) + confusion.sum(-2) > 0
        return sums, {"score": metrics.photo_iou(confusion), "seen": seen}

    def summarize(sums, rows):
        del rows
        confusion, pixels = sums["confusion"], max(sums["pixels"], 1)
        alone = scores.most_frequent_alone(confusion)
        found = {
            "miou": scores.mean_iou(confusion),
            "miou_most_frequent": scores.mean_iou(alone),
        }
        if averaged:
            n = len(averaged)
            found[f"miou_{n}"] = scores.mean_iou(confusion, averaged)
            found[f"miou_{n}_most_frequent"] = scores.mean_iou(alone, averaged)
        found["accuracy"] = np.trace(confusion) / pixels
        found["loss"] = sums["loss"] / pixels
        per_class = zip(names, scores.iou(confusion), strict=True)
        found |= {f"iou/{name}": value for name, value in per_class}
        return {name: float(value) for name, value in found.items()}

    def predict(variables, batch):
        return logits_of(variables, batch).argmax(-1).astype(jnp.uint8)

    def pictures(variables, batch):
        colors = jnp.asarray(palette(number), jnp.float32)
        photo = batch["image"].astype(jnp.float32)

        def over(mask):
            mixed = (1 - VISIBLE) * photo + VISIBLE * colors[mask]
            mixed = jnp.where(mask[..., None] == 0, photo, mixed)  # The background shows the photo.
            return jnp.round(mixed).astype(jnp.uint8)

        predicted = predict(variables, batch)
        return jnp.stack([batch["image"], over(batch["mask"]), over(predicted)], 1)

    def caption(row):
        colors = palette(number)
        legend = {names[i]: tuple(colors[i].tolist()) for i in np.flatnonzero(row["seen"]) if i}
        return Caption(f"mean IoU of its classes {row['score']:.3f}", legend)

    evaluator = Evaluator(
        on_batch=evaluate,
        summarize=summarize,
        remark=remark,
        pictures=pictures,
        panels=("photo", "truth", "predicted"),
        caption=caption,
        predict=predict,
    )
    return Task(
        model=model,
        prepare=prepare,
        loss=loss,
        evaluators={"": evaluator},
        score=Score(f"miou_{len(averaged)}" if averaged else "miou", higher=True),
        labels={"mask": ((crop, crop), jnp.uint8)},
    )


def _check(config, names):
    number = config.task.classes
    if not 2 <= number < VOID:
        raise ConfigError(f"config.task.classes={number} must lie between 2 and {VOID - 1}")
    if config.data.labels != "masks":
        raise ConfigError(
            f"config.data.labels is {config.data.labels!r}; segmentation needs 'masks'"
        )
    if unknown := [name for name in config.eval.classes if name not in names]:
        raise ConfigError(
            f"config.eval.classes: there is no class {unknown[0]!r}; known: {', '.join(names)}"
        )
