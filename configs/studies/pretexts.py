r"""Which pretext helps which photos: all pretexts on one small trunk, under one protocol.

python -m colorize_jax.study pretexts --workdir=/ckpt/pretexts --data=/data

--data is that of the study `small`. A run takes one to six minutes of one core. The commands of two
terminals may share the workdir: --only='*-0' does seed 0 of everything, --only='*rotation*' one
pretext.
"""

from colorize_jax.studies.plan import Frozen, Grid, Run, Sensitivity, Study

PARTS = tuple(f"$DATA/tiny_imagenet_part{part}.zip/tiny_imagenet" for part in (1, 2))
SIZES = (10_000, 20_000, 40_000)
MIDDLE = 20_000  # The size with several seeds.
SEEDS = (0, 1, 2)
BATCH, STEPS = 64, 1600
CLASSES = 200

TRUNK = {
    "model.name": "alexnet_bn",
    "model.width": 0.25,
    "model.fc6_kernel": 1,
    "model.norm_decay": 0.99,
}
TRAINING = TRUNK | {
    "data.crop": 64,
    "data.batch_size": BATCH,
    "data.threads": 1,
    # The same for all. With the rates of the recipes, of which some are for SGD, 1,600 steps teach
    # little: with SGD and 0.01 even labels were no better than a random start after 800.
    "optimizer.name": "adam",
    "optimizer.rate": 0.001,
    "schedule.name": "cosine",
    "schedule.warmup": 0.05,
    "steps": STEPS,
    "checkpoint.every": STEPS,
    "checkpoint.snapshots": (),
    "eval.every": STEPS,
    "eval.photos": 400,
    "eval.norm_batches": 20,
    "log.every": 50,
}
PHOTOS = {"data.source": ",".join(f"{part}/train" for part in PARTS), "data.holdout": 0.01}
TOP = {"task.layer": "conv5"}
TILES = TOP | {"task.grid": 1}  # A tile of 16 pixels is one cell of conv5.

# Recipe, and the settings in which it differs from its own.
PRETEXTS = {
    "colorization": (
        "vgg16_col",
        {
            "model.hidden": 256,
            "data.scale": (64, 96),
            "task.points": 16,
            "task.edge_buffer": 8,
        },
    ),
    "rotation": ("rotation:small", {}),
    "jigsaw": ("jigsaw:small", TILES),
    "relative_patch": ("relative_patch:small", TILES | {"data.crop": 72}),
    "counting": ("counting:small", TILES),
    "context_encoder": ("context_encoder:small", TOP | {"task.decoder": 64}),
    "lab_decoder": ("lab_decoder:small", TOP | {"task.decoder": 32}),
    "zhang": ("zhang_col:small", {"data.scale": (64, 65), "data.crop": 64}),
}
LABELS = {
    "data.source": ",".join(PARTS),
    "data.scale": (64, 73),
    "task.classes": CLASSES,
    "model.fc6_padding": "SAME",
    "eval.shortest": 64,
}
SEEN = {
    "layers": "conv2,conv3,conv4,conv5",
    "shortest": 64,
    "crop": 64,
    "threads": 1,
    # Tiles are normalized, and some tasks show noise: their averages would not fit whole photos.
    "norm_photos": 2000,
}
TINY = SEEN | {
    "source": PARTS[0],
    "split": "train",
    "eval_split": "val",
    "kinds": "softmax,knn",
    "per_class": "0,10",
    "values": 1024,
    "epochs": 10,
}
# Classes that the subset's val shows often enough.
EIGHT = ("cat", "chair", "cow", "dog", "horse", "person", "sheep", "sofa")
VOC = SEEN | {
    "source": "$DATA/voc2012_subset_256.zip",
    "labels": "lists",
    "split": "train",
    "eval_split": "val",
    "kinds": "svm",
    "classes": ",".join(EIGHT),
    "squeeze": True,
    "values": 256,
    "cost": "0.1,1",
}


def scored(name: str, seed: int) -> list[Frozen]:
    """The frozen features of a run on all sets."""
    sets = (("tiny", TINY), ("voc", VOC))
    return [Frozen(f"{kind}_{name}", own | {"seed": seed}, name) for kind, own in sets]


def pretrained(pretext: str, photos: int, seed: int) -> list:
    """The pretraining with so many photos, and its scores."""
    name = f"{pretext}_{photos // 1000}k-{seed}"
    recipe, own = PRETEXTS[pretext]
    settings = TRAINING | PHOTOS | own | {"data.photos": photos, "seed": seed}
    return [Run(name, recipe, settings), *scored(name, seed)]


def random(kind: str, seed: int) -> list:
    """A random encoder, whose averages of batch norm are those of photos."""
    recipe, own = PRETEXTS["rotation" if kind == "color" else "lab_decoder"]
    still = {"optimizer.rate": 0.0, "steps": 100, "checkpoint.every": 100, "eval.every": 100}
    settings = TRAINING | PHOTOS | own | still | {"data.photos": MIDDLE, "seed": seed}
    name = f"random_{kind}-{seed}"
    return [Run(name, recipe, settings), *scored(name, seed)]


def labelled(photos: int, seed: int) -> list:
    """The top line: the labels of as many photos."""
    name = f"labels_{photos // 1000}k-{seed}"
    settings = TRAINING | LABELS | {"data.per_class": photos // CLASSES, "seed": seed}
    return [Run(name, "imagenet_subset_cls:random", settings), *scored(name, seed)]


COLUMNS = {
    "Tiny ImageNet, 100 a class: top-1": ("tiny", "eval/softmax/top1"),
    "10 a class: top-1": ("tiny", "eval/softmax_10/top1"),
    "k-NN: top-1": ("tiny", "eval/knn/top1"),
    "VOC subset: mAP of 8": ("voc", "eval/svm/map"),
}
SCORES = {heading: score for heading, (_, score) in COLUMNS.items()}


def row(names) -> dict[str, list[str]]:
    """{heading: names of the scores} of some runs."""
    names = list(names)
    return {heading: [f"{kind}_{name}" for name in names] for heading, (kind, _) in COLUMNS.items()}


def of_size(stem: str, photos: int) -> dict[str, list[str]]:
    """The scores of all seeds of a run with so many photos."""
    seeds = SEEDS if photos == MIDDLE else SEEDS[:1]
    return row(f"{stem}_{photos // 1000}k-{seed}" for seed in seeds)


def get_study() -> Study:
    """The whole study; the middle size seed by seed first, so that it can be read at any time."""
    steps = []
    for seed in SEEDS:
        steps += random("color", seed) + random("gray", seed) + labelled(MIDDLE, seed)
        for pretext in PRETEXTS:
            steps += pretrained(pretext, MIDDLE, seed)
    for photos in SIZES:
        if photos != MIDDLE:
            steps += labelled(photos, 0)
            for pretext in PRETEXTS:
                steps += pretrained(pretext, photos, 0)
    randoms = {
        f"random encoder, {kind}": row(f"random_{kind}-{seed}" for seed in SEEDS)
        for kind in ("color", "gray")
    }
    trained = {"labels": "labels"} | {f"`{pretext}`": pretext for pretext in PRETEXTS}
    return Study(
        title="Pretexts compared",
        text=TEXT,
        steps=steps,
        sections=[
            Grid(
                f"{MIDDLE:,} photos",
                "Mean and standard deviation over seeds of the pretraining, in percent. Chance is\n"
                "0.5 % for 200 classes.",
                SCORES,
                randoms | {label: of_size(stem, MIDDLE) for label, stem in trained.items()},
                seen=SEEN_MIDDLE,
            ),
            *(
                Grid(
                    f"{photos:,} photos", "Seed 0.", SCORES,
                    {label: of_size(stem, photos) for label, stem in trained.items()},
                )
                for photos in SIZES if photos != MIDDLE
            ),
            Sensitivity(
                "Score and sensitivity",
                "The sensitivity is the standard deviation over the three numbers of photos,\n"
                "averaged over the four columns. It means something only where it is larger than\n"
                "the spread of seeds, which stands beside it.",
                "pretexts.png",
                SCORES,
                {
                    label: {photos: of_size(stem, photos) for photos in SIZES}
                    for label, stem in trained.items()
                },
                seen=SEEN_SIZES,
            ),
        ],
    )  # fmt: skip


TEXT = ""
SEEN_MIDDLE = ""
SEEN_SIZES = ""
