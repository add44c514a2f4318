"""Reads every photo of a source once and reports what is there and how training would scale it."""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np
from tqdm import tqdm

from colorize_jax.data import ahead, decode, record
from colorize_jax.data.sources import Photos, is_gray
from colorize_jax.errors import DataError, shown, why

_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Finding:
    """One photo: its size, whether it is gray and its color profile, or why it cannot be read."""

    name: str
    height: int = 0
    width: int = 0
    gray: bool = False
    reason: str = ""
    profile: str = ""
    profile_used: bool = True


def check(photos: Photos, threads: int) -> list[Finding]:
    """Reads and decodes everything, with a progress bar."""
    count = len(photos)
    found: list[Finding] = []
    with (
        ahead.threads(threads) as pool,
        tqdm(total=count, unit="photo", dynamic_ncols=True) as bar,
    ):
        for start in range(0, count, _BLOCK):  # Submitting all photos at once would fill memory.
            for finding in pool.map(
                lambda i: _look(photos, i), range(start, min(start + _BLOCK, count))
            ):
                found.append(finding)
                bar.update()
    return found


def _look(photos: Photos, index: int) -> Finding:
    name = photos.name(index)
    try:
        photo = decode.open_photo(photos[index].image)
        pixels = photo.pixels(128, 128)  # A reduced photo is enough: its size is in the header.
        profile = photo.profile
        return Finding(
            name, photo.height, photo.width, is_gray(pixels),
            profile=profile.name, profile_used=not profile.broken,
        )  # fmt: skip
    except (DataError, OSError) as error:
        return Finding(name, reason=why(error))


def report(
    found: Sequence[Finding],
    left_out: Sequence[str] = (),
    *,
    scale: tuple[int, int],
    crop: int,
) -> str:
    """The findings as text.

    Args:
        found: what `check` returned.
        left_out: what else the sources hold, from `Photos.left_out`.
        scale, crop: training's settings: the shortest side becomes an integer in [scale[0],
            scale[1]).
    """
    good = [f for f in found if not f.reason]
    bad = [f for f in found if f.reason]
    lines = [f"{len(found):,} photos, {len(good):,} readable, {len(bad):,} not"]
    for reason, count in collections.Counter(f.reason for f in bad).most_common(10):
        lines.append(f"  {count:,} x {shown(reason)}")
    lines += [shown(f"  {f.name}: {f.reason}") for f in bad[:20]]
    if len(bad) > 20:
        lines.append(f"  and {len(bad) - 20:,} more")
    lines += [f"photos by ending: {_endings(found)}", *map(shown, left_out)]
    if not good:
        return "\n".join(lines)
    shortest = np.array([min(f.height, f.width) for f in good])
    longest = np.array([max(f.height, f.width) for f in good])
    gray = np.mean([f.gray for f in good])
    last = scale[1] - 1
    lines += [
        f"gray: {gray:.1%}" + ("; without color there is nothing to learn" if gray == 1 else ""),
        *_profiles(good),
        f"shortest side: {_quantiles(shortest)}",
        f"longest side:  {_quantiles(longest)}",
        f"with scale {scale[0]} to {last} and crops of {crop}:",
        f"  enlarged whatever the draw: {np.mean(shortest < scale[0]):.1%}, "
        f"sometimes: {np.mean((shortest >= scale[0]) & (shortest < last)):.1%}, "
        f"never: {np.mean(shortest >= last):.1%}",
        f"  enlarged more than twice at the largest draw: {np.mean(shortest * 2 < last):.1%}",
        f"  at least twice too large at the smallest draw, so reduced first: "
        f"{np.mean(shortest >= 2 * scale[0]):.1%}",
        f"  share of a photo that one crop shows: {_shown(shortest, longest, scale, crop):.0%} on "
        "average",
    ]
    return "\n".join(lines)


def _endings(found: Sequence[Finding]) -> str:
    """The number of photos with each ending of the name, as text."""
    counts = collections.Counter(record.ending(f.name) or "without one" for f in found)
    said = [f"{count:,} {ending}" for ending, count in counts.most_common(10)]
    return ", ".join(said) + (", ..." if len(counts) > 10 else "")


def _profiles(good: Sequence[Finding]) -> list[str]:
    """Lines that count the color profiles, and those that are ignored."""
    lines = []
    for used, what in ((True, "used"), (False, "ignored")):
        names = collections.Counter(f.profile for f in good if f.profile and f.profile_used == used)
        if names:
            counts = ", ".join(f"{count:,} x {name}" for name, count in names.most_common(10))
            lines.append(shown(f"color profiles, {what}: {counts}"))
    return lines


def _quantiles(values: np.ndarray) -> str:
    low, quarter, half, rest, high = np.percentile(values, (0, 25, 50, 75, 100)).astype(int)
    return f"{low} to {high} pixels, half of them {quarter} to {rest}, median {half}"


def _shown(shortest: np.ndarray, longest: np.ndarray, scale: tuple[int, int], crop: int) -> float:
    drawn = np.arange(*scale)[:, None]
    return float((crop**2 / (drawn * (drawn * longest / shortest))).mean())
