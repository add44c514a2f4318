"""Pictures of the photos with the best and the worst scores."""

import pathlib

import jax
import numpy as np

from colorize_jax.data.labelled import Labelled
from colorize_jax.training.pictures import png

COUNT = 3


def extremes(scores: np.ndarray, count: int = COUNT) -> dict[str, np.ndarray]:
    """{"worst": indices, "best": indices} of scores [photos], the most extreme first."""
    order = np.argsort(scores, kind="stable")
    return {"worst": order[:count], "best": order[::-1][:count]}


def write(folder: pathlib.Path, runner, variables, photos, rows, open_batches, draw) -> None:
    """Writes best.png and worst.png: the task's pictures of those photos, one below the other.

    Args:
        folder: the folder of the pictures; the first host writes.
        runner: the runner of the task.
        variables: the network's variables.
        photos: the photos that were evaluated.
        rows: the evaluation's rows: "score" and "position" of every photo.
        open_batches: photos -> a context manager of their batches, as in the evaluation.
        draw: {index in rows: panels} -> the picture, uint8 [height, width, 3].
    """
    if not isinstance(photos, Labelled):
        photos = Labelled(photos, np.arange(len(photos)))  # `part` can pick photos from it.
    for name, chosen in extremes(rows["score"]).items():
        with open_batches(photos.part(rows["position"][chosen])) as batches:
            shown = dict(runner.pictures(variables, batches))
        if jax.process_index() == 0:
            picture = draw({chosen[i]: shown[i] for i in sorted(shown)})
            (folder / f"{name}.png").write_bytes(png(picture))
