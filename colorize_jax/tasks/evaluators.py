"""Evaluators that several tasks share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.tasks import metrics
from colorize_jax.tasks.task import Batch, Evaluator

Tree = Any


def held_out(
    model: nn.Module,
    prepare: Callable,
    loss: Callable,
    pictures: Callable[[Tree, Batch], jax.Array] | None = None,
    panels: tuple[str, ...] = (),
) -> Evaluator:
    """An evaluator that gives the task's loss and its parts on held-out photos.

    If the outputs are logits [batch, ..., classes] and the targets have integer "labels"
    [batch, ...], it also gives "accuracy", the share of largest logits that are the label's.

    Args:
        model, prepare, loss: those of the `Task`.
        pictures, panels: see `Evaluator`.
    """

    def on_batch(variables, statistics, keys, batch):
        del statistics
        inputs, targets = prepare(keys, batch)
        outputs = model.apply(variables, *inputs)
        values, counts = loss(outputs, targets)
        sums = {"values": {name: value.sum() for name, value in values.items()}}
        sums["counts"] = counts.sum()
        if _are_logits(outputs, targets):
            hits = metrics.top_k(outputs, targets["labels"], 1).reshape(len(counts), -1)
            valid = batch["valid"][:, None]
            sums["hits"] = (hits * valid).sum()
            sums["answers"] = jnp.broadcast_to(valid, hits.shape).sum()
        return sums, {"loss": values["loss"] / jnp.maximum(counts, 1)}

    def summarize(sums, rows):
        del rows
        count = max(sums["counts"], 1)
        found = {name: value / count for name, value in sums["values"].items()}
        if "hits" in sums:
            found["accuracy"] = sums["hits"] / max(sums["answers"], 1)
        return {name: float(value) for name, value in found.items()}

    return Evaluator(on_batch, summarize, pictures=pictures, panels=panels)


def _are_logits(outputs: Tree, targets: Tree) -> bool:
    labels = targets.get("labels") if isinstance(targets, dict) else None
    return (
        isinstance(outputs, jax.Array)
        and isinstance(labels, jax.Array)
        and jnp.issubdtype(labels.dtype, jnp.integer)
        and labels.shape == outputs.shape[:-1]
    )
