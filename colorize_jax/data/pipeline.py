"""Batches of crops through grain; batch k is a pure function of (seed, k), whoever computes it."""

from collections.abc import Iterator
import dataclasses
import threading

from absl import flags
import grain
import numpy as np

from colorize_jax.data import canvases, views
from colorize_jax.data import workers as processes
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.data.views import EvaluationView, Reading, View, Whole
from colorize_jax.errors import ConfigError, DataError, why

GOOD = -1  # in a batch's "bad": this row is the photo it should be
CLOSING_SECONDS = 5.0
_REPLACEMENTS = 20


@dataclasses.dataclass(frozen=True)
class TrainingExamples:
    """Random views by position: an endless sequence, shuffled anew in every pass over the photos.

    Position p of the run always gives the same pixels. A photo that cannot be read, or whose mask
    cannot be, is replaced by another one, drawn by (seed, position), so that all other positions
    stay as they are.
    """

    photos: Photos | Labelled
    seed: int
    view: View

    def __post_init__(self):
        object.__setattr__(self, "order", self.photos.order(self.seed))

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        index, bad = self.order[position], GOOD
        # Its own stream: a replaced photo must not shift the draws of anything else.
        others = _rng(self.seed, position, stream=1)
        for _ in range(_REPLACEMENTS):
            try:
                seen = self.view(self.photos[index], _rng(self.seed, position, stream=0))
                return seen | _row(position, bad=bad)
            except (DataError, OSError) as error:
                last = f"{self.photos.name(index)} ({why(error)})"
                bad = index if bad == GOOD else bad
                index = int(others.integers(len(self.photos)))
        raise DataError(
            f"{_REPLACEMENTS} photos in a row could not be read, the last one {last}: is the "
            "source damaged or gone?"
        )


@dataclasses.dataclass(frozen=True)
class EvaluationExamples:
    """The first `count` photos in order, each by the same view.

    Beyond the last photo, and for one that cannot be read, the example is black and not valid.
    """

    photos: Photos | Labelled
    count: int
    seed: int
    view: EvaluationView

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        index = position if position < self.count else canvases.NONE
        return _seen(self.photos, index, self.seed, self.view) | {"position": np.int64(position)}


@dataclasses.dataclass(frozen=True)
class WholeExamples:
    """Whole photos, row by row of a plan. The rows that fill up a batch are black and not valid."""

    photos: Labelled
    plan: canvases.Plan
    seed: int
    reading: Reading

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        batch, column = divmod(row, self.plan.rows.shape[1])
        view = Whole(self.plan.canvases[batch], self.reading)
        return _seen(self.photos, int(self.plan.rows[batch, column]), self.seed, view)


def _seen(
    photos: Photos | Labelled, index: int, seed: int, view: EvaluationView
) -> dict[str, np.ndarray]:
    bad = GOOD
    if index != canvases.NONE:
        try:
            return view(photos[index], _rng(seed, index, stream=2)) | _row(index, bad=GOOD)
        except (DataError, OSError):
            bad = index
    blank = view.blank(photos.unreadable())
    return blank | _row(index, bad=bad) | {"valid": np.bool_(False)}


def _rng(seed: int, position: int, *, stream: int) -> np.random.Generator:
    """Independent of all other positions: the lowest word of the counter is Philox's own."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, position, stream, 0]))


def _row(position: int, *, bad: int) -> dict[str, np.ndarray]:
    return {"position": np.int64(position), "valid": np.bool_(True), "bad": np.int64(bad)}


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

    examples: TrainingExamples | EvaluationExamples | WholeExamples
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
    photos: Photos | Labelled,
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
        int64, "valid": [rows] bool, "bad": [rows] int64}, and, where the photos have them, "mask":
        [rows, crop, crop] uint8 or "labels": [rows, ...]; "bad" is the number of the photo that
        could not be read and was replaced, or `GOOD`.
    """
    data = config.data
    examples = TrainingExamples(photos, config.seed, views.training_view(config))
    rows = HostRows(examples, stop, data.batch_size, host, hosts)
    workers = data.workers if workers is None else workers
    return Batches(iter(in_workers(rows, start, _options(data), workers)))


def evaluation_batches(
    photos: Photos | Labelled, config, *, limit: int, host: int = 0, hosts: int = 1
) -> Batches:
    """This host's rows of (at most `limit`; 0: all) held-out photos, as config.eval.view has it.

    Rows past the last photo, and of photos that cannot be read, are not valid: black, void, with
    labels of zero. Views of several crops give "image": [rows, 10, crop, crop, 3]. Whole photos
    come with "size": [rows, 2] int32 and grouped by their canvas (see canvases.py): batches differ
    in shape, "position" is the number of the photo, and -1 where there is none.
    """
    data = config.data
    count = min(limit or len(photos), len(photos))
    if config.eval.view == "whole":
        reading = views.reading(config)
        plan = canvases.plan(
            photos, count, batch_size=data.batch_size, crop=data.crop, reading=reading,
            threads=data.threads,
        )  # fmt: skip
        examples, batches = WholeExamples(photos, plan, config.seed, reading), len(plan.rows)
    else:
        view = views.evaluation_view(config)
        examples = EvaluationExamples(photos, count, config.seed, view)
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
    processes.free_at_exit()
    options = grain.MultiprocessingOptions(num_workers=workers)
    return batches.mp_prefetch(options, worker_init_fn=processes.prepare)


def check(config) -> None:
    """ConfigError, with the field's name, if such photos, labels and views cannot be had."""
    data = config.data
    views.check(config)
    for name, kinds in (
        ("split", ("masks", "lists", "folders")),
        ("eval_split", ("masks", "lists", "folders")),
        ("sbd", ("masks",)),
        ("per_class", ("folders",)),
    ):
        if data[name] and data.labels not in kinds:
            raise ConfigError(
                f"config.data.{name}={data[name]!r} says nothing about photos with config.data."
                f"labels={data.labels!r}; it is for {' or '.join(map(repr, kinds))}"
            )
