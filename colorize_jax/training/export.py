"""Writes predicted masks in the layout of a submission to PASCAL VOC."""

from collections.abc import Sequence
import pathlib
import posixpath

import jax
from tqdm import tqdm

from colorize_jax.data.masks import encode_mask

# comp6 is the competition that allows training on other data than the challenge's.
_LAYOUT = "results/VOC2012/Segmentation/comp6_{split}_cls"


def write(
    workdir: pathlib.Path, runner, variables, photos, split: str, open_batches
) -> pathlib.Path:
    """Writes a palette PNG for every photo, of the photo's own size; see `file_names`.

    Args:
        workdir: the folder in which the layout begins; the first host writes.
        runner: the runner of a task that predicts masks.
        variables: the network's variables.
        photos: the photos to predict.
        split: the name of the photos' list, which is a part of the layout.
        open_batches: photos -> a context manager of their batches, as in an evaluation.

    Returns:
        The folder with the files.
    """
    folder, first = workdir / _LAYOUT.format(split=split), jax.process_index() == 0
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    names = file_names([photos.name(index) for index in range(len(photos))])
    with open_batches(photos) as batches:
        found = runner.predictions(variables, batches)
        total = len(photos)
        for position, mask in tqdm(
            found, total=total, unit="photo", disable=None if first else True
        ):
            if first:
                path = folder / names[position]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_mask(mask))
    return folder


def file_names(names: Sequence[str]) -> list[str]:
    """The file names of the photos' predictions: all differ, and none leads out of the folder.

    They are as PASCAL VOC wants them, "2007_000033.png", if these are unique. Otherwise the
    photos' folders are added, then their endings ("a/1.jpg.png"), and then their numbers.
    """
    parts = [[p for p in name.split("/") if p not in ("", ".", "..")] for name in names]
    whole = ["/".join(p) or "photo" for p in parts]
    for called in (
        [posixpath.splitext(posixpath.basename(name))[0] for name in whole],
        [posixpath.splitext(name)[0] for name in whole],
        whole,
        [f"{name}.{number}" for number, name in enumerate(whole)],
    ):
        # Some file systems ignore the case of letters.
        if len({name.casefold() for name in called}) == len(called):
            break
    return [f"{name}.png" for name in called]
