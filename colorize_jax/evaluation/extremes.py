"""Pictures of the photos that a network does best and worst on."""

import pathlib

import jax
import numpy as np

from colorize_jax.training.report import picture_grid, png

COUNT = 3


def extremes(scores: np.ndarray, count: int = COUNT) -> dict[str, np.ndarray]:
    """{"worst": indices, "best": indices} of [photos] scores, the most extreme first."""
    order = np.argsort(scores, kind="stable")
    return {"worst": order[:count], "best": order[::-1][:count]}


def write(folder: pathlib.Path, runner, variables, photos, rows, open_batches) -> None:
    """best.png and worst.png: the task's pictures of those photos, one below the other.

    Args:
        folder: for the pictures; the first host writes.
        runner: of the task.
        variables: of the network.
        photos: that were evaluated.
        rows: of the evaluation: "score" and "position" of every photo.
        open_batches: photos -> a context with their batches, as in the evaluation.
    """
    for name, chosen in extremes(rows["score"]).items():
        with open_batches(photos.part(rows["position"][chosen])) as batches:
            strips = dict(runner.pictures(variables, batches))
        if jax.process_index() == 0:
            path = folder / f"{name}.png"
            path.write_bytes(png(picture_grid([strips[i] for i in sorted(strips)])))
