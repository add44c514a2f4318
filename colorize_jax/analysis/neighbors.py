r"""Shows the photos that features find alike: random photos with their nearest neighbors.

python -m colorize_jax.extract --checkpoint=/ckpt/vgg16 --source=/data/val --output=learned
python -m colorize_jax.extract --checkpoint=/ckpt/vgg16 --source=/data/val --output=random \
    --random_start=0
python -m colorize_jax.analysis neighbors --features=learned --features=random \
    --source=/data/val --output=neighbors

Several features of the same photos stand side by side. Writes index.html, which needs no network,
PNGs of the same, and neighbors.json. See docs/analysis.md.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib

import numpy as np

from colorize_jax import command_line
from colorize_jax.colorize import pages
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError, DataError, shown
from colorize_jax.features import crops
from colorize_jax.features.feature_files import Features
from colorize_jax.features.neighbors import nearest
from colorize_jax.files import atomic_write_bytes, atomic_write_text
from colorize_jax.log import say_once
from colorize_jax.paths import argument
from colorize_jax.training import pictures

PAGE, NUMBERS = "index.html", "neighbors.json"
_TEMPLATE = pathlib.Path(__file__).with_name("pages") / "neighbors.html"
_SIDE = 128  # pixels of a photo on the pages
_GAP = 3  # pixels between photos on a PNG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add(
        "--features", required=True, action="append", type=argument, metavar="FOLDER",
        help="that extract wrote; give the flag again for others of the same photos",
    )  # fmt: skip
    add("--label", action="append", default=[], help="of each, on the page; default: the folder")
    add("--source", required=True, help="the photos that the features are of")
    add("--output", required=True, type=argument, help="a folder for the pages")
    add("--layer", default="", help="of all features; default: the only one they have")
    add("--queries", type=int, default=24, help="random photos whose neighbors are shown")
    add("--neighbors", type=int, default=5, help="of each")
    add("--seed", type=int, default=0, help="chooses the queries")
    add("--per_page", type=int, default=8, help="queries on a PNG")


def main(asked: argparse.Namespace) -> None:
    """Finds the neighbors and writes the pages."""
    if len(asked.label) not in (0, len(asked.features)):
        raise ConfigError(
            f"--features is given {len(asked.features)} times and --label {len(asked.label)} "
            "times: give each once for every network, or no label"
        )
    labels = asked.label or [os.path.basename(path.rstrip("/")) for path in asked.features]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"--label: the labels {', '.join(labels)} must differ")
    if asked.per_page < 1 or asked.seed < 0:
        raise ConfigError("--per_page must be at least 1, and --seed not negative")
    opened = [Features(path) for path in asked.features]
    layer = asked.layer or _only_layer(opened[0])
    names = _names(opened, layer)
    if not 0 < asked.queries <= len(names):
        raise ConfigError(
            f"--queries={asked.queries}: give 1 to {len(names)}, the photos there are"
        )
    queries = np.random.default_rng(asked.seed).permutation(len(names))[: asked.queries]
    found = {
        label: nearest(features.layer(layer), queries, asked.neighbors)
        for label, features in zip(labels, opened, strict=True)
    }
    photos = Shown(asked.source, names)
    numbers = {
        "features": dict(zip(labels, asked.features, strict=True)),
        "layer": layer, "source": asked.source, "photos": len(names), "seed": asked.seed,
        "same_class": same_class(opened[0].labels, queries, found),
        "queries": [
            {
                "photo": names[query],
                "neighbors": {
                    label: [
                        {"photo": names[i], "cosine": float(cosine)}
                        for i, cosine in zip(near[row], cosines[row], strict=True)
                    ]
                    for label, (near, cosines) in found.items()
                },
            }
            for row, query in enumerate(queries)
        ],
    }  # fmt: skip
    output = pathlib.Path(asked.output)
    output.mkdir(parents=True, exist_ok=True)
    written = _write(output, numbers, photos, asked.per_page)
    for path in written:
        command_line.say(str(path))
    for line in _said(numbers):
        say_once(line)


class Shown:
    """Small squares of photos, by the names that features have of them.

    Args:
        source: as of `sources.open_all`.
        names: the names that will be asked for.

    Raises:
        DataError: the source lacks one of them, or has two of a name.
    """

    def __init__(self, source: str, names: Sequence[str]):
        self._photos, self._numbers = sources.open_all(source), {}
        asked = set(names)
        for number in range(len(self._photos)):
            name = self._photos.name(number)
            if name in asked and name in self._numbers:
                raise DataError(
                    f"--source={source} has two photos called {shown(name)}: name the source that "
                    "the features are of"
                )
            self._numbers[name] = number
        if missing := [name for name in names if name not in self._numbers]:
            raise DataError(
                f"--source={source} has no photo {shown(missing[0])}, and {len(missing)} of "
                f"{len(names)} photos of the features are not there: name the source that they "
                "were extracted from"
            )

    def __call__(self, name: str) -> np.ndarray:
        """uint8 [128, 128, 3]; DataError if the photo can no longer be read."""
        pixels, reason = crops.central(self._photos, self._numbers[name], _SIDE, _SIDE)
        if pixels is None:
            raise DataError(f"{shown(name)} can no longer be read: {reason}")
        return pixels


def same_class(labels: np.ndarray, queries: np.ndarray, found: dict) -> dict[str, float] | None:
    """{label: the share of the neighbors of queries with a class that are of that class}; None
    where no query has a class."""
    rows = np.flatnonzero(labels[queries] >= 0)
    if not len(rows):
        return None
    classes = labels[queries[rows]][:, None]
    return {
        label: float((labels[near[rows]] == classes).mean()) for label, (near, _) in found.items()
    }


def _only_layer(features: Features) -> str:
    if len(features.layers) == 1:
        return features.layers[0]
    raise ConfigError(
        f"--layer: {features.path} has the layers {', '.join(features.layers)}: choose one"
    )


def _names(opened: Sequence[Features], layer: str) -> list[str]:
    """The names of the photos, which are the same in all features."""
    first = opened[0]
    for features in opened:
        if layer not in features.layers:
            raise ConfigError(
                f"--layer: {features.path} has no layer {layer!r}; it has "
                f"{', '.join(features.layers)}"
            )
        if features.names != first.names:
            other = set(features.names) ^ set(first.names)
            what = f"{len(other)} photos are in one of them alone" if other else "in another order"
            raise ConfigError(
                f"{first.path} and {features.path} are not of the same photos ({what}): extract "
                "both from one source"
            )
    return first.names


def _write(output: pathlib.Path, numbers: dict, photos: Shown, per_page: int) -> list[pathlib.Path]:
    """Writes all files; returns their paths."""
    for old in output.glob("neighbors-[0-9][0-9][0-9].png"):
        old.unlink()
    sections, rows, pngs = [], [], []
    queries, labels = numbers["queries"], list(numbers["features"])
    for query in queries:
        own = photos(query["photo"])
        near = {
            label: [photos(one["photo"]) for one in query["neighbors"][label]] for label in labels
        }
        sections.append(_section(query, own, near))
        panels = [own, *(_row(photos_of) for photos_of in near.values())]
        rows.append(pictures.Row(query["photo"], panels))
        if len(rows) == per_page or len(sections) == len(queries):
            pngs.append(output / f"neighbors-{len(pngs) + 1:03}.png")
            page = pictures.page(rows, ("query", *labels))
            atomic_write_bytes(pngs[-1], pictures.png(page))
            rows = []
    title = f"Nearest neighbors by {numbers['layer']}"
    values = {
        "heading": pages.text(title),
        "about": "<br>".join(map(pages.text, _about(numbers))),
        "sections": "\n".join(sections),
    }
    atomic_write_text(output / NUMBERS, json.dumps(numbers, indent=1) + "\n")
    html = pages.fill(_TEMPLATE, title, values)
    atomic_write_bytes(output / PAGE, html.encode("utf-8", "replace"))
    return [output / PAGE, *pngs, output / NUMBERS]


def _about(numbers: dict) -> list[str]:
    features = ", ".join(f"{label}: {path}" for label, path in numbers["features"].items())
    return [
        f"{len(numbers['queries'])} random photos (seed {numbers['seed']}) of "
        f"{numbers['photos']:,}, and of each those others whose features have the largest cosine "
        "with its own, which is below each.",
        f"Photos: {numbers['source']}. Features: {features}.",
        *_said(numbers),
    ]


def _said(numbers: dict) -> list[str]:
    """How many neighbors are of the query's class."""
    if numbers["same_class"] is None:
        return []
    shares = ", ".join(f"{label} {share:.0%}" for label, share in numbers["same_class"].items())
    return [f"Of the neighbors shown, so many are of the photo's own class: {shares}."]


def _row(photos: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    return np.concatenate([part for photo in photos for part in (photo, gap)][:-1], 1)


def _section(query: dict, own: np.ndarray, near: dict[str, list[np.ndarray]]) -> str:
    def figure(pixels, name, caption=""):
        name = pages.text(name)
        return (
            f'<figure><img src="{pages.uri(pixels)}" alt="{name}" title="{name}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    groups = [f"<div><h4>query</h4>{figure(own, query['photo'])}</div>"]
    for label, photos in near.items():
        figures = "".join(
            figure(pixels, one["photo"], f"{one['cosine']:.3f}")
            for pixels, one in zip(photos, query["neighbors"][label], strict=True)
        )
        groups.append(f'<div><h4>{pages.text(label)}</h4><div class="near">{figures}</div></div>')
    return (
        f'<section class="photo"><h3>{pages.text(query["photo"])}</h3>'
        f'<div class="panels">{"".join(groups)}</div></section>'
    )
