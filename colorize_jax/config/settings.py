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
    # Decides everything that is drawn: parameters, the order of photos, crops, points.
    config.seed = 0
    # The pretrained network that a run starts from: the workdir of a run, one of its
    # checkpoints/<step>, or what `python -m colorize_jax.convert` wrote. Only its encoder is used.
    config.init_from = "random"
    # Says what is trained besides the head: "all", "head" (nothing else), or layers of the encoder
    # by name, as in "fc6,fc7" or "conv4_1..fc7". The rest is frozen and costs no gradient.
    config.finetune = "all"
    # Rescales the layers of the loaded encoder so that their activations on this many photos have
    # unit variance, for networks that were trained without batch norm. 0 does nothing.
    config.rebalance_photos = 0
    # A schedule.json that early stopping has written, or the workdir that holds it. It replaces
    # steps, schedule.epochs and schedule.drops.
    config.schedule_from = ""
    # A nonfinite_<step>.json that a run left. The command runs that step again and shows where the
    # first number is not finite.
    config.replay = ""
    # The length of the run in steps. With 0, schedule.epochs decides.
    config.steps = 0
    # Gradient accumulation: the batch is processed in this many parts. Batch norm sees one part at
    # a time; the loss is still divided by all points of the batch. 0 takes the smallest number that
    # fits into the memory of the devices; it is found at the start of the run and kept to its end.
    config.microbatches = 1
    # The run goes on after at most this many steps whose loss or gradient is not finite, without
    # their batches.
    config.nonfinite_skips = 0

    # A run of several processes, each with some of the devices.
    config.distributed = ConfigDict()
    # How the processes find each other. "auto" asks JAX for a cluster that it knows (SLURM, Cloud
    # TPU, Open MPI, Kubernetes), "off" runs alone, "explicit" takes the next three settings.
    config.distributed.mode = "auto"
    config.distributed.coordinator = ""  # HOST:PORT of process 0.
    config.distributed.count = 0  # The number of processes.
    config.distributed.id = -1  # The number of this process, from 0.

    config.model = ConfigDict()
    # The encoder: "vgg16", "alexnet", "resnet152", "resnet101", "resnet50", ..., "zhang", "vit",
    # "nin", or "module:Class" of your own. It brings settings of its own.
    config.model.name = network
    config.model.width = 1.0  # Multiplies the number of channels of every layer.
    config.model.in_channels = 1  # 1 reads gray, 3 reads color.
    # "batch" for batch norm, "none" once it is absorbed into the weights. A ResNet always keeps it.
    # "layer" for layer norm, by which no photo or patch of a batch sees another one. A ViT always
    # has its own, whatever this says.
    config.model.norm = "batch"
    # How slowly the running averages of batch norm move. 0.999 looks back over 1,000 steps. Short
    # runs need less, such as 0.99: a few times that many steps should follow the last drop of the
    # rate.
    config.model.norm_decay = 0.999
    # Computes the activations again in the backward pass instead of keeping them: about a third
    # more arithmetic, less memory. It has no effect on CPU, whose compiler undoes it.
    config.model.remat = False
    # The type of the computation: "float32" or "bfloat16". Parameters are always float32.
    config.model.dtype = "float32"

    config.data = ConfigDict()
    # Where the photos are: a folder, a zip archive or a folder in it (photos.zip/train), tar or
    # ArrayRecord shards, tfds:NAME:SPLIT, a VOC devkit, or builtin:photos. "A,B" joins several
    # sources, "A@0.7,B@0.3" weights them.
    config.data.source = ""
    # What is known about the photos: "" (nothing), "masks" (a VOC devkit's segmentation), "lists"
    # (its lists of objects) or "folders" (a folder for every class).
    config.data.labels = ""
    # The labelled photos to train on: a list of the devkit by name (of masks also the path of one),
    # or the folder that holds the folders of the classes, as in "train". With "folders" and no
    # split at all, data.holdout of every class is held out.
    config.data.split = ""
    config.data.eval_split = ""  # The labelled photos to evaluate on, named in the same way.
    # Where masks and photos are that the devkit lacks: the SBD data set, or a folder of masks.
    config.data.sbd = ""
    # Gives photos in class folders other labels: "noise:0.1" draws a random class for a tenth of
    # the training photos, "random:50" joins the classes at random to 50 of equal size, "wordnet:16"
    # joins ImageNet's classes by WordNet, "file:PATH" joins them by a table. "" changes nothing.
    config.data.relabel = ""
    # Takes exactly this many training photos of every class. 0 takes all.
    config.data.per_class = 0
    # Takes this share of the training photos of every class, at least one photo. A smaller share is
    # a part of a larger one. 0 takes all.
    config.data.label_share = 0.0
    # Takes exactly this many of the training photos without labels, which the seed chooses: fewer
    # are always among more. 0 takes all.
    config.data.photos = 0
    # How a training photo is sized. "shortest" scales its shortest side (data.scale), "factor"
    # multiplies its size (data.factor), "none" leaves it as stored, "resized" resizes a random part
    # of it (data.area, data.ratio) to the crop.
    config.data.scaling = "shortest"
    # The shortest side becomes a random integer from the first number to below the second.
    config.data.scale = (352, 600)
    config.data.factor = (0.5, 2.0)  # The smallest and the largest factor, for "factor".
    config.data.area = (0.08, 1.0)  # The share of the photo that is shown, for "resized".
    config.data.ratio = (3.0 / 4, 4.0 / 3)  # The width over the height of it, for "resized".
    # The number of random views of every training photo, for tasks that compare them.
    config.data.views = 1
    # If not 0, the longest side of every photo is scaled to this before anything else.
    config.data.longest_side = 0
    # The label around small photos: "void", or "background" as in the release.
    config.data.pad_label = "void"
    config.data.crop = 352  # The side in pixels of what the network sees of a photo.
    config.data.mirror = True  # Mirrors half of the training crops, by chance, left to right.
    config.data.batch_size = 8  # The number of photos in a step, over all devices.
    # Stops the run if more than this share of the last 10,000 photos cannot be read.
    config.data.max_bad_fraction = 0.01
    # Refuses a photo with more pixels by its header. Each process decodes at the same time what
    # takes at most 11 bytes for each of this many pixels: 2.2 GB.
    config.data.max_pixels = 200_000_000
    # The share of the photos that is held out for evaluation, chosen by a hash of the name.
    config.data.holdout = 0.001
    config.data.threads = 16  # The number of threads that read and decode, in each process.
    # The number of worker processes that read. With 0, threads of the main process read.
    config.data.workers = 0
    # How often a worker process that dies, as when memory is short, is started again.
    config.data.worker_restarts = 10
    # How long storage that does not answer is asked again, after growing waits. Then the run saves
    # and ends with code 75.
    config.data.retry_seconds = 120.0

    config.task = ConfigDict()
    # What is learned: "colorization", "segmentation", "classification" or another task of this
    # package, or "module:function" of your own. It brings settings of its own.
    config.task.name = task

    config.optimizer = ConfigDict()
    # "caffe_sgd" (the paper's), "sgd", "adam", "adamw" or "lars". It brings settings of its own.
    config.optimizer.name = optimizer
    config.optimizer.rate = 1e-3  # The learning rate before the schedule lowers it.
    # If not 0, the batch size at which `rate` holds: the rate grows linearly with the batch.
    config.optimizer.rate_batch_size = 0
    # Multiplies the rate of each layer of the encoder, once for every layer above it: below 1, the
    # lower a layer is, the less it changes. 1 has one rate for all.
    config.optimizer.layer_decay = 1.0
    # Other settings for groups of parameters, as in
    #   config.optimizer.groups = {"discriminator": {"name": "adam", "rate": 2e-4, "b1": 0.5}}.
    # All groups are updated at the same step: simultaneously, not in turns.
    config.optimizer.groups = ConfigDict()

    config.schedule = ConfigDict()
    # How the rate changes: "drops", "constant" or "cosine", half a wave of it down to the end. It
    # brings settings of its own.
    config.schedule.name = schedule
    config.schedule.epochs = 3.0  # The length of the run in epochs, if steps is 0.
    # The fraction of the run in which the rate rises from zero. While early stopping searches, it
    # is a fraction of the longest allowed length.
    config.schedule.warmup = 0.0

    # Finds the schedule while it trains on a part of the training split: a window that scores no
    # better than the one before drops the rate; after two drops, the third such window ends the
    # run, at schedule.epochs or steps at the latest. It writes schedule.json.
    config.early_stopping = ConfigDict()
    # "off"; "search" finds a schedule; "crossval" finds one, and then trains on the whole split.
    config.early_stopping.mode = "off"
    config.early_stopping.holdout = 0.1  # The share of the training split that is scored.
    # The length of a window in steps. It replaces eval.every.
    config.early_stopping.window = 5000
    config.early_stopping.minimum = 0  # The number of steps before which nothing is dropped.

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5000  # Saves after every so many steps,
    config.checkpoint.seconds = 1800.0  # and at least this often in seconds. 0: by steps only.
    # The number of last checkpoints that stay. With 2 or more, the run survives a damaged one.
    config.checkpoint.keep = 3
    # Epochs whose checkpoints stay for good.
    config.checkpoint.snapshots = (0.2, 1.0, 2.0, 3.0)
    # Goes on with the run in the workdir although settings that matter, or the photos, changed.
    config.checkpoint.accept_changes = False

    config.eval = ConfigDict()
    # Evaluates after every so many steps, before the first and after the last.
    config.eval.every = 5000
    config.eval.photos = 1000  # Evaluates at most this many held-out photos. 0: all.
    # What is seen of a held-out photo: "center" (one crop), "random10" (ten crops drawn as in
    # training), "ten" (corners and center, mirrored too) or, of photos with masks, "whole".
    config.eval.view = "center"
    # The shortest side of a photo before "center" and "ten" cut it. 0: the side of the crop.
    config.eval.shortest = 0
    config.eval.pictures = 8  # The number of photos in images/<step>.png.
    # Writes the predictions of segmentation as PASCAL VOC wants them submitted.
    config.eval.export = False
    # If not 0, the averages of batch norm are computed anew over this many training batches before
    # every evaluation, and the checkpoint holds them. In short runs the running averages belong to
    # weights that the run has left, or to few photos (norm_decay).
    config.eval.norm_batches = 0
    # The number of training batches that eval/loss_constant is fitted to.
    config.eval.statistics_batches = 50

    # Watches a representation grow: simple classifiers read classes off the encoder while it is
    # trained, and scores without labels say how its features spread. They change nothing of what
    # is learned.
    config.evals = ConfigDict()
    # The photos whose features are nearest, by cosine, vote for a class.
    config.evals.knn = ConfigDict()
    # Photos with a folder for every class, as for data.labels="folders". "" switches this off.
    config.evals.knn.source = ""
    # The folder that holds the folders of the classes, as in "train".
    config.evals.knn.split = ""
    # The same of the photos to score. "" for both splits takes all photos, and scores some of them.
    config.evals.knn.eval_split = ""
    config.evals.knn.holdout = 0.2  # The share of every class that is scored, without splits.
    # The layer of the encoder, which is averaged over its positions. "" is the top one.
    config.evals.knn.layer = ""
    config.evals.knn.every = 0  # Steps between two evaluations. 0: with every one of the task.
    config.evals.knn.photos = 10_000  # At most so many vote, and so many are scored. 0: all.
    # The number of photos that vote; of few photos, half of the smallest class times the classes.
    config.evals.knn.neighbors = 200
    config.evals.knn.temperature = 0.07  # A vote counts exp(cosine / temperature).
    # Logistic regression on standardized features, fitted anew at every evaluation.
    config.evals.linear = ConfigDict()
    config.evals.linear.source = ""  # As evals.knn.source.
    config.evals.linear.split = ""  # As evals.knn.split.
    config.evals.linear.eval_split = ""  # As evals.knn.eval_split.
    config.evals.linear.holdout = 0.2  # As evals.knn.holdout.
    config.evals.linear.layer = ""  # As evals.knn.layer.
    config.evals.linear.every = 0  # As evals.knn.every.
    config.evals.linear.photos = 10_000  # At most so many are learned from, and so many scored.
    # Half of this, times the squared norm of the weights, is added to the mean loss.
    config.evals.linear.regularization = 0.01
    config.evals.linear.iterations = 100  # The largest number of iterations of the solver.
    # How features spread over their space: RankMe, alignment and uniformity, without labels.
    config.evals.spread = ConfigDict()
    config.evals.spread.source = ""  # Photos, as for data.source. "" switches this off.
    config.evals.spread.layer = ""  # As evals.knn.layer.
    config.evals.spread.every = 0  # As evals.knn.every.
    config.evals.spread.photos = 5_000  # At most so many are used. 0: all.
    # The run warns of a collapse if the rank is below this share of the largest possible one, which
    # is the number of photos or of channels, whichever is smaller.
    config.evals.spread.share = 0.02

    config.log = ConfigDict()
    config.log.every = 100  # Writes a row of metrics after every so many steps.
    # Prints the name of every loaded, new and unused parameter at the start.
    config.log.names = False
    # The project of Weights & Biases that gets all rows and pictures too. "": none. The package is
    # an extra, pip install 'colorize_jax[wandb]'; its variables, such as WANDB_MODE, work.
    config.log.wandb = ""
    for group, name in zip(choices.GROUPS, (task, network, optimizer, schedule), strict=True):
        choices.add(config, group, name)
    return config.lock()


def variants(variant: str, known: tuple[str, ...]) -> set[str]:
    """The variants after the colon of --config=FILE:ONE,ANOTHER; ConfigError for an unknown one."""
    asked = {part for part in variant.split(",") if part}
    for part in sorted(asked.difference(known)):
        others = f"; known: {', '.join(known)}" if known else ", and no others either"
        raise ConfigError(f"the config has no variant {part!r}{others}")
    return asked


def shrink(config: ConfigDict) -> None:
    """Makes a pretraining recipe small enough for two CPU cores, in place.

    Its variant "small" then sets what differs for its task.
    """
    config.model.width = 0.25
    if "fc6_kernel" in config.model:
        config.model.fc6_kernel = 1
    config.model.norm_decay = 0.99
    config.data.crop = 64
    config.data.batch_size = 32
    config.data.holdout = 0.02
    config.data.threads = 2
    config.optimizer.rate = 1e-3
    config.schedule.epochs = 5.0
    config.checkpoint.every = 500
    config.checkpoint.snapshots = ()
    config.eval.every = 500
    config.eval.photos = 400
    config.eval.norm_batches = 20


# The variants of transfer recipes that name a network; without one it is VGG-16.
NETWORKS = (
    "alexnet", "alexnet_bn", "resnet152", "resnet101", "resnet50", "resnet34", "resnet18", "zhang",
    "vit", "nin",
)  # fmt: skip


def transfer(config: ConfigDict, asked: set[str], classifier: bool = False) -> None:
    """Applies the variants of a transfer recipe that choose its start and its network.

    Args:
        config: changed in place: `init_from`, `model`, and of a classifier `data.crop`.
        asked: what `variants` returned; "random" and `NETWORKS` matter here.
        classifier: the network answers once for a crop, which has the size that it is made for.

    Raises:
        ConfigError: two networks are named.
    """
    named = asked.intersection(NETWORKS)
    if len(named) > 1:
        raise ConfigError(f"the config's variants name two networks: {' and '.join(sorted(named))}")
    config.init_from = "random" if "random" in asked else ""
    # A random start has batch norm, a pretrained one has it absorbed, unless the network keeps it.
    config.model.norm = "batch" if "random" in asked else "none"
    settings = suited(named.pop() if named else "vgg16", classifier)
    choices.choose(config, "model", settings["model.name"])
    config.update_from_flattened_dict(settings)


def suited(name: str, classifier: bool = False) -> dict[str, Any]:
    """The settings of a transfer for a network of that name, {"model.name": ..., ...}.

    Args:
        name: the name of the network.
        classifier: the network answers once for a crop, which has the size that it is made for.
    """
    keeps_norm = _keeps_norm(name)
    settings = {"model.name": name} | ({"model.norm": "batch"} if keeps_norm else {})
    if classifier:
        settings["data.crop"] = {"alexnet": 227, "nin": 32}.get(name, 224)
        settings |= {} if keeps_norm else {"model.fc6_padding": "VALID"}  # They have no fc6.
    return settings


def _keeps_norm(network: str) -> bool:
    """Whether a network of this package has no batch norm that can be absorbed."""
    return network.startswith("resnet") or network in ("zhang", "vit", "nin")


def transfer_rates(variant: str, rates: Sequence[float]) -> Iterator[dict]:
    """Yields the settings that a transfer recipe's `sweep` compares.

    These are rates. For a random start each is tried with and without batch norm, if the network
    can do without.
    """
    asked = variant.split(",")
    keeps_norm = any(map(_keeps_norm, asked))
    norms = ("batch", "none") if "random" in asked and not keeps_norm else ("",)
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
    "data.label_share": _SHARE,
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
    "task.mixup": (0, 100),
    "task.cutmix": (0, 100),
    "optimizer.rate": (0, 3e38),  # It must fit into a float32.
    "optimizer.layer_decay": (1e-3, 1),
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
    "evals.knn.holdout": _SHARE,
    "evals.knn.neighbors": _POSITIVE,
    "evals.knn.temperature": (1e-3, 1e3),
    "evals.linear.holdout": _SHARE,
    "evals.linear.regularization": (1e-9, 1e9),
    "evals.linear.iterations": _POSITIVE,
    "evals.spread.share": _SHARE,
    "log.every": _POSITIVE,
}


def config_form() -> dict:
    """The form of the settings of a config in a file, for `json_files.check`.

    Settings may be missing or unknown, because a file may hold the config of another version or of
    a user's task.
    """
    found = {}
    for choice in _EVERY_SETTING:
        found = _joined(found, _form(default_config(*choice), ""))
    return found


def _joined(one: dict, other: dict) -> dict:
    """Joins the fields of two nested forms."""
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
    """ConfigError that names a setting which is invalid for any values of the others.

    Such a setting is not one of the config's choices, has another kind than its default, or is a
    number that is not finite or out of its range.
    """
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
    known = [name for name in usual if name not in ("groups", "rate_batch_size", "layer_decay")]
    if unknown := sorted(set(changes) - set(known)):
        raise ConfigError(
            f"{where}.{unknown[0]}: {usual.name} has no such setting for a group; known: "
            f"{', '.join(sorted(known))}"
        )
    _check(changes.to_dict(), _form(usual, "optimizer."), where)


def _check(values: dict, form: dict, where: str) -> None:
    """ConfigError that names the setting if one does not have its form."""
    try:
        json_files.check(values, form)
    except json_files.FormError as error:
        raise ConfigError(f"{where}.{error.field}={error.value} must be {error.wanted}") from None


def default_like(config: ConfigDict) -> ConfigDict:
    """The defaults of all settings for the choices of a config."""
    return default_config(*names(config))


def names(config: Mapping[str, Any]) -> list[str]:
    """The choices of a config, or of a config in a file: the arguments of `default_config`."""
    usual = ("colorization", "vgg16", "caffe_sgd", "drops")
    return [
        config.get(group, {}).get("name") or name
        for group, name in zip(choices.GROUPS, usual, strict=True)
    ]
