"""Every setting with its default, which is the paper's recipe for VGG-16; recipes change some."""

from ml_collections import ConfigDict

from colorize_jax.errors import ConfigError


def default_config() -> ConfigDict:
    """The complete config, locked: a recipe that sets an unknown field fails by name."""
    config = ConfigDict()
    config.seed = 0
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
    config.distributed.mode = "auto"
    config.distributed.coordinator = ""  # HOST:PORT of the process whose id is 0
    config.distributed.count = 0  # of the processes
    config.distributed.id = -1  # of this one

    config.model = ConfigDict()
    config.model.name = "vgg16"
    config.model.width = 1.0  # multiplies the channels of the trunk
    config.model.fc6_kernel = 7
    config.model.norm = "batch"  # or "none", once batch norm is absorbed
    config.model.hypercolumn = True  # False: the head reads the top layer alone
    config.model.alignment = "corner"  # or "center": where a coarse map lies in the input
    config.model.hidden = 1024  # units of the head's hidden layer
    # Compute the trunk's activations again in the backward pass instead of keeping them: about a
    # third more arithmetic, less memory. (Not on CPU: its compiler undoes it.)
    config.model.remat = False
    config.model.dtype = "float32"  # or "bfloat16": of the computation; parameters are float32

    config.data = ConfigDict()
    # A folder, a zip archive, tar or ArrayRecord shards, tfds:NAME:SPLIT, a VOC devkit, or
    # builtin:photos; "A,B" joins several, "A@0.7,B@0.3" weights them.
    config.data.source = ""
    config.data.scale = (352, 600)  # the shortest side becomes an integer in [352, 600)
    config.data.crop = 352
    config.data.mirror = True
    config.data.batch_size = 8  # over all devices
    # Stop if more than this share of the last 10,000 photos cannot be read.
    config.data.max_bad_fraction = 0.01
    config.data.holdout = 0.001  # share of the photos kept for evaluation, by a hash of the name
    config.data.threads = 16  # reading and decoding, in each process
    config.data.workers = 0  # processes; 0: threads of the main process alone

    config.task = ConfigDict()
    config.task.name = "colorization"
    config.task.loss = "histogram"  # or "regression" of Lab's a and b
    config.task.points = 128  # sampled pixels in every photo
    # Pixels at every border that are never sampled; 96 of 352, and it scales with the crop.
    config.task.edge_buffer = config.data.get_ref("crop") * 96 // 352
    config.task.window = 7  # side of the window of a target histogram
    config.task.bins = 32
    # Lets the regression loss pull as hard as the histogram loss at the start. Measured with
    #   python -m colorize_jax.regression_scale --config=configs/vgg16_col.py:regression \
    #     --config.model.width=0.0625 --config.model.fc6_kernel=3 \
    #     --config.data.source=builtin:photos
    # 4.55; it hardly depends on the network or the photos (4.2 to 4.8 on three other sets).
    config.task.regression_scale = 4.5

    config.optimizer = ConfigDict()
    config.optimizer.rate = 1e-3
    # If not 0, the batch size at which `rate` holds: the rate grows linearly with the batch.
    config.optimizer.rate_batch_size = 0
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4  # of weights, not of biases

    config.schedule = ConfigDict()
    config.schedule.epochs = 3.0
    # Where the rate drops tenfold, as fractions of the run: 2.0, 2.5 and 2.75 of 3 epochs.
    config.schedule.drops = (2.0 / 3, 2.5 / 3, 2.75 / 3)

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5000  # steps
    config.checkpoint.seconds = 1800.0  # and at least this often; 0: by steps only
    config.checkpoint.keep = 3  # the last so many; with 2 or more a damaged one can be done without
    config.checkpoint.snapshots = (0.2, 1.0, 2.0, 3.0)  # epochs whose checkpoint stays for good
    # Go on with the run in the workdir although settings that matter, or the photos, have changed.
    config.checkpoint.accept_changes = False

    config.eval = ConfigDict()
    config.eval.every = 5000  # steps; also before the first and after the last
    config.eval.photos = 1000  # at most so many of the held-out ones
    config.eval.pictures = 8  # rows of images/<step>.png
    config.eval.statistics_batches = 50  # training batches that eval/loss_constant is fitted to

    config.log = ConfigDict()
    config.log.every = 100  # steps
    return config.lock()


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """ConfigError unless the part of --config=FILE:VARIANT after the colon is empty or known."""
    if variant and variant not in known:
        listed = f"known: {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"the config has no variant {variant!r}; {listed}")


_POSITIVE = (
    "data.batch_size", "data.crop", "checkpoint.every", "checkpoint.keep",
    "eval.every", "eval.photos", "eval.statistics_batches", "log.every",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "steps", "microbatches", "nonfinite_skips", "data.threads", "data.workers",
    "data.max_bad_fraction", "optimizer.rate", "optimizer.rate_batch_size", "optimizer.momentum",
    "optimizer.weight_decay", "schedule.epochs",
    "checkpoint.seconds", "eval.pictures",
)  # fmt: skip


def check_numbers(config: ConfigDict) -> None:
    """ConfigError, by name, for a number that makes no sense whatever the other settings are."""
    for names, smallest, must in ((_POSITIVE, 1, "at least 1"), (_NOT_NEGATIVE, 0, "at least 0")):
        for name in names:
            value = config
            for part in name.split("."):
                value = value[part]
            if not value >= smallest:
                raise ConfigError(f"config.{name}={value} must be {must}")
