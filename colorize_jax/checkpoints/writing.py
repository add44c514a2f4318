"""Writes checkpoints of a run's state and of converted weights."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from colorize_jax.checkpoints import manifest, reading
from colorize_jax.config import default_config
from colorize_jax.errors import CheckpointError, SaveError, why

Tree = Any


def write(folder: pathlib.Path, state: Tree, note: dict) -> None:
    """Writes one checkpoint and replaces an existing one. All hosts must call it."""
    ocp.save_checkpointables(folder, {"state": state, "note": note}, overwrite=True)
    if jax.process_index() == 0:
        manifest.write(folder)


def begin(folder: pathlib.Path, state: Tree, note: dict) -> Any:
    """Starts to write a checkpoint in the background and returns a future.

    The checkpoint is complete once the future's `result()` has returned and its manifest is
    written.
    """
    return ocp.save_checkpointables_async(folder, {"state": state, "note": note})


def save_encoder(
    output: str | pathlib.Path,
    variables: Mapping[str, Tree],
    settings: Mapping[str, Any],
    origin: Mapping[str, Any],
    classes: Sequence[str] = (),
) -> pathlib.Path:
    """Writes a checkpoint of converted weights, for `init_from`, `load_encoder` and `evaluate`.

    It is written to a temporary folder beside `output` and renamed when it is complete. If anything
    fails, `output` stays as it was.

    Args:
        output: the workdir to make, with one checkpoint of step 0. It must not exist or be an empty
            folder.
        variables: {"params": {"encoder": ..., and "head" if there is one}, "batch_stats": ...}, and
            other collections.
        settings: the settings that differ from the defaults, {"model": {"name": "vgg16", ...},
            "task": ...}.
        origin: where the weights come from, for the note.
        classes: the names of the classes of a classifier's head, in its order; () if unknown.

    Returns:
        The step folder.

    Raises:
        CheckpointError: `output` exists and is no empty folder.
        SaveError: the checkpoint cannot be written.
    """
    output = pathlib.Path(output).absolute()
    check_output(output)
    chosen = default_config(
        settings.get("task", {}).get("name", "colorization"),
        settings.get("model", {}).get("name", "vgg16"),
    )
    config = json.loads(json.dumps(chosen.to_dict()))
    for group, values in settings.items():
        config[group] |= values
    arrays = jax.tree.map(np.asarray, {"params": {}, "batch_stats": {}, **variables})
    state = {"step": np.zeros((), np.int32), **arrays, "opt_state": ()}
    start = origin.get("file", "elsewhere")
    note = {"step": 0, "config": config, "origin": dict(origin), "start": start}
    note |= {"classes": list(classes)} if classes else {}
    needed = sum(array.nbytes for array in jax.tree.leaves(arrays))
    draft = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(output.parent).free) < needed:
            raise OSError(f"it takes {needed >> 20} MiB, and {free >> 20} MiB are free there")
        draft = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        draft.mkdir()
        write(draft / reading.FOLDER / "0", state, note)
        draft.replace(output)  # This also replaces an empty folder.
    except Exception as error:  # Orbax and file systems raise many kinds of errors.
        raise SaveError(f"{output} could not be written: {why(error)}") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return output / reading.FOLDER / "0"


def check_output(output: pathlib.Path) -> None:
    """CheckpointError if the output exists and is no empty folder."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise CheckpointError(f"{output} exists and is no folder: name another output")
    if output.is_dir() and any(output.iterdir()):
        raise CheckpointError(f"{output} exists and is not empty: name another output")
