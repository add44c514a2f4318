"""What `score` shows: the table, and a page with the worst and the best photos."""

from collections.abc import Callable, Mapping, Sequence
import math

import numpy as np

from colorize_jax.colorize import pages, scoring

# {number: (heading, its form)}, in the order of the table.
COLUMNS = {
    "auc": ("AuC", "{:.4f}"),
    "auc_rebalanced": ("AuC rebal.", "{:.4f}"),
    "psnr": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "rmse_ab": ("RMSE ab", "{:.2f}"),
    "colorfulness": ("colorful", "{:.1f}"),
    "colorfulness_difference": ("off by", "{:.1f}"),
    "top1": ("top-1", "{:.1%}"),
    "top5": ("top-5", "{:.1%}"),
}
_SIDE = 300  # of a photo on the page
_DRAWN = 8  # photos of each kind on the page

REMARK = (
    "AuC: area under the curve of raw accuracy, over the pixels of all photos; rebalanced: every "
    "pixel weighs 1 / frequency of its true color. Most pixels of most photos have little color, "
    "so that gray scores high on AuC, PSNR and SSIM: compare with that row. RMSE ab: per photo, of "
    "a and b, then the root of the mean square. Colorful: Hasler and Suesstrunk's number, of which "
    "more is not better; off by: mean distance per photo from the truth's."
)


def cell(name: str, value: float) -> str:
    """A number as the table shows it."""
    return "-" if math.isnan(value) else COLUMNS[name][1].format(value)


def table(summary: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The lines of the table, for a terminal."""
    names = [name for name in COLUMNS if name in next(iter(summary.values()))]
    width = max(map(len, summary)) + 2
    lines = ["".ljust(width) + "".join(f"{COLUMNS[name][0]:>12}" for name in names)]
    for row, numbers in summary.items():
        cells = (f"{cell(name, numbers[name]):>12}" for name in names)
        lines.append(row.ljust(width) + "".join(cells))
    return lines


def choose(order: Sequence[str], seed: int) -> dict[str, list[str]]:
    """{kind: names of photos} for the page, of names from the worst on: nothing is picked by hand,
    and no photo stands there twice."""
    number = min(_DRAWN, max(len(order) // 4, 1))
    middle = max((len(order) - number) // 2, 0)
    wanted = {
        "worst": list(order[:number]),
        "best": list(order[::-1][:number]),
        "middle": list(order[middle : middle + number]),
    }
    chosen: dict[str, list[str]] = {}
    taken: set[str] = set()
    for kind, names in wanted.items():
        chosen[kind] = [name for name in names if name not in taken]
        taken.update(chosen[kind])
    rest = sorted(set(order) - taken)
    drawn = np.random.default_rng(seed).permutation(len(rest))[:number]
    chosen["drawn by chance"] = [rest[i] for i in drawn]
    return {kind: names for kind, names in chosen.items() if names}


def page(
    title: str,
    about: str,
    scorer: scoring.Scorer,
    summary: Mapping[str, Mapping[str, float]],
    chosen: Mapping[str, Sequence[str]],
    photos: Callable[[str], Mapping[str, np.ndarray]],
    remarks: Sequence[str],
) -> str:
    """The page.

    Args:
        title: its heading.
        about: what was compared, in a sentence or two.
        scorer: with all photos added.
        summary: rows of the table.
        chosen: from `choose`.
        photos: name -> {row: uint8 photo}.
        remarks: lines below the table.
    """
    names = [name for name in COLUMNS if name in next(iter(summary.values()))]
    sections = []
    for kind, own in chosen.items():
        shown = "\n".join(_photo(name, scorer, photos(name)) for name in own)
        sections.append(f"<h2>{pages.text(kind.capitalize())}</h2>\n{shown}")
    rows = [
        f'<tr class="{"baseline" if row in scoring.BASELINES else "colored"}">'
        f"<td>{pages.text(row)}</td>"
        + "".join(f"<td>{cell(name, numbers[name])}</td>" for name in names)
        + "</tr>"
        for row, numbers in summary.items()
    ]
    return pages.fill(
        "scores",
        title,
        {
            "heading": pages.text(title),
            "about": pages.text(about),
            "columns": "<th></th>" + "".join(f"<th>{COLUMNS[name][0]}</th>" for name in names),
            "rows": "\n".join(rows),
            "remarks": "<br>".join(map(pages.text, remarks)),
            "sections": "\n".join(sections),
        },
    )


def _photo(name: str, scorer: scoring.Scorer, photos: Mapping[str, np.ndarray]) -> str:
    panels = []
    for row in (scoring.GRAY, *scorer.rows, scoring.TRUTH):
        numbers = scorer.scores[row].photos[name]
        said = row if row == scoring.TRUTH else (
            f"{row}: AuC {numbers['auc']:.3f}, PSNR {numbers['psnr']:.1f} dB"
        )  # fmt: skip
        source = pages.uri(pages.shrunk(photos[row], _SIDE))
        panels.append(
            f'<figure><img src="{source}" alt="{pages.text(row)}">'
            f"<figcaption>{pages.text(said)}</figcaption></figure>"
        )
    return (
        f'<div class="photo"><h3>{pages.text(name)}</h3>'
        f'<div class="panels">{"".join(panels)}</div></div>'
    )
