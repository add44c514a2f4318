"""Classification of whole photos: one class each (softmax), or any number of them (sigmoid)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.augment import mixing
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.classifier import Classifier
from colorize_jax.tasks import losses, metrics, scores
from colorize_jax.tasks.task import Caption, Evaluator, Facts, Score, Task

SETTINGS = {
    "loss": "softmax",  # "softmax" for one class in every photo, "sigmoid" for any number.
    "classes": 0,  # The number of classes. 0 takes that of the data.
    # With "softmax", this share of the target is spread over all classes.
    "smoothing": 0.0,
    # With "softmax", every training photo is mixed with another one, and so is its target. The two
    # numbers are the parameter a of the Beta(a, a) from which the share is drawn; 0 is off. With
    # both, one of them is drawn for every photo.
    "mixup": 0.0,  # The two photos are blended (Zhang et al., ICLR 2018).
    "cutmix": 0.0,  # A rectangle of the other photo is put in (Yun et al., ICCV 2019).
}
NO_CLASS = -1
# The step-wise average precision is the score. VOC 2007 and the release report the other two.
_KINDS = {"step": "", "voc11": "_voc11", "trapezoid": "_trapezoid"}


def make_task(config, encoder, facts: Facts) -> Task:
    """A linear classifier on the encoder's top, with the loss `config.task.loss`."""
    number, crop = config.task.classes, config.data.crop
    _check(config)
    kind = {"softmax": _OneClass, "sigmoid": _ManyClasses}[config.task.loss](
        facts.classes or tuple(f"class {i}" for i in range(number))
    )
    model = Classifier(encoder=encoder, classes=number, dtype=encoder.dtype)
    if crop < encoder.smallest_input:
        has_another = getattr(encoder, "fc6_padding", "") == "VALID"
        raise ConfigError(
            f"config.data.crop={crop} is too small for {config.model.name} as "
            f"config.model has it: it must be at least {encoder.smallest_input}"
            + ("; config.model.fc6_padding='ADAPTIVE' takes smaller ones" if has_another else "")
        )
    network_input, smoothing = encoder.network_input, config.task.smoothing
    mixup, cutmix = config.task.mixup, config.task.cutmix

    def prepare(keys, batch):
        targets = {"labels": batch["labels"], "valid": batch["valid"]}
        if not (mixup or cutmix):
            return (network_input(batch["image"]),), targets
        # The other photo is the one before in the batch, or the photo itself if there is none.
        own = jnp.arange(len(keys))
        other = jnp.where(jnp.roll(batch["valid"], 1), jnp.roll(own, 1), own)
        image = spaces.from_uint8(batch["image"])
        mixed, share = jax.vmap(lambda *of: mixing.mixed(*of, mixup=mixup, cutmix=cutmix))(
            keys, image, image[other]
        )
        return (network_input(mixed),), targets | {"other": batch["labels"][other], "share": share}

    def loss(outputs, targets):
        valid = targets["valid"].astype(jnp.float32)
        value = kind.loss(outputs, targets["labels"])
        if "other" in targets:
            other = kind.loss(outputs, targets["other"])
            value = targets["share"] * value + (1 - targets["share"]) * other
        if smoothing:
            every = -jax.nn.log_softmax(outputs).mean(-1)
            value = (1 - smoothing) * value + smoothing * every
        return {"loss": value * valid}, valid

    def logits_of(variables, batch):
        image = batch["image"]
        if image.ndim == 5:  # Logits are averaged over the crops of a photo.
            photos, crops = image.shape[:2]
            logits = model.apply(variables, network_input(image.reshape(-1, *image.shape[2:])))
            return logits.reshape(photos, crops, -1).mean(1)
        inside = None
        if "size" in batch:
            inside = positions_inside(batch["size"], image.shape[1:3], encoder.top_centers)
        return model.apply(variables, network_input(image), inside)

    def evaluate(variables, statistics, keys, batch):
        del statistics, keys
        logits, valid = logits_of(variables, batch), batch["valid"].astype(jnp.float32)
        sums, rows = kind.evaluate(logits, batch["labels"], valid)
        values = kind.loss(logits, batch["labels"]) * valid
        return sums | {"loss": values.sum(), "photos": valid.sum()}, rows

    def summarize(sums, rows):
        found = kind.summarize(sums, rows) | {"loss": sums["loss"] / max(sums["photos"], 1)}
        return {name: float(value) for name, value in found.items()}

    def pictures(variables, batch):
        del variables
        image = batch["image"]
        return image[:, :1] if image.ndim == 5 else image[:, None]  # Only the first crop is shown.

    evaluator = Evaluator(
        on_batch=evaluate,
        summarize=summarize,
        pictures=pictures,
        panels=("photo",),
        caption=kind.caption,
    )
    return Task(
        model=model,
        prepare=prepare,
        loss=loss,
        evaluators={"": evaluator},
        score=kind.score,
        labels={"labels": kind.label},
    )


def positions_inside(
    size: jax.Array, canvas: tuple[int, int], centers: Callable[[int], np.ndarray]
) -> jax.Array:
    """Marks the cells of the top map that lie over the photo in the middle of a canvas.

    Args:
        size: (height, width) of the photos, [batch, 2].
        canvas: (height, width) of the padded photos.
        centers: an encoder's `top_centers`: side in pixels -> centers of the cells in pixels.

    Returns:
        bool [batch, h, w]: whether the center of the cell is a pixel of the photo.
    """

    def along(axis):
        center = jnp.asarray(centers(canvas[axis]))
        start = (canvas[axis] - size[:, axis, None]) // 2
        return (center >= start) & (center < start + size[:, axis, None])

    return along(0)[:, :, None] & along(1)[:, None, :]


class _OneClass:
    """Photos with one class each: softmax, top-1 and top-5."""

    score = Score("top1", higher=True)
    label = ((), jnp.int32)

    def __init__(self, names):
        self._names = names

    def loss(self, logits, labels):
        return losses.cross_entropy(logits, labels, void=NO_CLASS)[0]

    def evaluate(self, logits, labels, valid):
        hits, top5 = (metrics.top_k(logits, labels, k).astype(jnp.float32) * valid for k in (1, 5))
        classes = jax.nn.one_hot(labels, len(self._names)) * valid[:, None]
        sums = {
            "top1": hits.sum(),
            "top5": top5.sum(),
            "class_hits": (hits[:, None] * classes).sum(0),
            "class_photos": classes.sum(0),
            "seen": valid.sum(),
        }
        chances = jax.nn.softmax(logits)
        own = jnp.take_along_axis(chances, jnp.maximum(labels, 0)[:, None], -1)[:, 0]
        rows = {
            "truth": labels,
            "predicted": logits.argmax(-1),
            "chance": chances.max(-1),
            "score": own,  # the probability of the true class
        }
        return sums, rows

    def caption(self, row):
        return Caption(
            f"truth: {self._names[row['truth']]}, predicted: {self._names[row['predicted']]} "
            f"({row['chance']:.0%})"
        )

    def summarize(self, sums, rows):
        del rows
        seen, photos = max(sums["seen"], 1), sums["class_photos"]
        hits = np.where(photos > 0, sums["class_hits"] / np.maximum(photos, 1), np.nan)
        per_class = {f"top1/{n}": v for n, v in zip(self._names, hits, strict=True)}
        return {"top1": sums["top1"] / seen, "top5": sums["top5"] / seen} | per_class


class _ManyClasses:
    """Photos with any number of classes: a label is 1 (present), -1 (absent) or 0 (difficult)."""

    score = Score("map", higher=True)

    def __init__(self, names):
        self._names = names
        self.label = ((len(names),), jnp.int8)

    def loss(self, logits, labels):
        return losses.sigmoid_loss(logits, labels)

    def evaluate(self, logits, labels, valid):
        del valid
        return {}, {"logits": logits, "labels": labels}

    def caption(self, row):
        truth = [name for name, label in zip(self._names, row["labels"], strict=True) if label > 0]
        chances = 1 / (1 + np.exp(-row["logits"].astype(np.float64)))
        likely = np.argsort(-chances)[: max(len(truth), 1) + 1]
        predicted = ", ".join(f"{self._names[i]} ({chances[i]:.0%})" for i in likely)
        return Caption(f"truth: {', '.join(truth) or 'none'}; predicted: {predicted}")

    def summarize(self, sums, rows):
        del sums
        means, each = scores.mean_average_precision(rows["logits"], rows["labels"])
        found = {f"map{kind}": means[name] for name, kind in _KINDS.items()}
        for name, kind in _KINDS.items():
            per_class = zip(self._names, each[name], strict=True)
            found |= {f"ap{kind}/{label}": value for label, value in per_class}
        return found


def _check(config):
    task, data = config.task, config.data
    if task.loss not in ("softmax", "sigmoid"):
        raise ConfigError(
            f"config.task.loss is {task.loss!r}; classification has 'softmax' and 'sigmoid'"
        )
    needed = {"softmax": "folders", "sigmoid": "lists"}[task.loss]
    if data.labels != needed:
        raise ConfigError(
            f"config.data.labels is {data.labels!r}; the loss {task.loss!r} needs {needed!r}"
        )
    if not 0 <= task.smoothing <= 1:
        raise ConfigError(f"config.task.smoothing={task.smoothing} must be a number from 0 to 1")
    soft = [name for name in ("smoothing", "mixup", "cutmix") if task[name]]
    if soft and task.loss != "softmax":
        raise ConfigError(
            f"config.task.{soft[0]}={task[soft[0]]} is for one class in every photo, with the loss "
            "'softmax': set it to 0"
        )
    if task.classes < 1:
        raise ConfigError(f"config.task.classes={task.classes}: how many classes are there?")
