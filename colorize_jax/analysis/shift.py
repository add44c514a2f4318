r"""Measures how far training moves the features of a network, layer by layer (Figure 3).

python -m colorize_jax.analysis shift --before=/ckpt/vgg16 --after=/ckpt/vgg16_seg \
    --source=val.txt --output=shift

Of every channel, the correlation of its activations in the two networks, at the same positions of
the same photos; of every layer, the median and the quartiles of its channels. The photos, here
those that a text file lists, should be held out. --before and --after may come several times, for
several pairs in one plot. The output is a folder with shift.json and shift.png.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from colorize_jax import command_line
from colorize_jax.data import ahead, sources
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.features import crops
from colorize_jax.files import atomic_write_text
from colorize_jax.log import say
from colorize_jax.paths import argument

RANDOM = "two random networks"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Where activations are compared.

    Attributes:
        photos: how many photos of the source are looked at, chosen by the seed. 0: all.
        positions: the number of random positions in every photo.
        border: no position is closer than so many pixels to the border of the crop.
        shortest: the shortest side of a photo is scaled to this many pixels.
        crop: the side of the central crop that the networks see.
        batch_size: the number of photos at a time.
        seed: chooses photos and positions, and the random networks.
        threads: the number of threads that read and decode.
    """

    photos: int = 500
    positions: int = 128
    border: int = 32
    shortest: int = 256
    crop: int = 224
    batch_size: int = 16
    seed: int = 0
    threads: int = 8


class Pair(NamedTuple):
    """Two networks of one architecture.

    Attributes:
        label: what the plot calls them.
        before, after: of `networks.Network`.
    """

    label: str
    before: Any
    after: Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    usual, add = Sampling(), parser.add_argument
    for name, what in (("before", "before"), ("after", "after the training that is looked at")):
        add(
            f"--{name}", required=True, action="append", type=argument,
            help=f"checkpoint {what}: a run's workdir, or one of its checkpoints/<step>",
        )  # fmt: skip
    add("--label", action="append", default=[], help="of each pair, in the plot")
    add("--source", required=True, help="photos of any kind in docs/data.md; A,B joins several")
    add("--output", required=True, type=argument, help="folder for shift.json and shift.png")
    add("--layers", default="", help="as in conv5_3,fc7; default: all layers with weights")
    for name, about in _HELP.items():
        default = os.cpu_count() if name == "threads" else getattr(usual, name)
        add(f"--{name}", type=int, default=default, metavar="N", help=about)
    add("--no_baseline", action="store_true", help="without the row of two random networks")


_HELP = {
    "photos": "of the source, chosen by the seed; 0: all",
    "positions": "in every photo, at random",
    "border": "pixels from the border of the crop without positions",
    "shortest": "side that photos are scaled to",
    "crop": "side of the middle that is seen",
    "batch_size": "photos at a time",
    "seed": "of photos, positions and random networks",
    "threads": "that read and decode",
}


def main(asked: argparse.Namespace) -> None:
    """Measures, prints the table, and writes the results and the plot."""
    from colorize_jax.analysis import networks, shift_plot

    if not len(asked.before) == len(asked.after) == len(asked.label or asked.before):
        raise ConfigError(
            f"--before is given {len(asked.before)} times, --after {len(asked.after)} times and "
            f"--label {len(asked.label)} times: give each once for every pair (or no label)"
        )
    names = {field.name: getattr(asked, field.name) for field in dataclasses.fields(Sampling)}
    sampling = Sampling(**names)
    check(sampling)
    labels = asked.label or [os.path.basename(path.rstrip("/")) for path in asked.after]
    if len(set(labels)) < len(labels) or RANDOM in labels:
        raise ConfigError(f"--label: the labels {', '.join(labels)} must differ")
    pairs = [
        Pair(label, *(networks.load(path, zeros=True) for path in paths))
        for label, *paths in zip(labels, asked.before, asked.after, strict=True)
    ]
    layers = tuple(name.strip() for name in asked.layers.split(",") if name.strip())
    photos = sources.open_all(asked.source)
    for line in photos.left_out():
        say(line)
    found, read = measure(pairs, photos, sampling, layers, baseline=not asked.no_baseline)
    output = pathlib.Path(asked.output)
    output.mkdir(parents=True, exist_ok=True)
    result = {
        "pairs": {
            label: {"before": before, "after": after}
            for label, before, after in zip(labels, asked.before, asked.after, strict=True)
        },
        "source": asked.source,
        "photos_read": read,
        "sampling": dataclasses.asdict(sampling),
        "layers": found,
    }
    atomic_write_text(output / "shift.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    command_line.say(table(found))
    shift_plot.draw(found, output / "shift.png")
    command_line.say(f"{output}/shift.json and shift.png, from {read:,} photos of {asked.source}")


def check(sampling: Sampling) -> None:
    """ConfigError that names a setting without meaning."""
    s = sampling
    if not 0 < s.crop <= s.shortest:
        raise ConfigError(
            f"--crop={s.crop} --shortest={s.shortest}: the crop must be positive and no larger "
            "than the shortest side"
        )
    if not 0 <= 2 * s.border < s.crop:
        raise ConfigError(
            f"--border={s.border} leaves no position in a crop of {s.crop} pixels: take a smaller "
            "border or a larger --crop"
        )
    for name in ("positions", "batch_size"):
        if getattr(s, name) < 1:
            raise ConfigError(f"--{name}={getattr(s, name)} must be at least 1")
    for name in ("photos", "seed"):
        if getattr(s, name) < 0:
            raise ConfigError(f"--{name}={getattr(s, name)} must not be negative")


def measure(
    pairs: Sequence[Pair],
    photos: Photos,
    sampling: Sampling,
    layers: Sequence[str] = (),
    baseline: bool = True,
) -> tuple[dict[str, dict[str, dict]], int]:
    """The spread of the correlations of every layer, with a progress bar.

    Activations are those after ReLU. Memory does not grow with the number of photos.

    Args:
        pairs: pairs of networks, which all have these layers.
        photos: photos from `sources.open_all`.
        sampling: where activations are compared.
        layers: names of layers; () takes all with weights.
        baseline: whether to compare two random networks of the first pair's architecture too.

    Returns:
        {label: {layer: `correlation.Spread` as a dictionary, with None for NaN}}, and the number of
        photos that were read.

    Raises:
        ConfigError: a network has no such layer, the networks of a pair differ in more than their
            weights, or the crop is too small for a layer.
        DataError: no photo can be read.
    """
    import jax

    from colorize_jax.analysis import correlation, networks

    check(sampling)
    layers = tuple(layers) or pairs[0].before.encoder.layers
    for pair in pairs:
        networks.check_layers(pair.before.encoder, layers)
        networks.check_alike(pair.before, pair.after)
    pairs = [*pairs, _random(pairs[0].before, sampling)] if baseline else pairs
    compute = [_sums(pair, layers, sampling) for pair in pairs]
    totals: list[dict] = [dict.fromkeys(layers) for _ in pairs]

    photos = photos.some(min(sampling.photos or len(photos), len(photos)), sampling.seed)
    count = 0
    with (
        ahead.threads(sampling.threads) as pool,
        tqdm(total=len(photos), unit="photo", dynamic_ncols=True) as bar,
    ):

        def readable():
            read = functools.partial(
                crops.central, photos, shortest=sampling.shortest, crop=sampling.crop
            )
            waiting = 2 * sampling.batch_size + sampling.threads
            for number, (pixels, why) in enumerate(
                ahead.in_order(pool, read, range(len(photos)), waiting)
            ):
                bar.update()
                if pixels is None:
                    say(f"left out: {photos.name(number)}: {why}")
                else:
                    yield number, pixels

        for numbers, image in crops.batches(readable(), sampling.batch_size, sampling.crop):
            points = np.zeros((len(image), sampling.positions, 2), np.int32)
            points[: len(numbers)] = [_points(number, sampling) for number in numbers]
            valid = np.arange(len(image)) < len(numbers)
            count += len(numbers)
            for one, total in zip(compute, totals, strict=True):
                for layer, sums in jax.device_get(one(image, points, valid)).items():
                    total[layer] = correlation.merged(total[layer], sums)
    if not count:
        raise DataError("none of the photos could be read")
    return {
        pair.label: {layer: _plain(correlation, found[layer]) for layer in layers}
        for pair, found in zip(pairs, totals, strict=True)
    }, count


def _plain(correlation, sums) -> dict:
    found = correlation.spread(correlation.correlations(sums))._asdict()
    return {name: None if value != value else value for name, value in found.items()}


def _random(like, sampling: Sampling) -> Pair:
    """Two networks like this one, with other random weights each."""
    import jax

    from colorize_jax.analysis import networks

    side = max(sampling.crop, like.encoder.smallest_input)
    image = np.zeros((1, side, side, like.encoder.in_channels), np.float32)
    init = jax.jit(lambda key: like.encoder.init(key, image))
    keys = jax.random.split(jax.random.key(sampling.seed))
    return Pair(
        RANDOM,
        *(networks.prepared(RANDOM, like.encoder, init(key), like.crop, True) for key in keys),
    )


def _sums(pair: Pair, layers: Sequence[str], sampling: Sampling):
    """(photos, points, which photos count) -> {layer: `correlation.Sums` of the batch}.

    Raises:
        ConfigError: the crop is too small for a layer.
    """
    import jax
    import jax.numpy as jnp

    from colorize_jax.analysis import correlation

    both = pair.before, pair.after
    maps = [network.maps(layers) for network in both]
    held = [(network.variables, network.borders) for network in both]
    strides = pair.before.encoder.strides
    image = jax.ShapeDtypeStruct((1, sampling.crop, sampling.crop, 3), np.uint8)
    shapes = jax.eval_shape(maps[0], *held[0], image)
    if small := [layer for layer in layers if 0 in shapes[layer].shape]:
        raise ConfigError(f"--crop={sampling.crop} is too small for {', '.join(small)}")

    def sampled(activation, points, stride):
        """The cells at the points, [rows points, channels]."""
        last = jnp.array(activation.shape[1:3]) - 1
        y, x = jnp.moveaxis(jnp.minimum(points // stride, last), -1, 0)
        taken = activation[jnp.arange(len(activation))[:, None], y, x]
        return taken.reshape(-1, taken.shape[-1])

    @jax.jit
    def compute(held, image, points, valid):
        found = [one(*own, image) for one, own in zip(maps, held, strict=True)]
        valid = valid.repeat(points.shape[1])
        return {
            layer: correlation.sums(
                *(sampled(kept[layer], points, strides[layer]) for kept in found), valid
            )
            for layer in layers
        }

    return functools.partial(compute, held)


def _points(photo: int, sampling: Sampling) -> np.ndarray:
    """Random positions (y, x) of a photo in pixels, int [positions, 2]."""
    rng = np.random.Generator(np.random.Philox(key=sampling.seed, counter=[0, photo, 0, 0]))
    low, high = sampling.border, sampling.crop - sampling.border
    return rng.integers(low, high, (sampling.positions, 2))


def table(found: dict[str, dict[str, dict]]) -> str:
    """The medians with their quartiles, and the number of dead channels, as text."""
    (first, *_) = found.values()
    rows = [["layer", *found]]
    for layer in first:
        rows.append([layer, *(_cell(layers[layer]) for layers in found.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cell(spread: dict) -> str:
    dead = f", {spread['dead']} of {spread['channels']} dead" if spread["dead"] else ""
    if spread["median"] is None:
        return f"-{dead}"
    return f"{spread['median']:.3f} ({spread['low']:.3f} to {spread['high']:.3f}){dead}"
