"""Batches of crops through grain; batch k is a pure function of (seed, k), in any process."""

from collections.abc import Callable, Iterator
import dataclasses
import re
import threading

from absl import flags
import grain
import numpy as np

from colorize_jax import log
from colorize_jax.data import canvases, storage, views
from colorize_jax.data import workers as processes
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.record import Record
from colorize_jax.data.sources import Photos
from colorize_jax.data.views import EvaluationView, Example, Reading, TrainingView, Whole
from colorize_jax.errors import ConfigError, DataError, StorageError, WorkerError, why

GOOD = -1  # In a batch's "bad" it marks a row whose photo could be read.
CLOSING_SECONDS = 5.0
_REPLACEMENTS = 20
_WORKER_DIED = "Worker process was terminated unexpectedly"  # how grain's message begins


@dataclasses.dataclass(frozen=True)
class TrainingExamples:
    """Random views by position: an endless sequence, shuffled anew in every pass over the photos.

    Position p of the run always gives the same pixels. A photo is replaced if it or its mask cannot
    be read. The substitute is drawn from (seed, position), so that no other position changes. If
    the storage does not answer, the photo is not replaced: the read is tried again for
    `retry_seconds`. Several views of a photo have independent draws, and the first one equals the
    only view of a run with one view.
    """

    photos: Photos | Labelled
    seed: int
    view: TrainingView
    retry_seconds: float = 0.0
    views: int = 1

    def __post_init__(self):
        object.__setattr__(self, "order", self.photos.order(self.seed))

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return storage.wait_for_storage(lambda: self._at(position), self.retry_seconds)

    def _at(self, position: int) -> dict[str, np.ndarray]:
        index, bad, others = self.order[position], GOOD, None
        for _ in range(_REPLACEMENTS):
            try:
                photo = storage.read(self.photos, index)
                seen = self._seen(photo, position)
                return seen | _row(position, index, bad=bad)
            except (DataError, OSError) as error:
                last = f"{self.photos.name(index)} ({why(error)})"
                bad = index if bad == GOOD else bad
                # Substitutes have their own random stream, so that they do not shift other draws.
                others = others or _rng(self.seed, position, stream=1)
                index = int(others.integers(len(self.photos)))
        raise DataError(
            f"{_REPLACEMENTS} photos in a row could not be read, the last one {last}: is the "
            "source damaged or gone?"
        )

    def _seen(self, photo: Record, position: int) -> Example:
        if self.views == 1:
            return self.view(photo, _rng(self.seed, position, stream=0))
        rngs = [_rng(self.seed, position, stream=0, view=view) for view in range(self.views)]
        return views.several(self.view, photo, rngs)


@dataclasses.dataclass(frozen=True)
class EvaluationExamples:
    """The first `count` photos in order, all through the same view.

    An example past the last photo, or of a photo that cannot be read, is black and not valid.
    """

    photos: Photos | Labelled
    count: int
    seed: int
    view: EvaluationView
    retry_seconds: float = 0.0

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        index = position if position < self.count else canvases.NONE
        seen = _seen(self.photos, index, self.seed, self.view, self.retry_seconds)
        return seen | {"position": np.int64(position)}


@dataclasses.dataclass(frozen=True)
class WholeExamples:
    """Whole photos, row by row of a plan. The rows that fill up a batch are black and not valid."""

    photos: Labelled
    plan: canvases.Plan
    seed: int
    reading: Reading
    retry_seconds: float = 0.0

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        batch, column = divmod(row, self.plan.rows.shape[1])
        view = Whole(self.plan.canvases[batch], self.reading)
        index = int(self.plan.rows[batch, column])
        return _seen(self.photos, index, self.seed, view, self.retry_seconds)


def _seen(
    photos: Photos | Labelled, index: int, seed: int, view: EvaluationView, retry_seconds: float
) -> dict[str, np.ndarray]:
    bad = GOOD
    if index != canvases.NONE:
        try:
            photo = storage.wait_for_storage(lambda: storage.read(photos, index), retry_seconds)
            return view(photo, _rng(seed, index, stream=2)) | _row(index, index, bad=GOOD)
        except StorageError:
            raise
        except (DataError, OSError):
            bad = index
    blank = view.blank(photos.unreadable())
    # A row without a photo gets the number 0, so that code which indexes by it works; "valid" says
    # that the row does not count. -1 would index the last photo in some code and fail in other.
    return blank | _row(index, max(index, 0), bad=bad) | {"valid": np.bool_(False)}


def _rng(seed: int, position: int, *, stream: int, view: int = 0) -> np.random.Generator:
    """A generator that is independent of those of all other positions and views.

    The lowest word of the counter stays 0: Philox itself counts in it.
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, position, stream, view]))


def _row(position: int, photo: int, *, bad: int) -> dict[str, np.ndarray]:
    return {
        "position": np.int64(position), "photo": np.int64(photo), "valid": np.bool_(True),
        "bad": np.int64(bad),
    }  # fmt: skip


class Batches(Iterator[dict]):
    """A grain iterator; closing it does not wait for a reader that hangs on a dead disk.

    Args:
        batches: the iterator.
        again: makes a new iterator that continues after the given number of batches. It is called
            when a worker has died.
        restarts: how often that may happen.
    """

    def __init__(
        self,
        batches: grain.DatasetIterator,
        again: Callable[[int], grain.DatasetIterator] | None = None,
        restarts: int = 0,
    ):
        self._batches, self._again, self._restarts = batches, again, restarts
        self._given = self._died = 0

    def __next__(self) -> dict[str, np.ndarray]:
        while True:
            try:
                batch = next(self._batches)
            except RuntimeError as error:
                if self._again is None or _WORKER_DIED not in str(error):
                    raise
                self._start_again(str(error))
                continue
            self._given += 1
            return batch

    def _start_again(self, reason: str) -> None:
        """Starts new workers; they give the same batches, which depend only on their number."""
        self.close()
        self._died += 1
        found = re.search(r"exit code (-?\d+)", reason)
        what = f"a data worker died with exit code {found[1] if found else 'unknown'}"
        if self._died > self._restarts:
            # If the workers gave no batch at all, restarting the run would not help.
            kind = WorkerError if self._given else DataError
            raise kind(
                f"{what}, after workers were restarted {self._restarts} times "
                "(config.data.worker_restarts): -9 often means a lack of memory; fewer "
                "config.data.workers or config.data.threads need less"
            )
        log.say(f"{what}; workers are restarted, {self._died} of at most {self._restarts} times")
        self._batches = self._again(self._given)

    def close(self) -> None:
        """Ends threads and processes; it does not wait longer than `CLOSING_SECONDS` for them."""
        thread = threading.Thread(target=self._batches.close, daemon=True)
        thread.start()
        thread.join(CLOSING_SECONDS)


@dataclasses.dataclass(frozen=True)
class HostRows:
    """The rows that one of several hosts reads: a contiguous part of every global batch.

    Global batch k has the positions k B to k B + B - 1 for any number of hosts; each of the H hosts
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
        workers: the number of processes that read, in place of the config's; 0 suits few batches,
            for which starting processes takes too long.

    Returns:
        An iterator (close it) of {"image": [rows, crop, crop, 3] uint8, "position": [rows]
        int64, "photo": [rows] int64, "valid": [rows] bool, "bad": [rows] int64}, and, where the
        photos have them, "mask": [rows, crop, crop] uint8 or "labels": [rows, ...]. "photo" is the
        number in `photos` of the photo that is shown; "bad" is the number of the photo that could
        not be read and was replaced, or `GOOD`. With two or more `config.data.views` the image is
        [rows, views, crop, crop, 3].
    """
    data = config.data
    view = views.training_view(config)
    examples = TrainingExamples(photos, config.seed, view, data.retry_seconds, data.views)
    rows = HostRows(examples, stop, data.batch_size, host, hosts)
    workers = data.workers if workers is None else workers

    def behind(given: int) -> grain.DatasetIterator:
        return iter(in_workers(rows, start + given, _options(data), workers))

    return Batches(behind(0), behind, data.worker_restarts)


def evaluation_batches(
    photos: Photos | Labelled, config, *, limit: int, host: int = 0, hosts: int = 1
) -> Batches:
    """This host's rows of the first `limit` (0: all) held-out photos, seen by config.eval.view.

    Rows past the last photo, and rows of photos that cannot be read, are not valid: black, void,
    with labels of zero. "photo" is the number of the photo in `photos`, and 0 in rows without one.
    Views of several crops give "image": [rows, 10, crop, crop, 3]. Batches of whole photos also
    have "size", int32 [rows, 2], and are grouped by canvas size (see canvases.py), so their shapes
    differ; their "position" is the number of the photo, or -1 in rows without one.
    """
    data = config.data
    count = min(limit or len(photos), len(photos))
    if config.eval.view == "whole":
        reading = views.reading(config)
        plan = canvases.plan(
            photos, count, batch_size=data.batch_size, crop=data.crop, reading=reading,
            threads=data.threads, retry_seconds=data.retry_seconds,
        )  # fmt: skip
        examples = WholeExamples(photos, plan, config.seed, reading, data.retry_seconds)
        batches = len(plan.rows)
    else:
        view = views.evaluation_view(config)
        examples = EvaluationExamples(photos, count, config.seed, view, data.retry_seconds)
        batches = -(-count // data.batch_size)
    rows = HostRows(examples, batches, data.batch_size, host, hosts)
    # Held-out photos are too few to start processes for.
    return Batches(iter(in_workers(rows, 0, _options(data), 0)))


def _options(data) -> grain.ReadOptions:
    return grain.ReadOptions(
        num_threads=data.threads,
        prefetch_buffer_size=max(data.threads, 2),  # counted in batches
    )


def in_workers(
    rows: HostRows, start: int, options: grain.ReadOptions, workers: int
) -> grain.IterDataset:
    """Batches of rows from `start` on, read by `workers` processes; 0: by threads of this one."""
    batches = grain.MapDataset.source(rows).batch(rows.batch_size // rows.hosts)[start:]
    batches = batches.to_iter_dataset(options)
    if not workers:
        return batches
    if not flags.FLAGS.is_parsed():  # grain reads an absl flag, and a notebook parses none.
        flags.FLAGS.mark_as_parsed()
    processes.free_at_exit()
    options = grain.MultiprocessingOptions(num_workers=workers)
    return batches.mp_prefetch(options, worker_init_fn=processes.prepare)


def check(config) -> None:
    """Raises a ConfigError that names the setting if the settings of data do not fit together."""
    data = config.data
    views.check(config)
    for name, kinds in (
        ("split", ("masks", "lists", "folders")),
        ("eval_split", ("masks", "lists", "folders")),
        ("sbd", ("masks",)),
        ("per_class", ("folders",)),
        ("label_share", ("folders",)),
        ("relabel", ("folders",)),
    ):
        if data[name] and data.labels not in kinds:
            raise ConfigError(
                f"config.data.{name}={data[name]!r} says nothing about photos with config.data."
                f"labels={data.labels!r}; it is for {' or '.join(map(repr, kinds))}"
            )
