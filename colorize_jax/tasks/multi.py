"""Several tasks at once on one encoder: the weighted sum of their losses."""

from collections.abc import Mapping
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from colorize_jax.config import choices
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import evaluators, registry
from colorize_jax.tasks.task import Facts, Fit, Task

SETTINGS = {
    "tasks": ("colorization", "rotation"),  # The tasks, by name.
    "weights": (1.0, 1.0),  # What each task's mean loss is multiplied by.
    # Settings of the tasks that are not their defaults; those of another group stand below its
    # name. For example
    #   {"rotation": {"layer": "conv5_3"}, "colorization": {"points": 64, "model": {"hidden": 128}}}
    "settings": lambda config: ConfigDict(),
}


class MultiNetwork(nn.Module):
    """Networks that share an encoder.

    Attributes:
        encoder: see `models.encoder`.
        parts: {task: network}, each with that very encoder.
    """

    encoder: nn.Module
    parts: Mapping[str, nn.Module]

    def __call__(self, inputs: Mapping[str, tuple], train: bool = False) -> dict:
        """{task: network input} -> {task: outputs}."""
        return {name: part(*inputs[name], train=train) for name, part in self.parts.items()}


def make_task(config, encoder, facts: Facts) -> Task:
    """The sum over tasks of weight times mean loss; each is scored by itself too."""
    names, weights = tuple(config.task.tasks), tuple(config.task.weights)
    _check(config, names, weights)
    tasks = {name: registry.make_task(_own(config, name), facts, None, encoder) for name in names}
    model = MultiNetwork(encoder, {name: task.model for name, task in tasks.items()})

    def of(name, variables):
        """The variables of one task's network."""
        found = {kind: tree.get(f"parts_{name}", {}) for kind, tree in variables.items()}
        return {
            kind: {**tree, "encoder": variables[kind].get("encoder", {})}
            for kind, tree in found.items()
        }

    def keys_of(keys):
        """Keys of their own for every task: what one draws is independent of the others."""
        return {
            name: jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
            for i, name in enumerate(names)
        }

    def prepare(keys, batch):
        found = {name: tasks[name].prepare(own, batch) for name, own in keys_of(keys).items()}
        inputs, targets = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
        return (inputs,), {"of": targets, "valid": batch["valid"]}

    def loss(outputs, targets):
        rows = targets["valid"].astype(jnp.float32)
        found = {"loss": jnp.zeros_like(rows)}
        for name, weight in zip(names, weights, strict=True):
            values, counts = tasks[name].loss(outputs[name], targets["of"][name])
            # Each is divided by its own count, and the sum by the number of rows.
            mean = values["loss"] * rows.sum() / jnp.maximum(counts.sum(), 1)
            found[f"loss_{name}"] = mean
            found["loss"] += weight * mean
        return found, rows

    fits = {name: task.fit for name, task in tasks.items() if task.fit}

    def sums(keys, batch):
        own = keys_of(keys)
        return {name: fit.sums(own[name], batch) for name, fit in fits.items()}

    def constants(sums):
        return {f"parts_{name}": fit.constants(sums[name]) for name, fit in fits.items()}

    found = {"": evaluators.held_out(model, prepare, loss)}
    for name, task in tasks.items():
        found |= {_joined(name, kind): _seen_by(of, name, e) for kind, e in task.evaluators.items()}
    pictured = next((e for e in found.values() if e.pictures), None)
    if pictured:
        found[""] = dataclasses.replace(
            found[""], pictures=pictured.pictures, panels=pictured.panels
        )
    batches = max((fit.batches for fit in fits.values()), default=0)
    return Task(
        model=model,
        prepare=prepare,
        loss=loss,
        evaluators=found,
        fit=Fit(sums, constants, batches) if fits else None,
        labels={key: value for task in tasks.values() for key, value in task.labels.items()},
        microbatches=all(task.microbatches for task in tasks.values()),
        split=tuple(
            path.replace("/", f"/parts_{name}/", 1)
            for name, task in tasks.items()
            for path in task.split
        ),
    )


def _own(config, name):
    """The recipe as it would be for one of the tasks alone."""
    own = config.copy_and_resolve_references()
    choices.choose(own, "task", name)
    for key, value in config.task.settings.get(name, {}).items():
        group, settings = (key, value) if isinstance(value, ConfigDict) else ("task", {key: value})
        for setting, value in settings.items():
            if setting not in own.get(group, {}):
                raise ConfigError(
                    f"config.task.settings: the task {name!r} has no setting {group}.{setting}"
                )
            own[group][setting] = value
    return own


def _joined(name, kind):
    return f"{name}_{kind}" if kind else name


def _seen_by(of, name, evaluator):
    """One task's evaluator, for the variables of all of them."""

    def on_batch(variables, statistics, keys, batch):
        return evaluator.on_batch(of(name, variables), statistics, keys, batch)

    return dataclasses.replace(
        evaluator,
        on_batch=on_batch,
        pictures=evaluator.pictures
        and (lambda variables, batch: evaluator.pictures(of(name, variables), batch)),
        predict=None,
    )


def _check(config, names, weights) -> None:
    if not names or len(set(names)) < len(names) or "multi" in names:
        raise ConfigError(
            f"config.task.tasks={names} must name one or more tasks, each once, and not multi"
        )
    if config.data.views != 1:
        raise ConfigError(
            f"config.data.views={config.data.views}: multi takes one view of every photo, so tasks "
            "that compare views, as simclr, cannot be among its tasks; set it to 1"
        )
    if len(weights) != len(names) or any(weight < 0 for weight in weights):
        raise ConfigError(
            f"config.task.weights={weights} must be {len(names)} numbers that are not negative, "
            "one for every task"
        )
    for name in config.task.settings:
        if name not in names:
            raise ConfigError(f"config.task.settings has {name!r}, which is not in {names}")
