"""A search for a schedule by early stopping: its start, its messages, and its result."""

import pathlib

from colorize_jax.errors import ConfigError
from colorize_jax.log import say_once
from colorize_jax.tasks.task import Score
from colorize_jax.training import early_stopping
from colorize_jax.training.early_stopping import EarlyStopping, ScheduleResult


def begin(config, score: Score) -> EarlyStopping | None:
    """The initial state of a search, for the progress of the run; None if the run is no search.

    Raises:
        ConfigError: the mode is unknown, or the photos have no labels.
    """
    mode = config.early_stopping.mode
    if mode == "off":
        return None
    if mode != "search":
        raise ConfigError(
            f"config.early_stopping.mode is {mode!r}; known: 'off', 'search', 'crossval'"
        )
    if not config.data.labels:
        raise ConfigError(
            "config.early_stopping is for photos with labels: a part of their training split "
            "is held out and scored"
        )
    return EarlyStopping(minimum=config.early_stopping.minimum, higher=score.higher)


def described(stopping: EarlyStopping) -> str:
    """The last decision, in words."""
    step, _ = stopping.windows[-1]
    scores = [
        "not a number" if score is None else f"{score:.4f}" for _, score in stopping.windows[-2:]
    ]
    before = f", {scores[0]} before" if len(scores) > 1 else ""
    if stopping.stopped is not None:
        what = "the third plateau ends the run"
    elif stopping.dropped and stopping.dropped[-1] == step:
        what = f"no better: drop {len(stopping.dropped)} of {stopping.drops} of the rate"
    else:
        what = "goes on"
    return f"step {step}: early stopping: {scores[-1]}{before}: {what}"


def write(
    workdir: pathlib.Path, stopping: EarlyStopping, *, step: int, batch_size: int, photos: int,
    held_out: int,
) -> None:  # fmt: skip
    """Writes schedule.json, for `config.schedule_from`.

    Args:
        workdir: the workdir of the run.
        stopping: the final state of the search.
        step: the last step of the run.
        batch_size: the batch size of the run.
        photos: the number of photos that it trained on.
        held_out: the number of photos of the training split that were scored.
    """
    ended = stopping.stopped is not None
    if not ended:
        say_once(
            f"the search was ended by its longest allowed length, {step} steps, before the last "
            "plateau: more of config.steps may find a better schedule"
        )
    found = ScheduleResult(
        steps=step,
        drops=tuple(stopping.dropped),
        photos=photos,
        full_photos=photos + held_out,
        batch_size=batch_size,
        windows=stopping.windows,
        ended=ended,
    )
    early_stopping.write_schedule(workdir / early_stopping.FILE, found)
