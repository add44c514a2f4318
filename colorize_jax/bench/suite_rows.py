"""The rows of `bench suite`: what a process of its own measures, one after the other."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import gc
import os
import pathlib
import sys
import tempfile
import time
import traceback
from typing import Any

import numpy as np

from colorize_jax.errors import ColorizeError, ConfigError

Found = dict[str, Any]

# Of a network: recipe, settings, photos a device to begin with on an accelerator.
NETWORKS = {
    "vgg16": ("vgg16_col", {}, 64),
    "resnet152": ("resnet152_col", {}, 64),
    "alexnet": ("imagenet_subset_cls:random,alexnet", {"task.classes": 1000}, 256),
}
# The same rows with a network that is compiled in seconds, to try the suite itself.
_TINY = {"model.width": 0.03125, "model.fc6_kernel": 1}
_COLORS = {
    "model.name": "alexnet", "model.lrn": False, "model.hypercolumn": False, "model.hidden": 8,
    "data.crop": 64, "data.scale": (64, 96), "task.points": 8, "task.edge_buffer": 8,
}  # fmt: skip
DRY = {
    "vgg16": _TINY | _COLORS,
    "resnet152": _TINY | _COLORS,
    "alexnet": {"model.width": 0.03125, "task.classes": 4},
}
_DTYPES = ("bfloat16", "float32")
_TORCH_ROWS = 64  # at most: both libraries keep the memory that they have taken
_PHOTOS = 96  # that are written for the pipeline, where no source is given


@dataclasses.dataclass(frozen=True)
class Order:
    """What a row needs to know.

    Attributes:
        seconds: that it should take.
        found: by the rows before it, {row: results}.
        source: of photos for the pipeline; "": some are written.
        dry: whether only the suite itself is tried.
    """

    seconds: float
    found: Mapping[str, Found]
    source: str = ""
    dry: bool = False

    @property
    def measuring(self) -> float:
        """Seconds of one measurement."""
        return 0.02 if self.dry else min(3.0, max(0.5, self.seconds / 15))


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        title: of its section of the page.
        weight: its share of the time, beside those of the other rows.
        run: gives its results so far, ever more complete.
        alone: whether it needs a process to itself.
    """

    title: str
    weight: float
    run: Callable[[Order], Iterator[Found]]
    alone: bool = False


def config_of(network: str, dtype: str, dry: bool = False):
    """The settings of one of `NETWORKS`."""
    from colorize_jax.config.recipe import load_config
    from colorize_jax.models import registry

    recipe, settings, _ = NETWORKS[network]
    settings = settings | (DRY[network] if dry else {})
    # The name first, since it brings settings of its own.
    changes = [f"{name}={value}" for name, value in settings.items()]
    config = load_config(recipe, changes)
    config.model.dtype = dtype
    config.model.update(registry.by_depth(config.model))
    return config


def _device(order: Order) -> Iterator[Found]:
    import jax

    from colorize_jax.training import hardware

    # One size: a GPU's compiler tries many kernels for every one.
    sides = (64,) if order.dry else () if jax.default_backend() == "cpu" else (8192,)
    found: Found = {"matrix_rates": {}, "copy_rate": None}
    for dtype in _DTYPES:
        found["matrix_rates"][dtype] = hardware.matrix_rate(dtype, order.measuring, sides)
        yield found
    found["copy_rate"] = hardware.copy_rate(order.measuring, 2**20 if order.dry else 0)
    yield found


def _network(network: str, dtype: str) -> Callable[[Order], Iterator[Found]]:
    def run(order: Order) -> Iterator[Found]:
        import jax

        from colorize_jax.bench import step_speed
        from colorize_jax.training import memory

        until = time.monotonic() + order.seconds
        config = config_of(network, dtype, order.dry)
        first = 2 if jax.default_backend() == "cpu" else NETWORKS[network][2]
        most = first if order.dry else 1 << 14
        found: Found = {"crop": config.data.crop, "speeds": [], "ended": ""}
        taken = 0.0

        def sizes() -> Iterator[int]:
            nonlocal taken
            size = first
            while size <= most:
                began = time.monotonic()
                if found["speeds"] and began + 1.3 * taken > until:
                    found["ended"] = f"no time for {size} photos"
                    return
                yield size
                taken = time.monotonic() - began
                size *= 2
            found["ended"] = ""

        while first >= 1:
            try:
                for speed in step_speed.sweep(
                    config, sizes(), seconds=order.measuring,
                    say=lambda line: found.update(ended=line) if "memory" in line else None,
                ):  # fmt: skip
                    found["speeds"].append(dataclasses.asdict(speed))
                    yield found
                break
            except jax.errors.JaxRuntimeError as error:  # even the first batch
                if not memory.exhausted(error) or first == 1:
                    raise
                first, most = first // 2, first // 2
            gc.collect()
        found["ended"] = found["ended"] or "more photos were no faster"
        yield found

    return run


def best_speed(found: Mapping[str, Found], network: str) -> Found:
    """The fastest of all its rows; ConfigError if none was measured."""
    speeds = [
        speed
        for dtype in _DTYPES
        for speed in found.get(f"{network}-{dtype}", {}).get("speeds", [])
    ]
    if not speeds:
        raise ConfigError(f"no row of {network} was measured before")
    return max(speeds, key=photos_a_second)


def photos_a_second(speed: Found) -> float:
    """Of one measured batch size, on all devices."""
    return speed["rows"] * speed["devices"] / speed["step_seconds"]


def _profile(order: Order) -> Iterator[Found]:
    from colorize_jax.bench import kernel_times, kernels, step_speed

    best = best_speed(order.found, "vgg16")
    loaded = step_speed.Loaded(config_of("vgg16", best["dtype"], order.dry), best["rows"])
    profile = kernel_times.record(loaded.step)
    counted = kernels.count(loaded.compiled.as_text())
    yield {
        "dtype": best["dtype"],
        "rows": best["rows"],
        "step_seconds": profile.step_seconds,
        "busy_seconds": profile.busy_seconds,
        "kernels": [dataclasses.asdict(kernel) for kernel in profile.kernels[:200]],
        "table": kernel_times.table(profile, counted),
    }


def _pipeline(order: Order) -> Iterator[Found]:
    import jax

    from colorize_jax.bench import input_speed, step_speed
    from colorize_jax.data import sources

    config = config_of("vgg16", "bfloat16", order.dry)
    crop, cores = config.data.crop, os.cpu_count() or 1
    if jax.default_backend() == "cpu":
        config.data.threads = cores  # the step takes the cores, and processes would not help
    else:
        config.data.workers, config.data.threads = cores, 1
    found: Found = {
        "crop": crop,
        "source": order.source or "JPEGs of 500 x 375 pixels, cut from builtin:photos",
        "workers": config.data.workers, "threads": config.data.threads, "cores": cores,
        "host": {}, "synthetic": None, "fed": None,
    }  # fmt: skip
    # A process that reads comes up in seconds.
    seconds = order.measuring if order.dry else max(3.0, order.seconds / 6)
    with contextlib.ExitStack() as stack:
        small = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_photos(small, 8 if order.dry else _PHOTOS, (64, 64))
        source = order.source
        if not source:
            source = stack.enter_context(tempfile.TemporaryDirectory())
            write_photos(pathlib.Path(source), 8 if order.dry else _PHOTOS)
        photos, _ = sources.open_splits(source, 0.001)
        for side, these in ((crop, photos), (64, sources.open_splits(str(small), 0.001)[0])):
            alone = config.copy_and_resolve_references()
            alone.data.crop, alone.data.scale = side, (side, side * 600 // 352)
            alone.data.batch_size = 8 if order.dry else 256
            found["host"][str(side)] = input_speed.rate(these, alone, seconds)
            yield found
        best = best_speed(order.found, "vgg16")
        config.model.dtype = best["dtype"]
        speed = step_speed.measure(config, best["rows"], seconds=seconds, photos=photos)
        found |= {"dtype": best["dtype"], "rows": best["rows"]}
        yield found | {"synthetic": speed.photos, "fed": speed.fed}


def write_photos(folder: pathlib.Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """JPEGs of so many pixels, (width, height): random parts of the photos that come with
    scikit-image."""
    from PIL import Image

    from colorize_jax.data import builtin

    photos, rng = builtin.BuiltinPhotos(), np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(photos[number % len(photos.names)].image)
        share = rng.uniform(0.5, 1.0)
        width, height = (round(share * side) for side in image.size)
        left, top = (
            rng.integers(a - b + 1) for a, b in zip(image.size, (width, height), strict=True)
        )
        part = image.crop((left, top, left + width, top + height)).resize(size)
        part.save(folder / f"{number:04}.jpg", quality=90)


def _torch(network: str) -> Callable[[Order], Iterator[Found]]:
    def run(order: Order) -> Iterator[Found]:
        import jax

        from colorize_jax.bench import peers

        peers.check_torch()
        cpu = jax.default_backend() == "cpu"
        dtype = "float32" if cpu else "bfloat16"
        config = config_of(network, dtype, order.dry)
        try:
            speeds = order.found[f"{network}-{dtype}"]["speeds"]
            rows = min(max(speeds, key=photos_a_second)["rows"], _TORCH_ROWS)
        except (KeyError, ValueError):
            rows = 2 if cpu else _TORCH_ROWS
        found: Found = {"dtype": dtype, "rows": rows, "turns": []}
        modes = list(peers.MODES)[1:]  # channels_last, and then compiled
        for some in (modes[:1], modes) if not cpu else (modes[:1],):
            while True:
                try:
                    measured = peers.compare(
                        config, rows, some, seconds=order.measuring, rounds=1 if order.dry else 3
                    )
                    break
                except Exception as error:  # of either library
                    if rows == 1 or not peers.out_of_memory(error):
                        raise
                    rows = found["rows"] = rows // 2
                gc.collect()
            found["turns"].append({name: one.seconds for name, one in measured.items()})
            yield found

    return run


ROWS = {
    "device": Row("The device", 1, _device),
    **{
        f"{network}-{dtype}": Row(f"{title}, {dtype}", weight, _network(network, dtype))
        for dtype, weights in zip(_DTYPES, ((12, 14, 5), (4, 4, 2)), strict=True)
        for (network, title), weight in zip(
            (("vgg16", "VGG-16 at 352"), ("resnet152", "ResNet-152 at 224"),
             ("alexnet", "AlexNet at 227")), weights, strict=True,
        )
    },
    "profile": Row("The best step of VGG-16, kernel by kernel", 4, _profile),
    "pipeline": Row("VGG-16 from photos on disk", 8, _pipeline),
    "torch-vgg16": Row("VGG-16 in PyTorch", 8, _torch("vgg16"), alone=True),
    "torch-resnet152": Row("ResNet-152 in PyTorch", 8, _torch("resnet152"), alone=True),
}  # fmt: skip


def work(connection, cache: str) -> None:
    """Runs rows, as they are asked for through a pipe, to the end of the pipe.

    Takes (name, order) and gives ("part", results) while a row goes on, and then ("done", "") or
    ("failed", why).

    Args:
        connection: of multiprocessing.
        cache: folder of compiled programs, unless the environment names one.
    """
    os.setsid()  # so that what it starts ends with it
    import jax

    from colorize_jax.training import hardware

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", cache)
    connection.send(("device", {"hardware": hardware.describe(), "jax": jax.__version__}))
    while True:
        try:
            name, order = connection.recv()
        except (EOFError, OSError):
            return
        try:
            for found in ROWS[name].run(order):
                connection.send(("part", found))
            connection.send(("done", ""))
        except ColorizeError as error:
            connection.send(("failed", str(error)))
        except Exception as error:  # of any library: the other rows go on
            traceback.print_exc(file=sys.stderr)
            connection.send(("failed", f"{type(error).__name__}: {str(error)[:300]}"))
        gc.collect()
