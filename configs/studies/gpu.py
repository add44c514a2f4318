r"""Does pretraining pay at full width: eight minutes of one large GPU.

JAX_COMPILATION_CACHE_DIR=/tmp/jax python -m colorize_jax.study gpu --workdir=/ckpt/gpu --data=/data

VGG-16 with all its channels (fc6 3x3), in bfloat16: one pretraining by colorization on photos of
Tiny ImageNet, and segmentation of a subset of VOC 2012 from it and from a random start, seed by
seed. --data is that of the study `small`. The same command goes on where it was stopped; a run is
done if its folder holds results.json. Of a stopped run at most the last 20 seconds are lost.
--records=/ckpt/records keeps what tables are made of, without checkpoints.
"""

from colorize_jax.studies.plan import Gain, Row, Run, Study, Table, seeded

SEEDS = (0, 1, 2, 3)
PHOTOS = tuple(f"$DATA/tiny_imagenet_part{part}.zip/tiny_imagenet/train" for part in (1, 2))
STEPS, BATCH, EARLY = 6000, 256, 580  # EARLY: three epochs of 49,503 photos
# Classes that the 445 photos of the subset's val show often enough.
NINE = ("background", "cat", "chair", "cow", "dog", "horse", "person", "sheep", "sofa")
NETWORK = {"model.fc6_kernel": 3, "model.dtype": "bfloat16"}
# Processes that read, on 16 cores. A core of an EPYC gives 4,500 of these crops a second through
# the whole pipeline, and the main process needs 2 ms for a batch of 256: enough for 20,000 a
# second, so that photos which lie on the device would bring nothing.
READING = {"data.workers": 12, "data.threads": 1}

PRETRAINING = (
    NETWORK
    | READING
    | {
        "data.source": ",".join(PHOTOS),
        "data.scale": (64, 96),
        "data.crop": 64,
        "data.batch_size": BATCH,
        "data.holdout": 0.01,
        "task.points": 64,
        "task.edge_buffer": 8,
        "optimizer.rate": 0.01,
        # With the full rate from the first step on, many units of the head's hidden layer die.
        "schedule.warmup": 0.03,
        "steps": STEPS,
        "checkpoint.every": STEPS,
        "checkpoint.seconds": 20.0,
        "checkpoint.snapshots": (3.0,),
        "eval.every": STEPS,
        "eval.photos": 256,
        "log.every": 100,
    }
)
# The same for both starts. In the study `small` early stopping found the same rate for both, and
# either did as well with the other's schedule.
SEGMENTATION = (
    NETWORK
    | READING
    | {
        "data.source": "$DATA/voc2012_subset_256.zip",
        "data.split": "train",
        "data.longest_side": 128,
        "data.crop": 96,
        "data.batch_size": 16,
        "task.points": 64,
        "eval.classes": NINE,
        "optimizer.rate": 0.01,
        "schedule.drops": (0.625, 0.875),
        "steps": 2000,
        "checkpoint.every": 2000,
        "checkpoint.seconds": 20.0,
        "eval.every": 2000,
        # Batch norm stays, and is scored by averages over 960 crops.
        "model.norm": "batch",
        "model.norm_decay": 0.97,
        "eval.norm_batches": 60,
        "log.every": 50,
    }
)
# Seconds that a run may take on a card that multiplies matrices at 800 TFLOP/s, with what it
# compiles: planned, not measured. By `bench cost --topology=h100` a step of 256 takes 11 ms, and so
# the pretraining 64 s. The first run of each kind compiles for all of its kind. On an H100, a step
# of VGG-16 at 352 pixels took over a minute to compile, and 13 s where the compiler's choices for
# most convolutions were kept: keep JAX_COMPILATION_CACHE_DIR from one lease to the next.
SECONDS = {"col": 150, "the first segmentation": 80, "each other segmentation": 36}


def names(stem: str) -> tuple[str, ...]:
    return tuple(f"{stem}-{seed}" for seed in SEEDS)


def segmentation(name: str, start: str, seeds) -> list[Run]:
    recipe = "voc2012_seg:no_fov" if start else "voc2012_seg:random,no_fov"
    return seeded(Run(name, recipe, SEGMENTATION, start=start), seeds)


def get_study() -> Study:
    """The whole study; seed by seed, so that what is there can be compared at any time."""
    pairs = [
        [*segmentation("seg_col", "col", (seed,)), *segmentation("seg_random", "", (seed,))]
        for seed in SEEDS
    ]
    early = segmentation("seg_early", f"col@{EARLY}", SEEDS[:1])
    return Study(
        title="Pretraining at full width",
        text=TEXT,
        steps=[
            Run("col", "vgg16_col", PRETRAINING),
            *(run for pair in pairs[:3] for run in pair),
            *early,
            *pairs[3],
        ],
        sections=[
            Table(
                "Segmentation from both starts",
                "The same fine-tuning; what differs is the start.",
                "eval/miou_9", "VOC 2012 animal subset, mIoU-9, %",
                rows=[
                    Row("Random start", names("seg_random")),
                    Row(f"Colorization of {EARLY * BATCH:,} crops", ("seg_early-0",)),
                    Row(f"Colorization of {STEPS * BATCH:,} crops", names("seg_col")),
                    Gain("gain", names("seg_col"), names("seg_random")),
                ],
            ),
        ],
    )  # fmt: skip


TEXT = f"""
VGG-16 with all its channels (fc6 3x3, hidden layer of 1024), in bfloat16, pretrained by
colorization on {STEPS * BATCH:,} crops of 64 pixels of 50,000 photos of Tiny ImageNet without their
labels, then transferred to segmentation with the photos and the score of [results.md](results.md):
the "VOC 2012 animal subset, mIoU-9" is the mean IoU of background and eight classes on 445 photos
with a long side of 128 pixels, after training on 3,131. It is not comparable with published VOC
numbers.

Rate and drops are the same for both starts, and were not searched for here.

The plan, in seconds of a card that multiplies bfloat16 matrices at 800 TFLOP/s, planned and not
measured: {", ".join(f"{name} {seconds}" for name, seconds in SECONDS.items())}. Eight minutes are
the pretraining, three seeds of both starts and the early snapshot; the fourth seed is there for a
faster card. A row that says "not run" was not reached.
"""
