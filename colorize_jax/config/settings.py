"""Every setting with its default, which is the paper's recipe for VGG-16; recipes change some."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from colorize_jax import json_files
from colorize_jax.config import choices
from colorize_jax.errors import ConfigError
from colorize_jax.json_files import Number


def default_config(
    task: str = "colorization",
    network: str = "vgg16",
    optimizer: str = "caffe_sgd",
    schedule: str = "drops",
) -> ConfigDict:
    """The complete config of what is chosen, locked: a recipe that sets an unknown field fails by
    name.

    Args:
        task: becomes config.task.name; see there.
        network: becomes config.model.name.
        optimizer, schedule: their names.

    Raises:
        ConfigError: there is no such choice.
    """
    config = ConfigDict()
    config.seed = 0  # of everything that is drawn: parameters, order, crops, points
    # A pretrained network to start from: a run's workdir, one of its checkpoints/<step>, or what
    # `python -m colorize_jax.convert` wrote. Its encoder is used and nothing else.
    config.init_from = "random"
    # What is trained besides the head: "all", "head" (nothing), or layers of the encoder by name,
    # as in "fc6,fc7" or "conv4_1..fc7". The rest is frozen and costs no gradient.
    config.finetune = "all"
    # Photos whose activations rebalance the layers of the loaded encoder to unit variance, for
    # networks that were trained without batch norm; 0: not done.
    config.rebalance_photos = 0
    # A schedule.json (or the workdir with it) that early stopping has found; takes the place of
    # steps, schedule.epochs and schedule.drops.
    config.schedule_from = ""
    # A nonfinite_<step>.json that a run left: runs that step again and shows where it went wrong.
    config.replay = ""
    # Length of the run in steps; 0: schedule.epochs decides.
    config.steps = 0
    # Gradient accumulation: the batch is worked through in so many parts. Batch norm sees one part
    # at a time; the loss is still divided by all points of the batch. 0: the smallest number that
    # fits into the memory of the devices, found at the start of the run and kept to its end.
    config.microbatches = 1
    # Go on, without its batch, after a step whose loss or gradient is not finite; so many times.
    config.nonfinite_skips = 0

    # Several processes, each with some of the devices. "auto": if JAX finds a cluster that it knows
    # (SLURM, Cloud TPU, Open MPI, Kubernetes); "off"; "explicit": with the next three.
    config.distributed = ConfigDict()
    config.distributed.mode = "auto"  # how they find each other
    config.distributed.coordinator = ""  # HOST:PORT of the process whose id is 0
    config.distributed.count = 0  # of the processes
    config.distributed.id = -1  # of this one

    config.model = ConfigDict()
    # The encoder: "vgg16", "alexnet", "resnet152", "resnet101", "resnet50", ..., or "module:Class"
    # of your own. It brings settings of its own.
    config.model.name = network
    config.model.width = 1.0  # multiplies the channels of the trunk
    config.model.in_channels = 1  # gray; 3: color
    config.model.norm = "batch"  # or "none", once it is absorbed; a ResNet always keeps it
    # Of its running averages, which evaluation sees: 0.999 looks back over 1,000 steps. For short
    # runs less, such as 0.99: a few times that many steps should follow the last drop of the rate.
    config.model.norm_decay = 0.999
    # Compute the trunk's activations again in the backward pass instead of keeping them: about a
    # third more arithmetic, less memory. (Not on CPU: its compiler undoes it.)
    config.model.remat = False
    config.model.dtype = "float32"  # or "bfloat16": of the computation; parameters are float32

    config.data = ConfigDict()
    # A folder, a zip archive or a folder in it (photos.zip/train), tar or ArrayRecord shards,
    # tfds:NAME:SPLIT, a VOC devkit, or builtin:photos; "A,B" joins several, "A@0.7,B@0.3" weights
    # them.
    config.data.source = ""
    # What is known about the photos: "", "masks" (a VOC devkit's segmentation), "lists" (its lists
    # of objects) or "folders" (a folder for every class).
    config.data.labels = ""
    # Labelled photos to train on: a list of the devkit by name (of masks also the path of one), or
    # the folder that holds the folders of the classes, as in "train". "" for both, of "folders":
    # all photos, of which data.holdout of every class are held out.
    config.data.split = ""
    config.data.eval_split = ""  # and those to evaluate on
    # For masks (and photos) that the devkit lacks: the SBD data set, or a folder of masks.
    config.data.sbd = ""
    config.data.per_class = 0  # exactly so many training photos of every class; 0: all
    # How large a training photo becomes: "shortest" (its shortest side, data.scale), "factor"
    # (data.factor times as large), "none" (as stored) or "resized" (a random part of it, of
    # data.area and data.ratio, is resized to the crop).
    config.data.scaling = "shortest"
    config.data.scale = (352, 600)  # the shortest side becomes an integer in [352, 600)
    config.data.factor = (0.5, 2.0)  # drawn between the two, for "factor"
    config.data.area = (0.08, 1.0)  # share of the photo that is shown, for "resized"
    config.data.ratio = (3.0 / 4, 4.0 / 3)  # width over height of what is shown, for "resized"
    # Random views of every training photo, for tasks that compare them.
    config.data.views = 1
    # Not 0: before anything else, training and evaluation, the longest side becomes this.
    config.data.longest_side = 0
    config.data.pad_label = "void"  # around small photos; or "background", as in the release
    config.data.crop = 352  # side of what the network sees of a photo, in pixels
    config.data.mirror = True  # half of the training crops, by chance, left to right
    config.data.batch_size = 8  # over all devices
    # Stop if more than this share of the last 10,000 photos cannot be read.
    config.data.max_bad_fraction = 0.01
    # Of a photo; a larger one is refused by its header. Each process decodes at the same time what
    # takes at most 11 bytes for each of so many pixels: 2.2 GB.
    config.data.max_pixels = 200_000_000
    config.data.holdout = 0.001  # share of the photos kept for evaluation, by a hash of the name
    config.data.threads = 16  # reading and decoding, in each process
    config.data.workers = 0  # processes; 0: threads of the main process alone
    # A worker that dies, as where memory is short, is started again; so often in a process.
    config.data.worker_restarts = 10
    # Storage that does not answer is asked again, after growing waits, for so long; then the run
    # saves and ends with 75.
    config.data.retry_seconds = 120.0

    config.task = ConfigDict()
    # What is learned: "colorization", "segmentation", "classification" or another task of this
    # package, or "module:function" of your own. It brings settings of its own.
    config.task.name = task

    config.optimizer = ConfigDict()
    config.optimizer.name = optimizer  # "caffe_sgd", the paper's; or "sgd", "adam", "adamw", "lars"
    config.optimizer.rate = 1e-3  # learning rate before its first drop
    # If not 0, the batch size at which `rate` holds: the rate grows linearly with the batch.
    config.optimizer.rate_batch_size = 0
    # Other settings for groups of parameters, as in
    #   config.optimizer.groups = {"discriminator": {"name": "adam", "rate": 2e-4, "b1": 0.5}}.
    # All groups are updated at the same step: simultaneously, not in turns.
    config.optimizer.groups = ConfigDict()

    config.schedule = ConfigDict()
    # How the rate changes: "drops", "constant" or "cosine", half a wave of it down to the end.
    config.schedule.name = schedule
    config.schedule.epochs = 3.0  # length of the run, if steps is 0
    config.schedule.warmup = 0.0  # fraction of the run in which the rate rises from zero

    # Finds the schedule while it trains on a part of the training split: a window that scores no
    # better than the one before drops the rate; after two drops, the third such window ends the
    # run, at schedule.epochs or steps at the latest. Leaves schedule.json.
    config.early_stopping = ConfigDict()
    # "off"; "search": this; "crossval": this, and then a run on the whole split with what it found.
    config.early_stopping.mode = "off"
    config.early_stopping.holdout = 0.1  # share of the training split that is scored
    config.early_stopping.window = 5000  # steps; takes the place of eval.every
    config.early_stopping.minimum = 0  # steps before which nothing is dropped

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5000  # steps
    config.checkpoint.seconds = 1800.0  # and at least this often; 0: by steps only
    config.checkpoint.keep = 3  # the last so many; with 2 or more a damaged one can be done without
    config.checkpoint.snapshots = (0.2, 1.0, 2.0, 3.0)  # epochs whose checkpoint stays for good
    # Go on with the run in the workdir although settings that matter, or the photos, have changed.
    config.checkpoint.accept_changes = False

    config.eval = ConfigDict()
    config.eval.every = 5000  # steps; also before the first and after the last
    config.eval.photos = 1000  # at most so many of the held-out ones; 0: all
    # What is seen of a held-out photo: "center" (one crop), "random10" (ten crops drawn as in
    # training), "ten" (corners and center, mirrored too) or, of photos with masks, "whole".
    config.eval.view = "center"
    config.eval.shortest = 0  # side before "center" and "ten" crop; 0: that of the crop
    config.eval.pictures = 8  # rows of images/<step>.png
    config.eval.export = False  # predictions of segmentation, as PASCAL VOC wants them submitted
    # Not 0: before every evaluation the averages of batch norm are taken anew over so many training
    # batches, and the checkpoint holds them. In short runs the running ones are of weights that the
    # run has left, or of few photos (norm_decay).
    config.eval.norm_batches = 0
    config.eval.statistics_batches = 50  # training batches that eval/loss_constant is fitted to

    config.log = ConfigDict()
    config.log.every = 100  # steps
    config.log.names = False  # of all that was loaded, is new or was left over at the start
    for group, name in zip(choices.GROUPS, (task, network, optimizer, schedule), strict=True):
        choices.add(config, group, name)
    return config.lock()


def variants(variant: str, known: tuple[str, ...]) -> set[str]:
    """What stands after the colon of --config=FILE:ONE,ANOTHER; ConfigError if it is not known."""
    asked = {part for part in variant.split(",") if part}
    for part in sorted(asked.difference(known)):
        raise ConfigError(f"the config has no variant {part!r}; known: {', '.join(known)}")
    return asked


# The variants of transfer recipes that name a network; without one it is VGG-16.
NETWORKS = ("alexnet", "resnet152", "resnet101", "resnet50")


def transfer(config: ConfigDict, asked: set[str], classifier: bool = False) -> None:
    """What the variants of a transfer recipe say of its start and its network.

    Args:
        config: changed in place: `init_from`, `model`, and of a classifier `data.crop`.
        asked: from `variants`; "random" and `NETWORKS` count here.
        classifier: the network answers once for a crop, which has the size that it is made for.

    Raises:
        ConfigError: two networks are named.
    """
    named = asked.intersection(NETWORKS)
    if len(named) > 1:
        raise ConfigError(f"the config's variants name two networks: {' and '.join(sorted(named))}")
    config.init_from = "random" if "random" in asked else ""
    # A random start has batch norm, a pretrained one has it absorbed; a ResNet keeps its own.
    config.model.norm = "batch" if "random" in asked else "none"
    settings = suited(named.pop() if named else "vgg16", classifier)
    choices.choose(config, "model", settings["model.name"])
    config.update_from_flattened_dict(settings)


def suited(name: str, classifier: bool = False) -> dict[str, Any]:
    """What a transfer sets for a network of that name, {"model.name": ..., ...}.

    Args:
        name: of the network.
        classifier: the network answers once for a crop, which has the size that it is made for.
    """
    resnet = name.startswith("resnet")
    settings = {"model.name": name} | ({"model.norm": "batch"} if resnet else {})
    if classifier:
        settings["data.crop"] = 227 if name == "alexnet" else 224
        settings |= {} if resnet else {"model.fc6_padding": "VALID"}  # a ResNet has no fc6
    return settings


def transfer_rates(variant: str, rates: Sequence[float]) -> Iterator[dict]:
    """The settings that a transfer recipe's `sweep` compares: rates; of a random start with and
    without batch norm, if the network can do without, and the better one counts."""
    asked = variant.split(",")
    resnet = any(part.startswith("resnet") for part in asked)
    norms = ("batch", "none") if "random" in asked and not resnet else ("",)
    for norm in norms:
        for rate in rates:
            yield ({"model.norm": norm} if norm else {}) | {"optimizer.rate": rate}


# Between them they have every setting that an older file may hold.
_EVERY_SETTING = (
    ("colorization", "vgg16", "caffe_sgd", "drops"),
    ("segmentation", "alexnet", "sgd", "cosine"),
    ("classification", "resnet152", "adam", "constant"),
    ("colorization", "vgg16", "lars", "drops"),
)
# The largest number of what is counted: that of the step is an int32 on the devices.
_MOST = 2**31 - 1
_POSITIVE = (1, _MOST)
_SHARE = (0, 1)
_PIXELS = (0, 2**15)
# The smallest and the largest value of a number, where they are not 0 and _MOST.
_RANGES = {
    "seed": (0, 2**32 - 1),  # JAX takes 32 bits of it: a larger one would be that of a smaller
    "distributed.id": (-1, _MOST),
    "model.width": (0, 64),
    "model.fc6_kernel": (0, 64),
    "model.hidden": (1, 2**20),
    "model.norm_decay": _SHARE,
    "data.longest_side": _PIXELS,
    "data.scale": _PIXELS,
    "data.factor": (0, 2**10),
    "data.area": _SHARE,
    "data.ratio": (0, 2**10),
    "data.views": (1, 2**10),
    "data.crop": (1, 2**14),
    "data.batch_size": (1, 2**20),
    "data.max_bad_fraction": _SHARE,
    "data.max_pixels": (1, 2**40),
    "data.holdout": _SHARE,
    "data.threads": (0, 2**10),
    "data.workers": (0, 2**10),
    "task.classes": (0, 2**20),
    "task.points": (1, 2**20),
    "task.edge_buffer": _PIXELS,
    "task.window": (1, 2**10),
    "task.bins": (1, 2**12),
    "optimizer.rate": (0, 3e38),  # as long as it is a float32
    "optimizer.momentum": _SHARE,
    "optimizer.b1": _SHARE,
    "optimizer.b2": _SHARE,
    "schedule.drops": _SHARE,
    "schedule.warmup": _SHARE,
    "schedule.end": _SHARE,
    "early_stopping.holdout": _SHARE,
    "early_stopping.window": _POSITIVE,
    "checkpoint.every": _POSITIVE,
    "checkpoint.keep": _POSITIVE,
    "eval.every": _POSITIVE,
    "eval.shortest": _PIXELS,
    "eval.pictures": (0, 2**12),
    "eval.statistics_batches": _POSITIVE,
    "log.every": _POSITIVE,
}


def config_form() -> dict:
    """What the settings of a config in a file must be, for `json_files.check`. Any may be missing,
    and others there: a file may hold the config of another version, or of a task elsewhere."""
    found = {}
    for choice in _EVERY_SETTING:
        found = _joined(found, _form(default_config(*choice), ""))
    return found


def _joined(one: dict, other: dict) -> dict:
    """All fields of two nested forms."""
    both = {name: _joined(one[name], other[name]) for name in one.keys() & other.keys()
            if isinstance(one[name], dict) and isinstance(other[name], dict)}  # fmt: skip
    return one | other | both


def _form(settings: ConfigDict, prefix: str) -> dict:
    found = {}
    for name in settings:
        value = settings[name]
        low, high = _RANGES.get(prefix + name, (0, _MOST))
        kind = type(value)
        if kind is ConfigDict:
            one = _form(value, f"{prefix}{name}.")
        elif kind is tuple:
            kind = type(value[0]) if value else str
            one = [kind if kind is str else Number(kind, low, high)]
        else:
            one = Number(kind, low, high) if kind in (int, float) else kind
        found[f"{name}?"] = one
    return found


def check_numbers(config: ConfigDict) -> None:
    """ConfigError, by name, for a setting that makes no sense whatever the other settings are: one
    that what is chosen does not have, of another kind than its default, or a number that is not
    finite or out of its range."""
    usual = default_like(config)
    for group in choices.GROUPS:
        if unknown := sorted(set(config[group]) - set(usual[group])):
            raise ConfigError(
                f"config.{group}.{unknown[0]}: {config[group].name} has no such setting; known: "
                f"{', '.join(sorted(usual[group]))}. A recipe begins with default_config(TASK, "
                "NETWORK, OPTIMIZER, SCHEDULE), which has those of all four"
            )
    _check(config.to_dict(), _form(usual, ""), "config")
    for group, changes in config.optimizer.groups.items():
        _check_group(f"config.optimizer.groups.{group}", changes, config.optimizer.name)


def _check_group(where: str, changes: Any, optimizer: str) -> None:
    """ConfigError for settings of a group of parameters that its optimizer does not have.

    Args:
        where: they stand.
        changes: the settings.
        optimizer: name of that of the other parameters.
    """
    if not isinstance(changes, ConfigDict) or not isinstance(changes.get("name", ""), str):
        raise ConfigError(f"{where}={changes!r} must be settings, as in {{'rate': 0.1}}")
    try:
        usual = default_config(optimizer=changes.get("name", optimizer)).optimizer
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    known = [name for name in usual if name not in ("groups", "rate_batch_size")]
    if unknown := sorted(set(changes) - set(known)):
        raise ConfigError(
            f"{where}.{unknown[0]}: {usual.name} has no such setting for a group; known: "
            f"{', '.join(sorted(known))}"
        )
    _check(changes.to_dict(), _form(usual, "optimizer."), where)


def _check(values: dict, form: dict, where: str) -> None:
    """ConfigError, by name, for settings that have not that form."""
    try:
        json_files.check(values, form)
    except json_files.FormError as error:
        raise ConfigError(f"{where}.{error.field}={error.value} must be {error.wanted}") from None


def default_like(config: ConfigDict) -> ConfigDict:
    """The defaults of all settings, for the task and the network that a config has chosen."""
    return default_config(*names(config))


def names(config: Mapping[str, Any]) -> list[str]:
    """What a config, or the one of a file, has chosen: the arguments of `default_config`."""
    usual = ("colorization", "vgg16", "caffe_sgd", "drops")
    return [
        config.get(group, {}).get("name") or name
        for group, name in zip(choices.GROUPS, usual, strict=True)
    ]
