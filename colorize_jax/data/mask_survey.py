"""Looks at a sample of the masks before training, and warns of what is probably wrong in them.

Wrong masks seldom raise an error: a class stored as 255 is void and is never learned, and blurred
edges have the values of other classes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import time

import numpy as np
from tqdm import tqdm

from colorize_jax.data.labelled import Labelled
from colorize_jax.data.masks import INTERPOLATED, VOID, decode_mask, interpolated
from colorize_jax.errors import DataError

SAMPLE = 200  # the number of masks in a round; another round follows while a class was not seen
LARGEST = 4000
SECONDS = 5.0  # No further round begins after this time.
LARGE_VOID = 0.2  # A larger share of void pixels is worth a warning; in VOC's masks it is 0.06.
_FEWEST_EDGES = 100  # With fewer edges nothing is said about interpolation.
_SHOWN = 5  # the most names in a line


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found in a sample of the masks of a split.

    Attributes:
        total: the number of masks in the split.
        seen: the number of masks in the sample, a fixed choice spread over the split.
        pixels: the number of pixels of every value, [256], in the usable masks.
        ramps, edges: the sums of `masks.interpolated` over the usable masks.
        refused: [(photo, reason)] of the masks that cannot be used.
    """

    total: int
    seen: int
    pixels: np.ndarray
    ramps: int
    edges: int
    refused: Sequence[tuple[str, str]]


def survey(photos: Labelled, threads: int = 8) -> Survey:
    """Reads `SAMPLE` masks, and more while some class is in none of them, for at most `SECONDS`.

    Args:
        photos: the photos of a split, with masks.
        threads: the number of threads that read and decode.
    """
    began = time.monotonic()
    order = np.random.default_rng(0).permutation(len(photos))[:LARGEST]
    pixels, traces, refused, seen = np.zeros(256, np.int64), np.zeros(2, np.int64), [], 0

    def look(index: int):
        try:
            mask = decode_mask(photos.mask(index), photos.classes)
        except DataError as error:
            return index, str(error)
        return np.bincount(mask.ravel(), minlength=256), interpolated(mask)

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        while seen < len(order):
            part = order[seen : seen + SAMPLE].tolist()
            for first, second in pool.map(look, part):
                if isinstance(second, str):
                    refused.append((photos.name(first), second))
                else:
                    pixels += first
                    traces += second
            seen += len(part)
            if pixels[: photos.classes].all() or time.monotonic() - began > SECONDS:
                break
    return Survey(len(photos), seen, pixels, *traces.tolist(), refused)


def largest_class(photos: Labelled, threads: int = 8) -> int:
    """The largest value except `VOID` in all masks of a split; -1 if there is none.

    It reads every mask. Masks that cannot be used are skipped.
    """

    def look(index: int) -> int:
        try:
            mask = decode_mask(photos.mask(index), 255)
        except DataError:
            return -1
        known = mask[mask != VOID]
        return int(known.max()) if known.size else -1

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        quiet = len(photos) <= 2000
        found = pool.map(look, range(len(photos)))
        return max(tqdm(found, "classes", len(photos), unit="mask", disable=quiet), default=-1)


def remarks(found: Survey, names: Sequence[str], use: str) -> list[str]:
    """Warnings about these masks, one line each; none if nothing is unusual.

    Args:
        found: what `survey` returned.
        names: the names of the classes.
        use: "training" or "evaluation".

    Raises:
        DataError: none of the masks in the sample can be used.
    """
    what, scored = f"{use} masks", use == "evaluation"
    some = "all" if found.seen == found.total else f"{found.seen:,} of"
    some += f" {found.total:,} looked at"
    if found.refused:
        name, reason = found.refused[0]
        if len(found.refused) == found.seen:
            raise DataError(f"no {use} mask can be used ({some}). {name}: {reason}")
    lines = []

    def tell(text: str) -> None:
        lines.append(f"{what} ({some}): {text}")

    if found.refused:
        tell(f"{len(found.refused):,} cannot be used, such as that of {name}: {reason}")
    number, void = len(names), int(found.pixels[VOID])
    occurs = found.pixels[:number] > 0
    present, absent = np.flatnonzero(occurs).tolist(), np.flatnonzero(~occurs).tolist()
    share = void / max(int(found.pixels.sum()), 1)
    if absent:
        consequence = (
            "has no IoU, and counts as 0 where it is predicted" if scored else "cannot be learned"
        )
        shown = ", ".join(repr(names[i]) for i in absent[:_SHOWN])
        if len(absent) == 1:
            tell(f"class {absent[0]}, {shown}, is in none of them and {consequence}")
        else:
            more = ", ..." if len(absent) > _SHOWN else ""
            tell(
                f"{len(absent)} of the {number} classes are in none of them ({shown}{more}): "
                f"each {consequence}"
            )
    if len(present) == 1:
        tell(
            f"there is no class but {names[present[0]]!r}: "
            + ("mean IoU has no value" if scored else "nothing can be learned")
        )
    if share > LARGE_VOID or (void and len(present) < 2):
        tell(
            f"{share:.0%} of the pixels are void ({VOID}), which is neither learned nor scored; "
            f"if {VOID} is a class of yours, store it as a number below {number}"
        )
    if found.edges >= _FEWEST_EDGES and found.ramps > INTERPOLATED * found.edges:
        tell(
            f"{found.ramps / found.edges:.0%} of the edges between two classes have a third class "
            "of a value in between, as after a resize with interpolation or JPEG: such labels are "
            "wrong; resize the original masks by the nearest neighbor"
        )
    return lines
