r"""Measures speed on this machine, or counts what a training step costs on others.

python -m colorize_jax.bench data /data/photos
python -m colorize_jax.bench memory /data/photos --count=100000
python -m colorize_jax.bench cost --config=vgg16_col
python -m colorize_jax.bench step --config=vgg16_col --config.data.source=/data/photos
python -m colorize_jax.bench suite --minutes=5 --output=speed
python -m colorize_jax.bench peer --networks resnet50 --rows 4
"""

import os
import pathlib
import sys
import tempfile

from colorize_jax import command_line, help
from colorize_jax.bench import input_speed
from colorize_jax.config import default_config
from colorize_jax.data import pack, sources, splits
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.paths import argument


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and prints a table."""
    parser = help.Parser("python -m colorize_jax.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="images per second of the input pipeline")
    data.add_argument("source", metavar="SOURCE", help=sources.KINDS)
    data.add_argument(
        "--crops", type=int, nargs="+", default=(352, 224), help="sides to measure, in pixels"
    )
    data.add_argument("--count", type=int, default=400, help="photos of one measurement")
    data.add_argument("--workers", type=int, default=os.cpu_count(), help="most processes to try")
    data.add_argument("--repeats", type=int, default=5, help="measurements of each, of which the "
                      "median is shown")  # fmt: skip
    memory = commands.add_parser("memory", help="resident memory over a long read")
    memory.add_argument("source", metavar="SOURCE", help=sources.KINDS)
    memory.add_argument("--count", type=int, default=100_000, help="photos to read")
    memory.add_argument("--crop", type=int, default=352, help="side in pixels")
    memory.add_argument("--workers", type=int, default=0, help="processes that decode")
    _add_cost(commands)
    _add_step(commands)
    _add_peer(commands)
    _add_suite(commands)
    try:
        settings = command_line.parse(parser, arguments)
        if settings.command == "cost":
            print(_cost(settings))
            return
        if settings.command == "step":
            print(_step(settings))
            return
        if settings.command == "suite":
            _suite(settings)
            return
        if settings.command == "peer":
            print(_peer(settings))
            return
        photos, _ = sources.open_splits(settings.source, 0.001)
        if settings.command == "memory":
            config = default_config()
            config.data.crop = settings.crop
            config.data.scale = (settings.crop, settings.crop * 600 // 352)
            config.data.batch_size = 32
            config.data.workers = settings.workers
            config.data.threads = os.cpu_count()
            print(input_speed.memory(photos, config, settings.count))
            return
        with tempfile.TemporaryDirectory() as folder:
            pack.pack(sources.open_all(settings.source), folder, pack.Packing(), os.cpu_count())
            packed, _ = sources.open_splits(folder, 0.001)
            print(
                input_speed.table(
                    photos, packed, crops=tuple(settings.crops), count=settings.count,
                    workers=settings.workers, repeats=settings.repeats,
                )
            )  # fmt: skip
    except ColorizeError as error:
        sys.exit(f"error: {error}")


def _add_cost(commands) -> None:
    """Adds the command `cost`."""
    command = commands.add_parser(
        "cost", recipes=True,
        help="FLOPs, bytes and memory of a training step, and a model of its time",
    )  # fmt: skip
    command.add_argument(
        "--topology",
        default="",
        help="compile for devices that need not be there: v5e:2x4 is a TPU slice, h100 a GPU, "
        "h100:8 eight",
    )
    command.add_argument(
        "--rows", type=int, nargs=2, default=(8, 32), metavar="N",
        help="photos of one device in a step, few and many",
    )  # fmt: skip
    command.add_argument(
        "--photos", type=int, default=1_281_167, metavar="N",
        help="photos of the run, for which instances has a bank; default: those of ImageNet",
    )  # fmt: skip


def _add_step(commands) -> None:
    """Adds the command `step`."""
    command = commands.add_parser(
        "step", recipes=True,
        help="time, memory and arithmetic of training steps, on this machine",
    )  # fmt: skip
    command.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bfloat16"), metavar="DTYPE",
        default=("float32", "bfloat16"), help="to measure",
    )  # fmt: skip
    command.add_argument(
        "--rows", type=int, nargs="+", metavar="N", default=tuple(2**i for i in range(1, 13)),
        help="photos of one device in a step, growing; ends where more is no faster or too much",
    )  # fmt: skip
    command.add_argument("--seconds", type=float, default=6.0, help="to measure each for")


def _add_peer(commands) -> None:
    """Adds the command `peer`."""
    command = commands.add_parser(
        "peer", help="our step against the same step in PyTorch, in turns, on this machine"
    )
    command.add_argument(
        "--networks", nargs="+", metavar="NAME", default=("small", "alexnet", "resnet50", "vgg16"),
        choices=("small", "alexnet", "resnet50", "resnet152", "vgg16"),
        help="small (a quarter of VGG-16, 64 pixels), alexnet, resnet50, resnet152, vgg16",
    )  # fmt: skip
    command.add_argument("--rows", type=int, nargs="+", metavar="N", default=(2, 4, 8),
                         help="photos of a step")  # fmt: skip
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                         help="of the computation")  # fmt: skip
    command.add_argument("--seconds", type=float, default=3.0, help="of one turn of each")
    command.add_argument("--rounds", type=int, default=3, help="turns of each; medians are shown")


def _peer(settings) -> str:
    from colorize_jax.bench import peers
    from colorize_jax.log import say_once

    if min(*settings.rows, settings.rounds) < 1 or settings.seconds <= 0:
        raise ConfigError("--rows, --rounds and --seconds must be positive")
    peers.check_torch()
    load, measured = os.getloadavg()[0], []
    try:
        for found in peers.sweep(
            settings.networks, settings.rows, settings.dtype, seconds=settings.seconds,
            rounds=settings.rounds, say=say_once,
        ):  # fmt: skip
            measured.append(found)
    except KeyboardInterrupt:
        say_once("stopped; this is what was measured until then")
    return peers.report(measured, settings.dtype, load)


def _add_suite(commands) -> None:
    """Adds the command `suite`."""
    command = commands.add_parser(
        "suite", help="all of it on this machine's device, as far as some minutes reach: one page"
    )
    command.add_argument("--minutes", type=float, default=5.0, help="in all")
    command.add_argument("--output", required=True, type=argument,
                         help="folder for suite.md and suite.json; what is done there, on the same "
                         "device, is not measured again")  # fmt: skip
    command.add_argument("--only", action="append", default=[],
                         help="names of rows, or patterns of them, as in 'vgg16-*'")  # fmt: skip
    command.add_argument("--source", default="", help="photos for the pipeline; default: JPEGs "
                         "made of builtin:photos")  # fmt: skip
    command.add_argument("--dry-run", action="store_true",
                         help="tiny networks: tries the suite, and measures nothing")  # fmt: skip


def _suite(settings) -> None:
    from colorize_jax.bench import suite
    from colorize_jax.log import say

    if settings.minutes <= 0:
        raise ConfigError("--minutes must be positive")
    measured = suite.run(
        pathlib.Path(settings.output), settings.minutes, only=settings.only,
        source=settings.source, dry=settings.dry_run, say=say,
    )  # fmt: skip
    print(suite.page(measured))


def _step(settings) -> str:
    from colorize_jax.bench import step_speed
    from colorize_jax.log import say_once
    from colorize_jax.models import registry
    from colorize_jax.training import hardware

    if min(settings.rows) < 1 or settings.seconds <= 0:
        raise ConfigError("--rows and --seconds must be positive")
    config = settings.config
    config.model.update(registry.by_depth(config.model))
    photos, seconds = None, settings.seconds
    if config.data.source:
        splits.fall_back(config)
        opened = splits.open_splits(config)
        splits.ask_classes(config, opened)
        photos = opened.training
    speeds, rates = {}, {}
    try:
        for dtype in settings.dtypes:
            config.model.dtype = dtype
            rates[dtype] = hardware.matrix_rate(dtype)
            found = speeds[dtype] = []
            for speed in step_speed.sweep(
                config, sorted(settings.rows), seconds=seconds,
                say=lambda line, dtype=dtype: say_once(f"{dtype}: {line}"),
            ):  # fmt: skip
                found.append(speed)
            if photos is not None:
                best = found.index(step_speed.fastest(found))
                found[best] = step_speed.measure(
                    config, found[best].rows, seconds=seconds, photos=photos
                )
    except KeyboardInterrupt:
        say_once("stopped; this is what was measured until then")
    return step_speed.report(config, {d: found for d, found in speeds.items() if found}, rates)


def _cost(settings) -> str:
    # JAX starts only for the command that needs it.
    import jax

    from colorize_jax.bench import cost, kernels, scaling
    from colorize_jax.models import registry

    few, many = settings.rows
    if not 0 < few < many:
        raise ConfigError(f"--rows {few} {many}: two numbers of photos are needed, few and many")
    if settings.photos < 1:
        raise ConfigError(f"--photos={settings.photos} must be positive")
    config = settings.config
    config.model.update(registry.by_depth(config.model))
    config.microbatches = 1  # of several XLA counts one
    topology = settings.topology
    devices = cost.topology_devices(topology) if topology else jax.devices()[:1]
    counts, tables = [], []
    for rows in (few, many):
        compiled = cost.compile_step(config, rows, devices, settings.photos)
        counts.append(cost.count(compiled, rows))
        if cost.is_gpu(devices):
            counted = kernels.count(compiled.as_text())
            tables += [
                f"**{rows} photos a device, by kind of kernel**",
                kernels.report(counted, rows, kernels.H100, devices[0].device_kind),
            ]
    state = cost.plan_step(config, few, devices, settings.photos).abstract_state()
    kind = f"{len(devices)} x {devices[0].device_kind}"
    scaled = scaling.report(config.model.name, state, counts, config.model.dtype, kind)
    return "\n\n".join([scaled, *tables])


if __name__ == "__main__":
    command_line.interruptible(main)
