"""Batches of crops through grain; batch k is a pure function of (seed, k), whoever computes it."""

from collections.abc import Iterator
import dataclasses
import threading

from absl import flags
import grain
import numpy as np

from colorize_jax.data import decode, transforms
from colorize_jax.data import workers as processes
from colorize_jax.data.sources import Photos
from colorize_jax.errors import ConfigError, DataError

GOOD = -1  # in a batch's "bad": this row is the photo it should be
CLOSING_SECONDS = 5.0
_REPLACEMENTS = 20


@dataclasses.dataclass(frozen=True)
class TrainingExamples:
    """Random crops by position: an endless sequence, shuffled anew in every pass over the photos.

    Position p of the run always gives the same pixels. A photo that cannot be read is replaced by
    another one, drawn by (seed, position), so that all other positions stay as they are.
    """

    photos: Photos
    seed: int
    scale: tuple[int, int]
    crop: int
    mirror: bool

    def __post_init__(self):
        object.__setattr__(self, "order", self.photos.order(self.seed))

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        index, bad = self.order[position], GOOD
        # Its own stream: a replaced photo must not shift the draws of anything else.
        others = _rng(self.seed, position, stream=1)
        for _ in range(_REPLACEMENTS):
            try:
                return _example(self._crop(index, position), position, bad=bad)
            except (DataError, OSError):
                bad = index if bad == GOOD else bad
                index = int(others.integers(len(self.photos)))
        raise DataError(
            f"{_REPLACEMENTS} photos in a row could not be read, the last one "
            f"{self.photos.name(index)}: is the source damaged or gone?"
        )

    def _crop(self, index: int, position: int) -> np.ndarray:
        photo = decode.open_photo(self.photos[index].image)
        rng = _rng(self.seed, position, stream=0)
        window = transforms.random_window(
            rng, photo.height, photo.width, scale=self.scale, crop=self.crop, mirror=self.mirror
        )
        return transforms.cut(photo.pixels(window.height, window.width), window)


@dataclasses.dataclass(frozen=True)
class EvaluationExamples:
    """The first `count` photos in order, each the middle at the scale of the crop.

    Beyond the last photo, and for one that cannot be read, the example is black and not valid.
    """

    photos: Photos
    count: int
    crop: int

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        bad = GOOD
        if position < self.count:
            try:
                photo = decode.open_photo(self.photos[position].image)
                window = transforms.central_window(photo.height, photo.width, self.crop)
                pixels = transforms.cut(photo.pixels(window.height, window.width), window)
                return _example(pixels, position, bad=GOOD)
            except (DataError, OSError):
                bad = position
        black = np.zeros((self.crop, self.crop, 3), np.uint8)
        return _example(black, position, bad=bad) | {"valid": np.bool_(False)}


def _rng(seed: int, position: int, *, stream: int) -> np.random.Generator:
    """Independent of all other positions: the lowest word of the counter is Philox's own."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, position, stream, 0]))


def _example(pixels: np.ndarray, position: int, *, bad: int) -> dict[str, np.ndarray]:
    return {
        "image": pixels,
        "position": np.int64(position),
        "valid": np.bool_(True),
        "bad": np.int64(bad),
    }


class Batches(Iterator[dict]):
    """A grain iterator whose closing does not wait for a reader that hangs on a dead disk."""

    def __init__(self, batches: grain.DatasetIterator):
        self._batches = batches

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._batches)

    def close(self) -> None:
        """Ends threads and processes; those that do not end within seconds are left behind."""
        thread = threading.Thread(target=self._batches.close, daemon=True)
        thread.start()
        thread.join(CLOSING_SECONDS)


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
    photos: Photos,
    config,
    *,
    start: int,
    stop: int,
    host: int = 0,
    hosts: int = 1,
    workers: int | None = None,
) -> Batches:
    """This host's rows of the batches `start` to `stop` of the run that `config` describes.

    Args:
        workers: processes that read, if not as many as the config says: none, where few batches are
            not worth starting some.

    Returns:
        An iterator (close it) of {"image": [rows, crop, crop, 3] uint8, "position": [rows]
        int64, "valid": [rows] bool, "bad": [rows] int64}; "bad" is the number of the photo that
        could not be read and was replaced, or `GOOD`.
    """
    data = config.data
    examples = TrainingExamples(photos, config.seed, tuple(data.scale), data.crop, data.mirror)
    rows = HostRows(examples, stop, data.batch_size, host, hosts)
    workers = data.workers if workers is None else workers
    return Batches(iter(in_workers(rows, start, _options(data), workers)))


def evaluation_batches(
    photos: Photos, config, *, limit: int, host: int = 0, hosts: int = 1
) -> Batches:
    """This host's rows of (at most `limit`) held-out photos; rows past the last are not valid."""
    data = config.data
    count = min(limit, len(photos))
    examples = EvaluationExamples(photos, count, data.crop)
    batches = -(-count // data.batch_size)
    rows = HostRows(examples, batches, data.batch_size, host, hosts)
    return Batches(iter(in_workers(rows, 0, _options(data), 0)))  # too few to start processes for


def _options(data) -> grain.ReadOptions:
    return grain.ReadOptions(
        num_threads=data.threads,
        prefetch_buffer_size=max(data.threads, 2),  # in batches
    )


def in_workers(
    rows: HostRows, start: int, options: grain.ReadOptions, workers: int
) -> grain.IterDataset:
    """Batches of rows from `start` on, read by so many processes; 0: by threads of this one."""
    batches = grain.MapDataset.source(rows).batch(rows.batch_size // rows.hosts)[start:]
    batches = batches.to_iter_dataset(options)
    if not workers:
        return batches
    if not flags.FLAGS.is_parsed():  # grain reads a flag of its own; in a notebook none is
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers)
    return batches.mp_prefetch(options, worker_init_fn=processes.prepare)


def check(data) -> None:
    """ConfigError, with the field's name, if crops of that size cannot be had."""
    scale = tuple(data.scale)
    if len(scale) != 2 or not all(isinstance(side, int) for side in scale):
        raise ConfigError(f"config.data.scale={scale} must be two whole numbers, as in (352,600)")
    low, high = scale
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
