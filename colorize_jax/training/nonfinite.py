"""Reports a step that was not finite, and replays it from the report."""

from collections.abc import Collection, Iterator
import json
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from colorize_jax import json_files
from colorize_jax.checkpoints import manifest
from colorize_jax.config import config_form
from colorize_jax.data import pipeline, sources, splits
from colorize_jax.errors import CheckpointError
from colorize_jax.json_files import COUNT, POSITIVE
from colorize_jax.log import say_once
from colorize_jax.models.finetune import freeze
from colorize_jax.training import hosts, known, same_run, saving, sharding
from colorize_jax.training.meter import NonFiniteStep
from colorize_jax.training.pictures import Row, page, png
from colorize_jax.training.setup import check_settings, set_up
from colorize_jax.training.step import TrainState, forward, interleave, row_keys

_FORM = {
    "step": POSITIVE,
    "microbatches": POSITIVE,
    "positions": [COUNT],
    "records": [str],
    "config": config_form() | {"early_stopping": {"mode": str}, "data": {"source": str}},
}


def write_report(
    workdir: pathlib.Path,
    config: ConfigDict,
    found: NonFiniteStep,
    state: TrainState,
    photos: sources.Photos,
    microbatches: int,
) -> pathlib.Path:
    """Writes `nonfinite_<step>.json`, and the state before that step to a folder of that name.

    All hosts must call it, because all of them hold the state.
    """
    path = workdir / f"nonfinite_{found.step}.json"
    saving.write(path.with_suffix("").absolute(), state, {"step": found.step})
    batch_size = config.data.batch_size
    positions = range((found.step - 1) * batch_size, found.step * batch_size)
    order = photos.order(config.seed)
    report = {
        "step": found.step,
        "metrics": {name: repr(value) for name, value in found.metrics.items()},
        "microbatches": microbatches,
        "positions": list(positions),
        "records": [photos.name(order[position]) for position in positions],
        "config": same_run.plain(config),
    }
    if jax.process_index() == 0:
        path.write_text(json.dumps(report, indent=1) + "\n")
    return path


@hosts.loss_explained()
def replay(
    config: ConfigDict, workdir: pathlib.Path, stated: Collection[str] | None = None
) -> dict:
    """Runs the step of a report again with the settings of `config`.

    It prints, and writes to `workdir` as replay_<step>.json and .png: the batch with the loss of
    every record, the largest activation of every layer in the order of computation, and the norm of
    every parameter's gradient.

    Args:
        config: the config of the run; the network follows the report.
        workdir: the folder for the outputs.
        stated: the settings that were given on a command line; see `known.settled`.

    Raises:
        CheckpointError: the report is invalid, or does not fit the config.
        DataError: the photos have changed.
    """
    same_run.check_hosts(config, workdir=None)
    report, folder = _read(pathlib.Path(config.replay))
    config, _ = known.for_evaluation(config, report, stated)
    for line in same_run.differences(report["config"], config):
        say_once(f"other than in the run: {line.strip()}")
    # A run by :crossval began with a search, which has other splits.
    config.early_stopping.mode = report["config"]["early_stopping"]["mode"]
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    check_settings(config, mesh)
    setup = set_up(config, mesh, splits.open_splits(config))
    photos = setup.training
    step, microbatches = report["step"], config.microbatches or report["microbatches"]
    batches = pipeline.training_batches(photos, config, start=step - 1, stop=step, workers=0)
    batch = next(batches)
    batches.close()
    batch.pop("bad")
    order = photos.order(config.seed)
    names = [photos.name(order[position]) for position in report["positions"]]
    if names != report["records"]:
        raise CheckpointError(
            f"{config.data.source} no longer gives the records of {config.replay}: the batch now "
            f"begins with {names[0]} instead of {report['records'][0]}; was "
            + report["config"]["data"]["source"]
        )

    state = saving.read(folder, setup.abstract_state(batch), sharding.replicated(mesh))
    records, layers, gradients = _look(setup.task, state, batch, setup.key, microbatches)
    result = {
        "step": step,
        "records": [{"name": n, **r} for n, r in zip(names, records, strict=True)],
        "activations": layers,
        "gradients": gradients,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / f"replay_{step}.json").write_text(json.dumps(result, indent=1) + "\n")
    images = batch["image"] if config.data.views > 1 else batch["image"][:, None]
    rows = [Row(name, list(views)) for name, views in zip(names, images, strict=True)]
    (workdir / f"replay_{step}.png").write_bytes(png(page(rows)))
    say_once("\n".join(_table(result)))
    say_once(f"written to {workdir}/replay_{step}.json; the batch is replay_{step}.png beside it")
    return result


def _read(path: pathlib.Path) -> tuple[dict, pathlib.Path]:
    advice = "config.replay takes the nonfinite_<step>.json of a run"
    try:
        report = json_files.read(path, _FORM, CheckpointError, advice)
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}: {advice}") from None
    step, batch_size = report["step"], len(report["records"])
    if report["positions"] != list(range((step - 1) * batch_size, step * batch_size)):
        raise CheckpointError(
            f'{path} is damaged (its "positions" are not those of the records of step {step}): '
            f"{advice}"
        )
    folder = path.absolute().with_suffix("")
    if not folder.is_dir():
        raise CheckpointError(f"the state of {path} is missing: it was in the folder {folder}")
    if problem := manifest.problem(folder):
        raise CheckpointError(f"the state in {folder} is not used: {problem}")
    return report, folder


def _look(task, state, batch, key, microbatches) -> tuple[list[dict], dict, dict]:
    """The losses of the records, the activations and the gradients of one step."""
    points_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    keys = row_keys(points_key, jnp.arange(len(batch["image"])))
    parts = jax.tree.map(lambda x: interleave(jnp.asarray(x), microbatches), (batch, keys))
    names: list[str] = []

    def total(params, collections, batch, keys, dropout_key):
        variables = {"params": freeze(params, task.frozen), **collections}
        values, counts, collections, kept = forward(
            task, variables, batch, keys, dropout_key, capture_intermediates=True
        )
        maps = dict(_arrays(kept))
        names[:] = maps  # jit sorts the keys of a dict, but this order is that of computation.
        largest = jnp.array([_largest(x) for x in maps.values()])
        return values["loss"].sum(), (values["loss"], counts, largest, collections)

    gradient_of = jax.jit(jax.grad(total, has_aux=True))
    collections, losses, counts, largest, gradients = state.collections, [], [], 0.0, None
    for i in range(microbatches):
        part, part_keys = jax.tree.map(lambda x, i=i: x[i], parts)
        dropout = jax.random.fold_in(dropout_key, i) if microbatches > 1 else dropout_key
        found, (loss, count, peak, collections) = gradient_of(
            state.params, collections, part, part_keys, dropout
        )
        losses.append(loss)
        counts.append(count)
        largest = np.maximum(largest, peak)  # NaN stays NaN.
        gradients = found if gradients is None else jax.tree.map(jnp.add, gradients, found)
    rows = zip(
        np.stack(losses, 1).ravel().tolist(), np.stack(counts, 1).ravel().tolist(), strict=True
    )
    records = [{"loss": loss / max(count, 1)} for loss, count in rows]
    norms = {
        "/".join(path): float(optax.tree.norm(gradient))
        for path, gradient in traverse_util.flatten_dict(gradients).items()
    }
    return records, dict(zip(names, np.asarray(largest).tolist(), strict=True)), norms


def _largest(x: jax.Array) -> jax.Array:
    """The largest absolute value; NaN if any is not finite, which XLA's maximum may lose."""
    return jnp.where(jnp.isfinite(x).all(), jnp.abs(x).max(), jnp.nan)


def _arrays(intermediates) -> Iterator[tuple[str, jax.Array]]:
    """Yields the name of every module and its output."""
    for path, outputs in traverse_util.flatten_dict(intermediates).items():
        arrays = jax.tree.leaves(outputs)
        if len(arrays) == 1:
            yield "/".join(path[:-1]) or "output", arrays[0]


def _table(result: dict) -> list[str]:
    lines = ["", f"step {result['step']}, record by record:"]
    for row in result["records"]:
        lines.append(f"  {_number(row['loss'])}  {row['name']}")
    for title, values in (
        ("largest activation, layer by layer", result["activations"]),
        ("norm of the gradient, parameter by parameter", result["gradients"]),
    ):
        lines += ["", f"{title}:"]
        lines += [f"  {_number(value)}  {name}" for name, value in values.items()]
    bad = [name for name, value in result["activations"].items() if not np.isfinite(value)]
    first = f"the first layer that is not finite: {bad[0]}" if bad else "all layers are finite"
    lines += ["", first]
    bad = [name for name, value in result["gradients"].items() if not np.isfinite(value)]
    count = len(result["gradients"])
    lines += [f"gradients that are not finite: {len(bad)} of {count} parameters"]
    return lines


def _number(value: float) -> str:
    return f"{value:12.5g}" + ("  " if np.isfinite(value) else " !")
