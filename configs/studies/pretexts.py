r"""Which pretext helps which photos: all pretexts on one small trunk, under one protocol.

python -m colorize_jax.study pretexts --workdir=/ckpt/pretexts --data=/data

--data is that of the study `small`. A run takes one to six minutes of one core. The commands of two
terminals may share the workdir: --only='*-0' does seed 0 of everything, --only='*rotation*' one
pretext.
"""

import dataclasses

from colorize_jax.studies.plan import Frozen, Grid, Run, Sensitivity, Study

PARTS = tuple(f"$DATA/tiny_imagenet_part{part}.zip/tiny_imagenet" for part in (1, 2))
SIZES = (10_000, 20_000, 40_000)
MIDDLE = 20_000  # The size with several seeds.
SEEDS = (0, 1, 2)
BATCH, STEPS = 64, 1600
CLASSES = 200

ALEXNET = {
    "model.name": "alexnet_bn",
    "model.width": 0.25,
    "model.fc6_kernel": 1,
    "model.norm_decay": 0.99,
}
TRAINING = {
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


@dataclasses.dataclass(frozen=True)
class Pretext:
    """A recipe, the settings in which it differs from its own, its trunk, and what is scored.

    Attributes:
        recipe, settings: see `Run`.
        like: the random encoder to compare with.
    """

    recipe: str
    settings: dict
    like: str = "color"


PRETEXTS = {
    "colorization": Pretext(
        "vgg16_col",
        {
            "model.hidden": 256,
            "data.scale": (64, 96),
            "task.points": 16,
            "task.edge_buffer": 8,
        },
        "gray",
    ),
    "rotation": Pretext("rotation:small", {}),
    "jigsaw": Pretext("jigsaw:small", TILES),
    "relative_patch": Pretext("relative_patch:small", TILES | {"data.crop": 72}),
    "counting": Pretext("counting:small", TILES),
    "context_encoder": Pretext("context_encoder:small", TOP | {"task.decoder": 64}),
    "split_brain": Pretext("split_brain:small", TOP, "split"),
    "lab_decoder": Pretext("lab_decoder:small", TOP | {"task.decoder": 32}, "gray"),
    "simclr": Pretext("simclr:small", {}),
    "mae": Pretext("mae:small", {}, "vit"),
    "instances": Pretext("instances:small", {}),
    # The time of its loss grows with the square of the batch.
    "cpc": Pretext(
        "cpc:small",
        TOP
        | {
            "data.batch_size": BATCH // 4,
            "steps": 4 * STEPS,
            "checkpoint.every": 4 * STEPS,
            "eval.every": 4 * STEPS,
        },
        "layer norm",
    ),
    "zhang": Pretext("zhang_col:small", {"data.scale": (64, 65), "data.crop": 64}, "gray"),
}
SLOWEST = ("lab_decoder", "zhang", "cpc")  # They come after the other pretexts' seeds.
# The pretext whose network is that of a random encoder.
RANDOM = {
    "color": "rotation",
    "gray": "lab_decoder",
    "split": "split_brain",
    "vit": "mae",
    "layer norm": "cpc",
}
LABELS = {
    "data.source": ",".join(PARTS),
    "data.scale": (64, 73),
    "task.classes": CLASSES,
    "model.fc6_padding": "SAME",
    "eval.shortest": 64,
}
SEEN = {
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


LAYERS = {"vit": "block1,block2,block3,block4,norm"}


def network(kind: str) -> dict:
    """The settings of the trunk of a kind of random encoder."""
    return {} if kind == "vit" else ALEXNET


def scored(name: str, seed: int, kind: str = "color") -> list[Frozen]:
    """The frozen features of a run on all sets."""
    own = {"layers": LAYERS.get(kind, "conv2,conv3,conv4,conv5"), "seed": seed}
    return [Frozen(f"tiny_{name}", TINY | own, name), Frozen(f"voc_{name}", VOC | own, name)]


def pretrained(name: str, photos: int, seed: int) -> list:
    """The pretraining with so many photos, and its scores."""
    pretext, run = PRETEXTS[name], f"{name}_{photos // 1000}k-{seed}"
    chosen = {"data.photos": photos, "seed": seed}
    settings = TRAINING | network(pretext.like) | PHOTOS | pretext.settings | chosen
    return [Run(run, pretext.recipe, settings), *scored(run, seed, pretext.like)]


def stem_of(kind: str) -> str:
    """The name of a kind of random encoder, without its seed."""
    return f"random_{kind.replace(' ', '_')}"


def random(kind: str, seed: int) -> list:
    """A random encoder, whose averages of batch norm are those of photos."""
    pretext, name = PRETEXTS[RANDOM[kind]], f"{stem_of(kind)}-{seed}"
    still = {"optimizer.rate": 0.0, "steps": 100, "checkpoint.every": 100, "eval.every": 100}
    chosen = {"data.photos": MIDDLE, "seed": seed}
    settings = TRAINING | network(kind) | PHOTOS | pretext.settings | still | chosen
    return [Run(name, pretext.recipe, settings), *scored(name, seed, kind)]


def labelled(photos: int, seed: int) -> list:
    """The top line: the labels of as many photos."""
    name = f"labels_{photos // 1000}k-{seed}"
    chosen = {"data.per_class": photos // CLASSES, "seed": seed}
    settings = TRAINING | ALEXNET | LABELS | chosen
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
        steps += labelled(MIDDLE, seed)
        for kind in RANDOM:
            steps += random(kind, seed)
        for name in PRETEXTS:
            if name not in SLOWEST:
                steps += pretrained(name, MIDDLE, seed)
    for seed in SEEDS:
        for name in SLOWEST:
            steps += pretrained(name, MIDDLE, seed)
    for photos in SIZES:
        if photos != MIDDLE:
            steps += labelled(photos, 0)
            for name in PRETEXTS:
                steps += pretrained(name, photos, 0)
    trained = {"labels": "labels"} | {f"`{name}`": name for name in PRETEXTS}
    rows = {"labels": of_size("labels", MIDDLE)}
    # A pretext stands below the random encoder of its own network and input.
    for kind in RANDOM:
        rows[f"random, {kind}"] = row(f"{stem_of(kind)}-{seed}" for seed in SEEDS)
        rows |= {f"`{n}`": of_size(n, MIDDLE) for n, own in PRETEXTS.items() if own.like == kind}
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
                rows,
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


TEXT = f"""
Which pretext helps, and how much does it need? Every pretext trains the same small network on the
same photos for the same number of steps. Then the network is frozen, and classifiers read labels
off its features. Next to every pretext stands a random encoder of the same network and input: that
is what a pretraining must beat.

- **Network.** AlexNet with batch norm (the trunk of RotNet and of the student report of Macar and
  Liu), with a quarter of the channels, on crops of 64 pixels: 16 to 96 channels, 4 x 4 cells at
  the top. MAE has a small vision transformer, split-brain the same AlexNet in two halves.
- **Photos.** {SIZES[0]:,}, {SIZES[1]:,} and {SIZES[2]:,} of 50,000 of Tiny ImageNet, without
  labels; the smaller sets are parts of the larger ones.
- **Training.** {STEPS:,} steps of {BATCH} photos ({STEPS * BATCH:,} photos seen, whatever the
  size), Adam with a rate of 0.001 that falls along a cosine. Rates were not searched for, and no
  score on test photos chose anything.
- **Labels** are the top line: the same network and steps, with the classes of as many photos.
- **Score.** `python -m colorize_jax.frozen`, with the layer that is best on a tenth of the training
  photos: a linear softmax on at most 1,024 values of a layer, for the 200 classes with 100 and with
  10 photos each, tested on 10,000 others; k-NN as published (200 neighbors, temperature 0.07); and
  linear SVMs for eight classes of a subset of VOC 2012 (3,131 photos, tested on 445). Averages of
  batch norm are taken anew from 2,000 of the photos that are labelled.

Full size is another study, `python -m colorize_jax.study pretexts_full`
(`configs/studies/pretexts_full.py`), which was not run yet: every pretext with the network and the
recipe of its paper, 24 million photos seen, and scores on ImageNet, CIFAR-10, SVHN, Oxford Flowers
and VOC. Nothing here says how the pretexts would compare there. CIFAR-10 was not at hand here.
"""
SEEN_MIDDLE = """
A pretext is said to beat its random encoder in a column if each of its three runs is above each of
the three random ones. If both were the same, that would happen in one column of twenty.

- **MAE** beats its random encoder in all columns (k-NN 5.7 against 3.7 %), and **CPC** in all but
  VOC (k-NN 6.4 against 4.7 %).
- **Colorization** beats the random encoder of gray in the three columns of Tiny ImageNet: 7.6
  against 6.6 % by softmax, 3.3 against 2.5 % with ten labels, 4.7 against 3.3 % by k-NN. On VOC it
  is no better. **Zhang's colorization**, with the same input, is above it by less than the spread
  (k-NN 3.7 against 3.3 %). **The decoder of L to ab** beats it there in all three
  (7.2, 3.2 and 4.4 %).
- **SimCLR** and **instance discrimination** beat it by k-NN (7.0 and 6.9 against 5.7 %) and with
  ten labels a class (4.4 and 4.3 against 3.6 %), and do not with a hundred.
- **Split-brain** beats it by k-NN (7.7 against 6.5 %).
- **Rotation** has a higher mean in all four columns (k-NN 6.3 against 5.7 %), but its seeds differ
  more (5.7 to 7.1 %). **Context encoders** and **jigsaw** have a higher mean on VOC (32.7 and 33.5
  against 31.7 %), where random encoders differ by 3 points; by k-NN context encoders are about
  equal to it (5.9 %), and jigsaw is below (5.2 %).
- **Relative patches and counting** beat it in no column, and are below it on Tiny ImageNet. They do
  learn their own task (accuracy 22 % with chance at 12.5; loss 7.1, of 10 by counting nothing).
  Averages of batch norm are not the cause: taken anew, they raise relative patches from 7.4 to
  7.8 % (seed 0). The network of relative patches sees one channel of three, and noise in the
  others, so it cannot learn from colors; a random encoder that reads gray is at 6.6 %. Four
  times as many steps (seed 0) raise the accuracy of relative patches to 23.7 % and leave the
  features as they are (7.8 %, k-NN 4.4 %). Patches in color were not tried.

The own tasks were learned so far, on held-out photos: rotation 44 % (chance: 25); jigsaw 21 to 25 %
(chance: 4); SimCLR 1.06 to 1.11 nats below a guess; CPC 0.77 to 0.79 nats of information, of 6.66
at most; MAE 0.74 to 0.77 of a variance of 1; instance discrimination a loss of 2.7 to 2.9, of 6.0.

Random encoders differ much with their input: 6.6 % with gray, 9.9 % with color, 11.9 % with L and
ab in separate halves. A pretext that reads other colors than another one must not be compared with
it alone. The top line, labels, is only a point above the random encoder after so few steps, except
by k-NN and with few labels: in an AlexNet of a quarter of the width, conv2 is nearly as good for a
linear classifier as what is above it.
"""
SEEN_SIZES = """
With these few steps it does not matter how many photos there are: the sensitivity is 0.2 to 0.4
points, about the spread of seeds. Every run sees 102,400 photos, so that of 10,000 each is
seen ten times, and of 40,000 two or three times. What beats its random encoder with 20,000 photos
does so, in the same columns, with 10,000 and with 40,000: by k-NN, MAE 6.0 and 5.9 % (random: 3.7),
SimCLR 7.6 and 7.3 and instance discrimination 7.3 and 6.1 (random: 5.7), split-brain 7.6 and 8.1
(random: 6.5), colorization 4.8 and 5.1 (random: 3.3). Rotation, at 6.7 and 6.6, is above the random
encoders' 5.5 to 5.8 % there, too. Longer trainings are needed to see what more photos bring.

All runs together took 7 hours of one core. Zhang's colorization, the decoder of L to ab and CPC,
the slowest, were not run with other numbers of photos.
"""
