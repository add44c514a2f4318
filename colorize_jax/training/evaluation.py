"""Scores the network of a checkpoint, after its training: what the command `evaluate` does."""

from collections.abc import Collection
import pathlib
import time

import jax

from colorize_jax.checkpoints import reading
from colorize_jax.data import splits
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.log import say_once
from colorize_jax.training import (
    compiler,
    hosts,
    known,
    pictures,
    probing,
    results,
    same_run,
    scoring,
    sharding,
    start,
)
from colorize_jax.training.scoring import Scoring
from colorize_jax.training.setup import check_settings, set_up
from colorize_jax.training.step import init_variables

# These settings concern only training.
_HARMLESS = tuple(f"config.model.{name}:" for name in ("dtype", "remat", "norm_decay"))


def _check_network(folder: pathlib.Path, saved: dict, config) -> None:
    """CheckpointError if the config describes another network than was trained.

    Shapes of parameters do not show all differences, so the settings are compared.
    """
    differ = [
        line
        for line in same_run.differences(saved, config)
        if line.strip().startswith(("config.model.", "config.task.name", "config.task.classes"))
        and not line.strip().startswith(_HARMLESS)
    ]
    if differ:
        raise CheckpointError(
            f"{folder} holds another network than this config. Set the config to it:\n"
            + "\n".join(differ)
        )


@hosts.loss_explained()
def evaluate(
    config, path: str, output: pathlib.Path, stated: Collection[str] | None = None
) -> dict[str, float]:
    """Scores the network of a checkpoint on the evaluation split of `config`.

    The network follows the checkpoint. If the source is the one that it was trained on, the share
    of held-out photos does too; of another source without splits all photos are scored. See
    `known.for_evaluation` and `known.to_score`.

    Args:
        config: the config of the run that trained it; settings of evaluation may differ.
        path: a run's workdir (its newest complete checkpoint), or one of its checkpoints/<step>.
        output: the folder for results.json, images/ and, with config.eval.export, predictions.
        stated: the settings that were given on a command line; see `known.settled`.

    Returns:
        {"eval/...": number}.

    Raises:
        ColorizeError: the message says what is wrong and what to do.
    """
    began = time.monotonic()
    compiler.keep_programs()
    same_run.check_hosts(config, workdir=None)
    folder = reading.find(path)
    note = reading.saved_note(folder)
    stated = known.by_default(config) if stated is None else stated
    config, taken = known.for_evaluation(config, note, stated)
    for line in taken:
        say_once(line)
    mesh = sharding.make_mesh()
    check_settings(config, mesh, training=False)
    if config.early_stopping.mode != "off":
        raise ConfigError(
            "evaluation is of config.data.eval_split: leave early_stopping.mode 'off'"
        )
    _check_network(folder, note["config"], config)
    config, opened, which, remarks = known.to_score(config, note, stated)
    setup = set_up(config, mesh, opened, training=False, trained_on=note.get("photos", 0))
    for warning in (
        *remarks,
        *opened.warnings,
        *splits.look_at_masks(opened, config, training=False),
    ):
        say_once(warning)
    photos, held_out, task = opened.training, opened.evaluation, setup.task
    scoring.check(config, task)
    probes = probing.open_probes(config, task)
    hosts.check_same(
        same_run.photo_facts(config, photos, held_out)
        | probing.facts(probes)
        | {"checkpoint": start.identity(config, folder)}
    )
    shapes = jax.eval_shape(
        lambda batch: init_variables(jax.random.key(0), task, batch), setup.batch_shapes
    )
    variables = reading.read_variables(folder, shapes, sharding.replicated(mesh))
    count = min(config.eval.photos or len(held_out), len(held_out))
    for line in probing.lines(probes):
        say_once(line)
    say_once(f"evaluating {folder} on {count:,} photos of {config.data.source} ({which})")

    hosts.first_does(lambda: (output / "images").mkdir(parents=True, exist_ok=True))
    bad = BadRecords(output / "bad_records.jsonl", config.data.max_bad_fraction, say=say_once)
    scored = Scoring(config, task, setup.runner, photos, held_out, bad, probes=probes)
    scored.find_statistics()
    variables = scored.with_fresh_norm(variables)
    picture = scored.score(variables)
    step = note["step"] if "step" in note else int(folder.name)
    summary = results.Results(
        config=config, step=step, scores=scored.scores, best={}, score=task.score,
        evaluators=scored.evaluators,
        checkpoint=folder, which=which,
        trained_on=note.get("photos", len(photos)), evaluated_on=scored.photos,
        digest=photos.digest() + held_out.digest(), seconds=time.monotonic() - began,
        start=note.get("start", start.RANDOM), unreadable=scored.unreadable,
    )  # fmt: skip
    if picture is not None:
        file = pictures.png(picture)
        hosts.first_does(lambda: (output / "images" / f"{step}.png").write_bytes(file))
    hosts.first_does(lambda: results.write(output / results.FILE, summary))
    say_once(results.table(summary))
    scored.write_pictures(output, variables)
    return scored.scores
