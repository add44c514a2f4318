"""How fast photos come: plain decoding, ours, the whole pipeline, on one core and on all."""

from collections.abc import Callable
import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import os
import statistics
import struct
import time

import grain
import numpy as np
from PIL import Image

from colorize_jax.data import decode, pipeline, profiles
from colorize_jax.data.pipeline import HostRows, TrainingExamples
from colorize_jax.data.sources import Photos
from colorize_jax.data.views import RandomWindow

_BATCH = 32


def table(
    photos: Photos,
    packed: Photos | None,
    *,
    crops: tuple[int, ...],
    count: int,
    workers: int,
    repeats: int,
) -> str:
    """Images per second as a Markdown table.

    Args:
        photos: to read, in random order.
        packed: the same photos from shards, or None.
        crops: sides to measure the whole pipeline at; the scale is 352 to 600 for 352 and in
            proportion for others.
        count: photos of one measurement on one core.
        workers: processes for the second column.
        repeats: of everything, in turn; the medians are shown.
    """
    rows: dict[str, tuple[Callable, Callable]] = {}

    def add(name, photos, make):
        rows[name] = (lambda: _one_core(make(photos), count), lambda: _many(photos, make))

    def _many(photos, make):
        examples = make(photos)
        if isinstance(examples, TrainingExamples):
            return _pipeline_in_workers(examples, count, workers)
        return _decoding_in_workers(examples, count, workers)

    add("Pillow, plain decoding", photos, PlainDecoding)
    add("our decoding", photos, Decoding)
    for name, profile in (("sRGB", profiles.srgb()), ("Adobe RGB", profiles.adobe_rgb())):
        make = functools.partial(Decoding, profile=profile)
        add(f"our decoding, JPEGs with a profile of {name}", photos, make)
    for crop in crops:
        scale = (crop, crop * 600 // 352)

        def make(photos, crop=crop, scale=scale):
            return TrainingExamples(photos, 0, RandomWindow(scale, crop, True))

        add(f"whole pipeline at {crop}", photos, make)
        if packed is not None:
            add(f"whole pipeline at {crop}, packed", packed, make)

    measured: dict[str, tuple[list, list]] = {name: ([], []) for name in rows}
    for _ in range(repeats):
        for name, (one, many) in rows.items():
            measured[name][0].append(one())
            measured[name][1].append(many())
    medians = {n: [statistics.median(x) for x in both] for n, both in measured.items()}
    plain = medians["Pillow, plain decoding"]
    lines = [
        f"| images/s | one core | cost, of plain decoding | {workers} processes | gain |",
        "|---|---|---|---|---|",
    ]
    for name, (one, many) in medians.items():
        lines.append(
            f"| {name} | {one:.0f} | {plain[0] / one:.2f} | {many:.0f} | {many / one:.2f} |"
        )
    return "\n".join(lines)


class PlainDecoding:
    """What everybody does: Pillow, RGB, an array."""

    def __init__(self, photos: Photos):
        self._photos = photos

    def __getitem__(self, position: int) -> np.ndarray:
        data = self._photos[position % len(self._photos)].image
        if isinstance(data, np.ndarray):
            return data
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class Decoding:
    """Our decoding at full size; JPEGs first get a color profile, if one is given."""

    def __init__(self, photos: Photos, profile: bytes = b""):
        self._photos = photos
        content = b"ICC_PROFILE\0\1\1" + profile
        self._segment = struct.pack(">HH", 0xFFE2, len(content) + 2) + content if profile else b""

    def __getitem__(self, position: int) -> np.ndarray:
        data = self._photos[position % len(self._photos)].image
        if self._segment and isinstance(data, bytes) and data.startswith(b"\xff\xd8"):
            data = data[:2] + self._segment + data[2:]
        return decode.decode(data)


def _one_core(examples, count: int) -> float:
    examples[0]
    began = time.perf_counter()
    for position in range(count):
        examples[position]
    return count / (time.perf_counter() - began)


def _pipeline_in_workers(examples: TrainingExamples, count: int, workers: int) -> float:
    batches = max(count // _BATCH, 2) * workers
    rows = HostRows(examples, batches + workers, _BATCH, 0, 1)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    data = iter(pipeline.in_workers(rows, 0, options, workers))
    for _ in range(workers):  # until every process has come up
        next(data)
    began = time.perf_counter()
    for _ in range(batches):
        next(data)
    seconds = time.perf_counter() - began
    for _ in data:  # what is left in shared memory would be reported as leaked
        pass
    data.close()
    return batches * _BATCH / seconds


_EXAMPLES = None


def _start(examples) -> None:
    global _EXAMPLES
    _EXAMPLES = examples
    examples[0]


def _work(positions: range) -> None:
    for position in positions:
        _EXAMPLES[position]


def _decoding_in_workers(examples, count: int, workers: int) -> float:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(examples,)
    ) as pool:
        list(pool.map(_work, [range(1)] * workers * 4))  # until every process has come up
        parts = [range(i, i + _BATCH) for i in range(0, count * workers, _BATCH)]
        began = time.perf_counter()
        list(pool.map(_work, parts))
        return sum(map(len, parts)) / (time.perf_counter() - began)


def rate(photos: Photos, config, seconds: float) -> float:
    """Photos a second of the whole pipeline with the config's processes and threads, no device.

    Measured for so long, after as many batches as the processes prepare at the start.
    """
    settle = 2 * max(1, config.data.workers)
    with contextlib.closing(
        pipeline.training_batches(photos, config, start=0, stop=1 << 20)
    ) as batches:
        for _ in range(settle):
            next(batches)
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds:
            next(batches)
            count += 1
        return count * config.data.batch_size / (time.perf_counter() - began)


def memory(photos: Photos, config, count: int) -> str:
    """Resident memory of this process while `count` photos pass through the pipeline."""
    with open("/proc/self/statm") as file:
        page = os.sysconf("SC_PAGE_SIZE")

        def resident():
            file.seek(0)
            return int(file.read().split()[1]) * page / 2**20

        stop = -(-count // config.data.batch_size)
        batches = pipeline.training_batches(photos, config, start=0, stop=stop)
        seen, early = [], min(stop - 1, 50)
        for index, _ in enumerate(batches):
            if index in (early, stop // 2):
                seen.append(resident())
        batches.close()
        seen.append(resident())
    return f"resident MiB after {early} batches, half of {stop}, all: " + ", ".join(
        f"{value:.0f}" for value in seen
    )
