"""Predicted masks as files, in the layout in which PASCAL VOC wants them submitted."""

from collections.abc import Sequence
import pathlib
import posixpath

import jax
from tqdm import tqdm

from colorize_jax.data.masks import encode_mask

# comp6: trained on other data than the challenge's too.
_LAYOUT = "results/VOC2012/Segmentation/comp6_{split}_cls"


def write(
    workdir: pathlib.Path, runner, variables, photos, split: str, open_batches
) -> pathlib.Path:
    """A palette PNG for every photo, of the photo's own size and named as it; see `file_names`.

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
    """What the predictions of photos are called: no two alike, and none outside the folder.

    As PASCAL VOC wants it, "2007_000033.png", where this tells the photos apart; otherwise with
    their folders, then with their endings too ("a/1.jpg.png"), and then with their numbers.
    """
    parts = [[p for p in name.split("/") if p not in ("", ".", "..")] for name in names]
    whole = ["/".join(p) or "photo" for p in parts]
    for called in (
        [posixpath.splitext(posixpath.basename(name))[0] for name in whole],
        [posixpath.splitext(name)[0] for name in whole],
        whole,
        [f"{name}.{number}" for number, name in enumerate(whole)],
    ):
        # Some file systems know no capitals.
        if len({name.casefold() for name in called}) == len(called):
            break
    return [f"{name}.png" for name in called]
