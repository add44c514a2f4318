"""Batches of crops through grain; batch k is a pure function of (seed, k), whoever computes it."""

from collections.abc import Iterator
import dataclasses
import logging

from absl import flags
import grain
import numpy as np

from colorize_jax.data import decode, transforms
from colorize_jax.data.sources import Source, Subset
from colorize_jax.errors import ConfigError, DataError

_REPLACEMENTS = 20


@dataclasses.dataclass(frozen=True)
class TrainingExamples:
    """Random crops by position: an endless sequence, shuffled anew in every pass over the source.

    Position p of the run always gives the same pixels. A photo that cannot be read is replaced by
    another one, drawn by (seed, position), so that all other positions stay as they are.
    """

    source: Source
    seed: int
    scale: tuple[int, int]
    crop: int
    mirror: bool

    def __post_init__(self):
        order = grain.MapDataset.range(len(self.source.names)).seed(self.seed).shuffle().repeat()
        object.__setattr__(self, "_order", order)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, position))
        image = self._open(position)
        window = transforms.random_window(
            rng, image.height, image.width, scale=self.scale, crop=self.crop, mirror=self.mirror
        )
        return _example(image, window, position)

    def _open(self, position: int):
        index = self._order[position]
        # Its own stream: a replaced photo must not shift the draws of the crop.
        rng = np.random.default_rng((self.seed, position, 1))
        for _ in range(_REPLACEMENTS):
            try:
                return decode.open_rgb(self.source[index].image)
            except (DataError, OSError) as error:
                logging.warning("cannot read %s: %s", self.source.names[index], error)
                index = int(rng.integers(len(self.source.names)))
        raise DataError(
            f"{_REPLACEMENTS} photos in a row could not be read, the last one "
            f"{self.source.names[index]}: is the source damaged or gone?"
        )


@dataclasses.dataclass(frozen=True)
class EvaluationExamples:
    """Photos in order, each the middle at the scale of the crop.

    Beyond the last photo, and for one that cannot be read, the example is black and not valid.
    """

    source: Source
    crop: int

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        if position < len(self.source.names):
            try:
                image = decode.open_rgb(self.source[position].image)
                window = transforms.central_window(image.height, image.width, self.crop)
                return _example(image, window, position)
            except (DataError, OSError) as error:
                logging.warning("cannot read %s: %s", self.source.names[position], error)
        black = np.zeros((self.crop, self.crop, 3), np.uint8)
        return {"image": black, "position": np.int64(position), "valid": np.bool_(False)}


def _example(image, window, position):
    pixels = transforms.cut(image, window)
    return {"image": pixels, "position": np.int64(position), "valid": np.bool_(True)}


@dataclasses.dataclass(frozen=True)
class HostRows:
    """What one of several hosts reads: contiguous rows of every batch of the one global order.

    Global batch k is the positions k B to k B + B - 1 for any number of hosts; each of the H hosts
    takes B / H of them, in the order of the hosts.
    """

    examples: TrainingExamples | EvaluationExamples
    batches: int
    batch_size: int
    host: int
    hosts: int

    def __len__(self) -> int:
        return self.batches * self.batch_size // self.hosts

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rows = self.batch_size // self.hosts
        batch, row = divmod(index, rows)
        return self.examples[batch * self.batch_size + self.host * rows + row]


def training_batches(
    source: Source, config, *, start: int, stop: int, host: int = 0, hosts: int = 1
) -> Iterator[dict]:
    """This host's rows of the batches `start` to `stop` of the run that `config` describes.

    Returns:
        A grain iterator (close it) of {"image": [rows, crop, crop, 3] uint8, "position": [rows]
        int64, "valid": [rows] bool}.
    """
    data = config.data
    examples = TrainingExamples(source, config.seed, tuple(data.scale), data.crop, data.mirror)
    return _batches(HostRows(examples, stop, data.batch_size, host, hosts), data, start)


def evaluation_batches(
    source: Source, config, *, photos: int, host: int = 0, hosts: int = 1
) -> Iterator[dict]:
    """This host's rows of (at most `photos`) held-out photos; rows past the last are not valid."""
    data = config.data
    count = min(photos, len(source.names))
    examples = EvaluationExamples(Subset(source, np.arange(count)), data.crop)
    batches = -(-count // data.batch_size)
    return _batches(HostRows(examples, batches, data.batch_size, host, hosts), data, 0)


def _batches(rows: HostRows, data, start: int) -> Iterator[dict]:
    batches = grain.MapDataset.source(rows).batch(rows.batch_size // rows.hosts)[start:]
    options = grain.ReadOptions(
        num_threads=data.threads, prefetch_buffer_size=max(2 * data.threads, 2)
    )
    batches = batches.to_iter_dataset(options)
    if data.workers:
        if not flags.FLAGS.is_parsed():  # grain reads a flag of its own; in a notebook none is
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=data.workers))
    return iter(batches)


def check(data) -> None:
    """ConfigError, with the field's name, if crops of that size cannot be had."""
    low, high = data.scale
    if not 0 < low < high:
        raise ConfigError(
            f"config.data.scale={tuple(data.scale)} must be (smallest, end) with 0 < smallest < "
            "end; the end itself is never drawn"
        )
    if data.crop > low:
        raise ConfigError(
            f"config.data.crop={data.crop} is larger than the smallest scale, "
            f"config.data.scale[0]={low}: such a photo has no such crop"
        )
    if data.crop < 1 or data.threads < 0 or data.workers < 0:
        raise ConfigError("config.data.crop must be positive, threads and workers not negative")
