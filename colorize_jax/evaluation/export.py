"""Predicted masks as files, in the layout in which PASCAL VOC wants them submitted."""

import pathlib

import jax
from tqdm import tqdm

from colorize_jax.data.masks import encode_mask

# comp6: trained on other data than the challenge's too.
_LAYOUT = "results/VOC2012/Segmentation/comp6_{split}_cls"


def write(
    workdir: pathlib.Path, runner, variables, photos, split: str, open_batches
) -> pathlib.Path:
    """A palette PNG for every photo, of the photo's own size and named as it.

    Args:
        workdir: in which the layout begins; the first host writes.
        runner: of a task that predicts masks.
        variables: of the network.
        photos: to predict.
        split: name of the photos' list, a part of the layout.
        open_batches: photos -> a context with their batches, as in an evaluation.

    Returns:
        The folder with the files.
    """
    folder, first = workdir / _LAYOUT.format(split=split), jax.process_index() == 0
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    with open_batches(photos) as batches:
        found = runner.predictions(variables, batches)
        total = len(photos)
        for position, mask in tqdm(
            found, total=total, unit="photo", disable=None if first else True
        ):
            if first:
                name = pathlib.PurePath(photos.name(position)).stem
                (folder / f"{name}.png").write_bytes(encode_mask(mask))
    return folder
