r"""Computes the features of photos by a pretrained network and writes them to disk.

python -m colorize_jax.extract --checkpoint=/ckpt/vgg16 --source=/data/imagenet --split=train \
    --layers=conv5_3,fc7 --output=train

The output is a folder with one array [photos, channels] for every layer, such as fc7.npy, and
index.json with the names of the photos, their labels (-1: none) and the classes. It may be larger
than memory. `python -m colorize_jax.probe` reads it.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
import sys

import numpy as np
from tqdm import tqdm

from colorize_jax import command_line, help
from colorize_jax.data import ahead, sources, voc
from colorize_jax.data.class_folders import ClassFolders, share_of_names
from colorize_jax.data.names import Names
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ColorizeError, ConfigError, DataError, printable
from colorize_jax.features import crops
from colorize_jax.paths import argument

_NORM_PHOTOS = 256  # for the averages of batch norm of a random start


@dataclasses.dataclass(frozen=True)
class Extraction:
    """The settings of an extraction.

    Attributes:
        layers: the names of layers; () takes the top layer.
        pool: the pooling over positions: "mean", "max", "grid" or "none"; see
            `features.make_extractor`.
        values: the largest number of values of a photo and layer with "grid".
        shortest: the shortest side of a photo is scaled to this many pixels.
        crop: the side of the central crop that the network sees.
        squeeze: whether the whole photo is resized to this square instead.
        batch_size: the smallest number of photos in a batch over all devices.
        split: a folder that the photos must be in; see `features.folder_classes`.
        per_class: the number of photos of every class, at most, that a hash of the name and `seed`
            chooses, as in `probe.some_labels`; 0: all, those without a label too.
        seed: of this choice.
    """

    layers: tuple[str, ...] = ()
    pool: str = "mean"
    values: int = 9600
    shortest: int = 256
    crop: int = 224
    squeeze: bool = False
    batch_size: int = 32
    split: str = ""
    per_class: int = 0
    seed: int = 0


def _say(text: str) -> None:
    tqdm.write(printable(text), file=sys.stderr)


def extract(
    checkpoint: str,
    photos: Photos,
    output: str,
    extraction: Extraction,
    threads: int = 8,
    say: Callable[[str], None] = _say,
    objects: tuple[np.ndarray, Sequence[str]] | None = None,
    network: tuple | None = None,
) -> tuple[int, int]:
    """Writes the features of photos, with a progress bar; reports photos that cannot be read.

    Args:
        checkpoint: a run's workdir or one step folder in its `checkpoints`.
        photos: photos from `sources.open_all`.
        output: see `feature_files.Writer`.
        extraction: the settings.
        threads: the number of threads that read and decode.
        say: prints which photos are left out, and why.
        objects: which classes every photo shows, int8 [photos, classes], or the number of its
            class, [photos]; and the names of the classes. None takes folders as classes.
        network: the encoder and its variables, if they were loaded and changed; None loads those of
            the checkpoint.

    Returns:
        The numbers of photos that were written and left out.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ConfigError: a setting is invalid.
        DataError: no photo is in the split, or none of them can be read.
    """
    import colorize_jax
    from colorize_jax.features import feature_files

    _check(extraction)
    names = [photos.name(index) for index in range(len(photos))]
    numbers, labels, classes = _chosen(names, extraction, objects)
    if not len(numbers):
        raise DataError(
            f"--split={extraction.split}: no photo lies in such a folder; the first one is "
            f"{names[0]}"
        )
    compute, shapes, rows = _compile(network or colorize_jax.load_encoder(checkpoint), extraction)
    left_out = 0

    def readable(bar) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position in the split, pixels) of every readable photo."""
        nonlocal left_out
        with ahead.threads(threads) as pool:
            read = functools.partial(_read, photos, extraction)
            found = ahead.in_order(pool, read, numbers.tolist(), 2 * rows + threads)
            for position, (pixels, reason) in enumerate(found):
                bar.update()
                if pixels is None:
                    left_out += 1
                    say(f"left out: {names[numbers[position]]}: {reason}")
                else:
                    yield position, pixels

    with (
        feature_files.Writer(output, classes, shapes) as writer,
        tqdm(total=len(numbers), unit="photo", dynamic_ncols=True) as bar,
    ):

        def write(positions, computed):
            values = {layer: np.asarray(v)[: len(positions)] for layer, v in computed.items()}
            writer.add([names[numbers[i]] for i in positions], labels[positions], values)

        waiting = None  # A batch is computed while the next one is read.
        for positions, image in crops.batches(readable(bar), rows, extraction.crop):
            computed = compute(image)
            if waiting is not None:
                write(*waiting)
            waiting = positions, computed
        if waiting is None:
            raise DataError("none of the photos could be read")
        write(*waiting)
    return len(numbers) - left_out, left_out


def _compile(
    network: tuple, extraction: Extraction
) -> tuple[Callable[[np.ndarray], dict], dict[str, tuple[int, ...]], int]:
    """Compiles the network for all devices.

    Returns:
        compute: uint8 [rows, crop, crop, 3] -> {layer: features on the devices}; it does not wait.
        shapes: {layer: shape of one photo's features}.
        rows: the number of photos in a batch, a multiple of the number of devices.
    """
    import jax

    from colorize_jax.features import features
    from colorize_jax.training import sharding

    encoder, variables = network
    layers = extraction.layers or (encoder.top,)
    extractor = features.make_extractor(encoder, layers, extraction.pool, extraction.values)
    mesh = sharding.make_mesh()
    rows = -(-extraction.batch_size // mesh.size) * mesh.size
    batch = jax.ShapeDtypeStruct((rows, extraction.crop, extraction.crop, 3), np.uint8)
    maps = jax.eval_shape(features.make_extractor(encoder, layers, "none"), variables, batch)
    if small := [layer for layer in layers if 0 in maps[layer].shape]:
        raise ConfigError(f"--crop={extraction.crop} is too small for {', '.join(small)}")
    shapes = {k: v.shape[1:] for k, v in jax.eval_shape(extractor, variables, batch).items()}
    variables = jax.device_put(variables, sharding.replicated(mesh))
    compiled = jax.jit(extractor)

    def compute(image):
        return compiled(variables, sharding.put_batch({"image": image}, mesh)["image"])

    return compute, shapes, rows


def _chosen(names, extraction, objects):
    """The photos of the split: their numbers, labels or objects, and the names of the classes."""
    from colorize_jax.features import features

    if objects is None:
        numbers, labels, classes = features.folder_classes(names, extraction.split)
    else:
        numbers, (labels, classes) = np.arange(len(names)), objects
    if extraction.per_class:
        some = share_of_names(
            (names[i] for i in numbers), labels, extraction.seed, per_class=extraction.per_class
        )
        numbers, labels = numbers[some], labels[some]
    return numbers, labels, classes


def some_batches(
    photos: Photos,
    extraction: Extraction,
    count: int,
    objects: tuple[np.ndarray, Sequence[str]] | None = None,
) -> Iterator[np.ndarray]:
    """Batches, uint8 [rows, crop, crop, 3], of `count` photos of the split that their names decide.

    The last one is left out if it is not full, unless it is the only one. See `extract`.
    """
    names = [photos.name(index) for index in range(len(photos))]
    numbers, *_ = _chosen(names, extraction, objects)
    order = Names.of(os.fsencode(names[i]) for i in numbers).hashes().argsort(kind="stable")
    found = (_read(photos, extraction, i)[0] for i in numbers[order[:count]].tolist())
    images = [image for image in found if image is not None]
    rows = min(extraction.batch_size, len(images))
    for start in range(0, len(images) - rows + 1, rows or 1):
        yield np.stack(images[start : start + rows])


def _read(photos: Photos, extraction: Extraction, index: int) -> tuple[np.ndarray | None, str]:
    """The central crop of a photo and "", or None and the reason why it cannot be read."""
    return crops.central(photos, index, extraction.shortest, extraction.crop, extraction.squeeze)


def random_start(
    checkpoint: str,
    seed: int,
    photos: Photos,
    extraction: Extraction,
    objects: tuple[np.ndarray, Sequence[str]] | None = None,
) -> tuple:
    """The encoder of a checkpoint, with batch norm, and variables as before any training.

    The averages of batch norm are those of some of the photos, since random weights have none that
    would fit. See `extract` for the arguments.
    """
    from colorize_jax.checkpoints import reading
    from colorize_jax.features import features
    from colorize_jax.models import registry

    _check(extraction)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"--random_start={seed}: give a seed from 0 to {2**32 - 1}")
    encoder = reading.saved_encoder(checkpoint).clone(norm="batch")
    batches = some_batches(photos, extraction, _NORM_PHOTOS, objects)
    return encoder, features.with_fresh_norm(
        encoder, registry.random_variables(encoder, seed), batches
    )


def open_photos(source: str, split: str, labels: str):
    """The photos to extract, and their labels or objects with the names of classes, or None.

    See `extract`. A TFDS data set has its classes itself, and its own splits.
    """
    if labels == "folders":
        if source.startswith("tfds:"):
            with contextlib.suppress(DataError):  # Without classes, its photos have no labels.
                photos, classes = ClassFolders(source).split(split)
                return photos, (photos.labels, classes)
        return sources.open_all(source), None
    if labels != "lists":
        raise ConfigError(f"--labels={labels}: known: folders, lists")
    if not split:
        raise ConfigError("--labels=lists: name a list of the devkit, as in --split=trainval")
    photos, classes = voc.open_listed(voc.open_devkit(source), split)
    return photos, (photos.labels, classes)


def _check(extraction: Extraction) -> None:
    if not 0 < extraction.crop <= extraction.shortest:
        raise ConfigError(
            f"--crop={extraction.crop} --shortest={extraction.shortest}: the crop must be positive "
            "and no larger than the shortest side"
        )
    if extraction.values < 1:
        raise ConfigError(f"--values={extraction.values} must be at least 1")
    if extraction.batch_size < 1:
        raise ConfigError(f"--batch_size={extraction.batch_size} must be at least 1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and extracts."""
    parser = help.Parser("python -m colorize_jax.extract", description=__doc__)
    usual = Extraction()
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=argument,
        help="a run's workdir, or one of its checkpoints/<step>",
    )
    add("--source", required=True, help=f"{sources.KINDS}; A,B joins several")
    add("--output", required=True, type=argument, help="a folder for the features")
    add("--layers", default="", help="as in conv5_3,fc7; default: the top one")
    add("--pool", default=usual.pool, help="over positions: mean, max, grid or none")
    add("--values", type=int, default=usual.values, help="of a photo and layer in grid, at most")
    add("--shortest", type=int, default=usual.shortest, help="side that photos are scaled to")
    add("--crop", type=int, default=usual.crop, help="side of the middle that is seen")
    add("--squeeze", action="store_true", help="resize the whole photo to the crop instead")
    add("--batch_size", type=int, default=usual.batch_size, help="photos at a time")
    add(
        "--split", default="",
        help="only photos in a folder of this name; their class is the next folder",
    )  # fmt: skip
    add(
        "--labels", default="folders",
        help="folders, or lists: those of a PASCAL VOC devkit, with --split=trainval, say",
    )  # fmt: skip
    add("--threads", type=int, default=os.cpu_count(), help="that read and decode")
    add(
        "--random_start", type=int, metavar="SEED",
        help="random weights instead, to compare with",
    )  # fmt: skip
    settings = parser.parse_args(arguments)
    try:
        photos, objects = open_photos(settings.source, settings.split, settings.labels)
        for line in photos.left_out():
            _say(line)
        extraction = Extraction(
            layers=tuple(name.strip() for name in settings.layers.split(",") if name.strip()),
            pool=settings.pool,
            values=settings.values,
            shortest=settings.shortest,
            crop=settings.crop,
            squeeze=settings.squeeze,
            batch_size=settings.batch_size,
            split=settings.split,
        )
        network = None
        if settings.random_start is not None:
            network = random_start(
                settings.checkpoint, settings.random_start, photos, extraction, objects
            )
        written, left_out = extract(
            settings.checkpoint, photos, settings.output, extraction, max(settings.threads, 1),
            objects=objects, network=network,
        )  # fmt: skip
    except (ColorizeError, OSError) as error:
        sys.exit(f"error: {error}")
    command_line.say(f"features of {written:,} photos in {settings.output}, {left_out:,} left out")


if __name__ == "__main__":
    command_line.interruptible(main)
