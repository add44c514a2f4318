"""The pages of `analysis top`: numbers, PNGs and HTML."""

from collections.abc import Sequence
import math
import pathlib

import numpy as np

from colorize_jax.analysis import peaks, units
from colorize_jax.colorize import pages
from colorize_jax.training import pictures

_TEMPLATE = pathlib.Path(__file__).with_name("pages") / "top.html"
_GAP = 3  # pixels between patches
_MEANING = {
    units.REUSED: "The unit answers as it did: a correlation of {1:g} or more.",
    units.SPECIALIZED: "The unit answers alike, but not the same: a correlation from {0:g} to "
    "below {1:g}.",
    units.REPLACED: "The unit answers something else: a correlation below {0:g}.",
    units.DEAD: "The unit is constant in one of the networks.",
}


def names(networks: int) -> tuple[str, ...]:
    """What the patches of one or two networks are called."""
    return ("before", "after") if networks > 1 else ("patches",)


def numbers(found, chosen: Sequence[int], photos, thresholds: tuple[float, float]) -> dict:
    """What top.json holds of units.

    Args:
        found: a `top.Found`.
        chosen: the units to show, which are some of `found.rows`.
        photos: that were seen.
        thresholds: of `units.kinds`.

    Returns:
        "photos" (seen), "left_out", "thresholds" and "kinds" ({kind: units of the whole layer};
        with two networks), and "units" with their patches, and the "spread" of color and mean
        "chroma" of those of the first network; they are in the order of `units.KINDS` and of their
        correlation if there are two networks.
    """
    result = {"photos": found.seen, "left_out": found.left_out}
    entries, kinds = [], None
    spread, chroma = peaks.color_spread(found.best[0]), peaks.mean_chroma(found.best[0])
    if found.correlation is not None:
        kinds = units.kinds(found.correlation, *thresholds)
        result["thresholds"] = list(thresholds)
        result["kinds"] = {kind: int((kinds == kind).sum()) for kind in units.KINDS}
    for unit in chosen:
        row = int(np.flatnonzero(found.rows == unit)[0])
        entry = {
            "unit": int(unit),
            "spread": _or_none(spread[row]),
            "chroma": _or_none(chroma[row]),
        }
        if kinds is not None:
            r = _or_none(found.correlation[unit])
            entry |= {"kind": str(kinds[unit]), "correlation": r}
        for name, best in zip(names(len(found.best)), found.best, strict=True):
            entry[name] = [
                {
                    "photo": photos.name(int(best.photo[row, i])),
                    "peak": float(best.value[row, i]),
                    "corner": [int(found.where.starts[k])
                               for k in divmod(int(best.cell[row, i]), len(found.where.starts))],
                }
                for i in np.flatnonzero(best.answered[row])
            ]  # fmt: skip
        entries.append(entry)
    if kinds is not None:
        entries.sort(key=lambda e: (units.KINDS.index(e["kind"]), -(e["correlation"] or 0)))
    return result | {"units": entries}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def about(entry: dict) -> str:
    """A line about a unit."""
    parts = []
    if "kind" in entry:
        r = entry["correlation"]
        parts.append(entry["kind"] + ("" if r is None else f", correlation {r:.2f}"))
    for name in ("patches", *names(2)):
        if name in entry:
            values = [patch["peak"] for patch in entry[name]]
            span = f"peaks {values[0]:.3g} to {values[-1]:.3g}" if values else "no answer"
            parts.append(f"{name}: {span}" if "kind" in entry else span)
    if entry["spread"] is not None:
        parts.append(f"spread of color {entry['spread']:.1f}, chroma {entry['chroma']:.1f}")
    return "; ".join(parts)


def row(entry: dict, patches: Sequence[Sequence[np.ndarray]], layer: str) -> pictures.Row:
    """A unit on a PNG: a panel of patches of each network."""
    side = math.ceil(math.sqrt(max(map(len, patches)))) if len(patches) > 1 else 0
    window = next((p.shape[0] for own in patches for p in own), pictures.SMALLEST)
    panels = [_grid(own, side or max(len(own), 1), window) for own in patches]
    return pictures.Row(f"{layer}, unit {entry['unit']}", panels, about(entry))


def _grid(patches: Sequence[np.ndarray], columns: int, window: int) -> np.ndarray:
    lines = max(-(-len(patches) // columns), 1)
    step = window + _GAP
    grid = np.full((lines * step - _GAP, columns * step - _GAP, 3), 255, np.uint8)
    for i, patch in enumerate(patches):
        y, x = (k * step for k in divmod(i, columns))
        grid[y : y + window, x : x + window] = patch
    return grid


def section(entry: dict, patches: Sequence[Sequence[np.ndarray]]) -> str:
    """A unit on the HTML page."""
    lines = []
    for name, own in zip(names(len(patches)), patches, strict=True):
        images = "".join(
            f'<img src="{pages.uri(patch)}" title="{pages.text(told["photo"])}, peak '
            f'{told["peak"]:.3g}" alt="{pages.text(told["photo"])}">'
            for patch, told in zip(own, entry[name], strict=True)
        )
        heading = f"<h4>{name}</h4>" if len(patches) > 1 else ""
        lines.append(f'<div>{heading}<div class="patches">{images or "no answer"}</div></div>')
    return (
        f'<section class="photo"><h3>unit {entry["unit"]}</h3><p class="muted">'
        f'{pages.text(about(entry))}</p><div class="networks">{"".join(lines)}</div></section>'
    )


def page(found: dict, sections: Sequence[str]) -> str:
    """The HTML page of all `sections`, in the order of `found["units"]`."""
    title = f"What units of {found['layer']} answer"
    body, last = [], None
    for entry, html in zip(found["units"], sections, strict=True):
        kind = entry.get("kind")
        if kind != last:
            meaning = _MEANING[kind].format(*found["thresholds"])
            body.append(f"<h2>{kind.capitalize()}</h2><p>{meaning}</p>")
            last = kind
        body.append(html)
    values = {
        "heading": pages.text(title),
        "about": "<br>".join(map(pages.text, description(found))),
        "sections": "\n".join(body),
    }
    return pages.fill(_TEMPLATE, title, values)


def description(found: dict) -> list[str]:
    """Lines that say what is shown, and how it was found."""
    field = found["receptive_field"]
    sees = "the whole crop" if field == "all" else f"{field} x {field} pixels"
    count = max(len(e.get("before", e.get("patches"))) for e in found["units"])
    lines = [
        f"Shown are {found['rule']}: {len(found['units'])} units. Of each there are up to {count} "
        f"of {found['photos']:,} photos, those that it answers most, with one patch of each photo, "
        "around the strongest answer. Where the network sees gray, the patch is in the photo's "
        "colors.",
        f"Photos are scaled to a shortest side of {found['shortest']} pixels; the network sees "
        f"{found['crop']} x {found['crop']} in their middle. A patch is the {found['window']} x "
        f"{found['window']} pixels around the middle of the receptive field, which is {sees}; at "
        "the border of the seen part it is moved inside.",
        f"Around maps stands: {' | '.join(dict.fromkeys(found['padding']))}.",
        f"Network: {found['checkpoint']}" + (f"; after: {found['after']}" * bool(found["after"])),
        f"Photos: {found['source']}"
        + f"; left out: {found['left_out']:,}" * bool(found["left_out"]),
    ]
    return lines + summary(found)


def summary(found: dict) -> list[str]:
    """With two networks: how many units of the layer are of which kind."""
    if "kinds" not in found:
        return []
    low, high = found["thresholds"]
    total = sum(found["kinds"].values())
    counts = ", ".join(f"{n:,} {kind} ({n / total:.0%})" for kind, n in found["kinds"].items())
    return [
        f"Of all {total:,} units of the layer: {counts}. By the correlation of the answers before "
        f"and after, over all positions of all photos: reused from {high:g}, replaced below "
        f"{low:g}, specialized in between; dead: constant in one of the networks."
    ]
