r"""The paper's comparisons on two CPU cores, with a quarter of VGG-16's channels.

python -m colorize_jax.study small --workdir=/ckpt/small --data=/data

--data holds tiny_imagenet_part1.zip and tiny_imagenet_part2.zip (the first 250 training photos of
each class of Tiny ImageNet, and its validation photos, as tiny_imagenet/train/CLASS and
tiny_imagenet/val/CLASS), and voc2012_subset_256.zip (3,576 photos of VOC 2012 with masks, long
side 256, as a devkit). --only=col --only='search*' --only='seg_col-?' --only='seg_random-?' does
the runs that the first rows need.
"""

import dataclasses

from colorize_jax.studies.plan import Gain, Plot, Row, Run, Search, Study, Table, seeded

SEEDS = (0, 1, 2)
PHOTOS = tuple(f"$DATA/tiny_imagenet_part{part}.zip/tiny_imagenet/train" for part in (1, 2))
NETWORK = {"model.width": 0.25, "model.fc6_kernel": 3}
HEAD = {"model.hidden": 256}
# Classes that the 445 photos of the subset's val show often enough.
NINE = ("background", "cat", "chair", "cow", "dog", "horse", "person", "sheep", "sofa")

PRETRAINING = (
    NETWORK
    | HEAD
    | {
        "data.source": ",".join(PHOTOS),
        "data.scale": (64, 96),
        "data.crop": 64,
        "data.batch_size": 32,
        "data.holdout": 0.01,
        "data.threads": 2,
        "task.points": 64,
        "task.edge_buffer": 8,
        "optimizer.rate": 0.01,
        "steps": 6250,
        "checkpoint.every": 625,
        "eval.every": 1250,
        "eval.photos": 256,
        "log.every": 50,
    }
)
SEGMENTATION = (
    NETWORK
    | HEAD
    | {
        "data.source": "$DATA/voc2012_subset_256.zip",
        "data.split": "train",
        "data.longest_side": 128,
        "data.crop": 96,
        "data.batch_size": 10,
        "data.threads": 2,
        "task.points": 64,
        "eval.classes": NINE,
        "steps": 1600,
        "eval.every": 400,
        "log.every": 50,
    }
)
# Running averages over 33 steps: over 1,000, as in the release, they are of weights long gone, and
# over 100 mIoU-9 is still 0.006 to 0.009 lower than with averages over fresh batches.
KEPT = {"model.norm": "batch", "model.norm_decay": 0.97}
# They are of 330 crops then, and noisy: scores on val are with averages over 600.
FRESH = {"eval.norm_batches": 60}
# Windows of 200 steps, each scored on the same 313 photos. No drop in the first half, in which
# scores still go up and down.
SEARCHED = {"early_stopping.window": 200, "early_stopping.minimum": 800}
CLASSES = NETWORK | {
    "model.fc6_padding": "SAME",
    "data.source": "$DATA/tiny_imagenet_part1.zip/tiny_imagenet",
    "data.scale": (64, 73),
    "data.crop": 64,
    "data.batch_size": 32,
    "data.threads": 2,
    "task.classes": 200,
    "eval.shortest": 64,
    "steps": 900,
    "eval.every": 900,
    "log.every": 50,
}
# A classifier that sees as many crops as colorization does. With SGD and a rate of 0.01 or 0.03 it
# learns next to nothing in its first 300 to 900 steps, and with dropout it is right on 9.2 % of the
# photos at the end, instead of 15.2 %.
LABELLED = NETWORK | {
    "optimizer.name": "adam",
    "optimizer.rate": 0.001,
    "schedule.name": "cosine",
    "schedule.warmup": 0.05,
    "model.fc6_padding": "SAME",
    "model.norm_decay": 0.99,
    "model.dropout": 0.0,
    "data.source": ",".join(path.removesuffix("/train") for path in PHOTOS),
    "data.scale": (64, 96),
    "data.crop": 64,
    "data.batch_size": 32,
    "data.threads": 2,
    "eval.shortest": 64,
    "eval.photos": 2000,
    "eval.norm_batches": 20,
    "steps": 6250,
    "checkpoint.every": 625,
    "eval.every": 6250,
    "log.every": 50,
}
# Of Table 4: a label, the part of a name, the start's variant and settings, and the paper's number.
LABELS = (
    ("C200, 250 photos a class", "c200", "", {}, "62.0"),
    ("C200, 100 photos a class", "c200_100", "", {"data.per_class": 100}, "57.1"),
    ("C200, 10 photos a class", "c200_10", "", {"data.per_class": 10}, "44.4"),
    ("E10", "e10", ":e10", {}, "61.8"),
    ("E50", "e50", ":e50", {}, "59.4"),
    ("H16", "h16", ":h16", {}, "60.0"),
    ("H2", "h2", ":h2", {}, "46.1"),
    ("R16", "r16", ":r16", {}, "42.6"),
    ("R16, twice as long", "r16_double", ":r16,double", {"steps": 12500}, "53.5"),
)
SNAPSHOTS = {9888: 309, 49504: 1547, 99008: 3094, 148512: 4641}  # Photos seen: the step.
SEG, CLS = "voc2012_seg", "imagenet_subset_cls"


def names(stem: str, seeds=SEEDS) -> tuple[str, ...]:
    return tuple(f"{stem}-{seed}" for seed in seeds)


def dotted(settings: dict) -> dict:
    """{"optimizer.rate": 0.001} for optimizer__rate=0.001."""
    return {key.replace("__", "."): value for key, value in settings.items()}


def pretrained(name: str, variant: str = "", branch: str = "", **settings) -> Run:
    changed = PRETRAINING | dotted(settings)
    return Run(name, f"vgg16_col{variant}", changed, branch=branch)


def segmentation(
    name: str, start: str = "col", seeds=SEEDS, search: str = "search_seg_col", **settings
) -> list[Run]:
    """From a colorization checkpoint, or from "", a random start, by the schedule of a search."""
    recipe = f"{SEG}:no_fov" if start else f"{SEG}:random,no_fov"
    run = Run(name, recipe, SEGMENTATION | FRESH | dotted(settings), start=start, search=search)
    return seeded(run, seeds)


def random_segmentation(
    name: str, seeds=SEEDS, search: str = "search_seg_random", **settings
) -> list[Run]:
    return segmentation(name, "", seeds, search, **settings)


def classification(per_class: int, seeds=SEEDS) -> list[Run]:
    settings = CLASSES | {"data.per_class": per_class}
    col = Run(f"cls{per_class}_col", CLS, settings | {"optimizer.rate": 0.003}, start="col")
    kept = settings | KEPT | FRESH | {"optimizer.rate": 0.01}
    kept = dataclasses.replace(col, name=f"{col.name}_bn", settings=kept)
    random = Run(f"cls{per_class}_random", f"{CLS}:random", settings | KEPT | FRESH)
    return [*seeded(random, seeds), *seeded(kept, seeds), *seeded(col, seeds)]


def labels(name: str, variant: str, settings: dict, seeds) -> list[Run]:
    """A classifier of Tiny ImageNet, and segmentation from it by the random start's schedule."""
    start = Run(f"labels_{name}", f"imagenet_labels{variant}", LABELLED | settings)
    return [start, *segmentation(f"seg_{start.name}", start.name, seeds, "search_seg_random")]


def labels_seeds(name: str) -> tuple[int, ...]:
    return SEEDS if name == "c200" else SEEDS[:1]  # The ends of the table have all seeds.


def get_study() -> Study:
    """The whole study; the order is that of what matters most."""
    steps = [
        pretrained("col"),
        Search(
            "search_seg_col", f"{SEG}:no_fov", SEGMENTATION | SEARCHED, start="col",
            candidates=(
                KEPT | {"optimizer.rate": 0.01},
                KEPT | {"optimizer.rate": 0.003},
            ),
        ),
        Search(
            "search_seg_random", f"{SEG}:random,no_fov", SEGMENTATION | SEARCHED,
            candidates=(
                KEPT | {"optimizer.rate": 0.01},
                KEPT | {"optimizer.rate": 0.003},
            ),
        ),
        # Seed by seed, so that what is there can be compared at any time.
        *(run for seed in SEEDS
          for run in (*segmentation("seg_col", seeds=(seed,)),
                      *random_segmentation("seg_random", seeds=(seed,)))),
        *classification(100, SEEDS[:1]),
        *classification(10, SEEDS[:1]),
        pretrained("col_regression", ":regression"),
        *segmentation("seg_regression", "col_regression", SEEDS[:1]),
        pretrained("col_regression_slow", ":regression", optimizer__rate=0.001),
        *segmentation("seg_regression_slow", "col_regression_slow", SEEDS[:1]),
        pretrained("col_no_hypercolumn", ":no_hypercolumn"),
        *segmentation("seg_no_hypercolumn", "col_no_hypercolumn", SEEDS[:1]),
        *segmentation("seg_col_head", seeds=SEEDS[:1], finetune="head"),
        *segmentation("seg_col_fc", seeds=SEEDS[:1], finetune="fc6,fc7"),
        *segmentation("seg_col_conv4", seeds=SEEDS[:1], finetune="conv4_1..fc7"),
        *random_segmentation("seg_random_head", seeds=SEEDS[:1], finetune="head"),
        *random_segmentation("seg_random_fc", seeds=SEEDS[:1], finetune="fc6,fc7"),
        *random_segmentation("seg_random_conv4", seeds=SEEDS[:1], finetune="conv4_1..fc7"),
        *(run for photos, step in SNAPSHOTS.items()
          for run in segmentation(f"seg_col_at_{photos}", f"col@{step}", SEEDS[:1])),
        # The same run until the first drop, at step 4167.
        pretrained("col_no_drop", ":no_drop", branch="col@3094"),
        *segmentation("seg_no_drop", "col_no_drop", SEEDS[:1]),
        # What the gain may be limited by: hidden units that died, and small crops.
        pretrained("col_slow", optimizer__rate=0.004),
        *segmentation("seg_col_slow", "col_slow", SEEDS[:1]),
        pretrained("col_large", data__scale=(96, 128), data__crop=96, steps=3125),
        *segmentation("seg_col_large", "col_large", SEEDS[:1]),
        # Whether it is the start or the schedule.
        *segmentation("seg_col_swapped", seeds=SEEDS[:1], search="search_seg_random"),
        *random_segmentation("seg_random_swapped", SEEDS[:1], "search_seg_col"),
        *(run for _, name, variant, settings, _ in LABELS
          for run in labels(name, variant, settings, labels_seeds(name))),
        # How much pretrainings of one kind differ, and Figure 4 with all seeds of the transfer.
        pretrained("col_second", seed=1),
        *segmentation("seg_col_second", "col_second"),
        # Whether a linear warm-up, which spares hidden units, helps the transfer.
        pretrained("col_warm", schedule__warmup=0.05),
        *segmentation("seg_col_warm", "col_warm"),
        *(run for photos, step in SNAPSHOTS.items()
          for run in segmentation(f"seg_col_second_at_{photos}", f"col_second@{step}")),
        pretrained("col_second_no_drop", ":no_drop", branch="col_second@3094", seed=1),
        *segmentation("seg_second_no_drop", "col_second_no_drop"),
    ]  # fmt: skip
    ours = "VOC 2012 animal subset, mIoU-9, %"
    paper = "paper: VOC 2012, mIoU of 21 classes, %"
    return Study(
        title="Results",
        text=TEXT,
        steps=steps,
        sections=[
            Table(
                "Pretraining pays: segmentation",
                "Both starts are fine-tuned in the same way. Early stopping found the schedule\n"
                "and the settings for each (with seed 0, on 90 % of the training photos).",
                "eval/miou_9", ours, paper=paper,
                rows=[
                    Row("Random start", names("seg_random"), "32.8"),
                    Row("Colorization", names("seg_col"), "50.7"),
                    Gain("gain", names("seg_col"), names("seg_random")),
                    Row("Colorization, pretrained with another seed", names("seg_col_second")),
                    Gain("gain", names("seg_col_second"), names("seg_random")),
                    Row("Random start, the schedule of colorization",
                        names("seg_random_swapped", SEEDS[:1])),
                    Row("Colorization, the schedule of the random start",
                        names("seg_col_swapped", SEEDS[:1])),
                ],
                seen=SEEN_SEGMENTATION,
            ),
            *(Table(
                f"Pretraining pays: {per_class} photos a class",
                f"Tiny ImageNet, 200 classes, {per_class} photos each, tested on its 10,000\n"
                "validation photos. Every start has 900 steps of 32 photos, without a search.",
                "eval/top5", "Tiny ImageNet, top-5, % (chance: 2.5)",
                paper="paper: ImageNet, 1000 classes, top-5, %",
                rows=[
                    Row("Random start", names(f"cls{per_class}_random", SEEDS[:1]), rnd),
                    Row("Colorization, batch norm absorbed",
                        names(f"cls{per_class}_col", SEEDS[:1]), col),
                    Row("Colorization, batch norm kept",
                        names(f"cls{per_class}_col_bn", SEEDS[:1])),
                ],
                seen=seen,
            ) for per_class, rnd, col, seen in (
                (100, "43.2", "59.0", SEEN_CLASSES), (10, "8.6", "23.3", ""))),
            Table(
                "What is predicted (Table 2)",
                "Every start is transferred as in the first table.",
                "eval/miou_9", ours, paper=paper,
                rows=[
                    Row("Regression, rate 0.01", names("seg_regression", SEEDS[:1])),
                    Row("Regression, rate 0.001",
                        names("seg_regression_slow", SEEDS[:1]), "48.0"),
                    Row("Histograms, no hypercolumn in pretraining",
                        names("seg_no_hypercolumn", SEEDS[:1]), "52.7"),
                    Row("Histograms", names("seg_col"), "52.9"),
                ],
                seen=SEEN_LOSSES,
            ),
            Table(
                "Field of view (Table 3)",
                "The blocks widen the field of view of fc7. Without them it already covers crops\n"
                "of 96 pixels.",
                "eval/miou_9", ours, paper=paper,
                rows=[
                    Row("Colorization", names("seg_col"), "50.7"),
                    Row("Colorization, +FoV", (), "52.9",
                        not_run="the field already covers the image"),
                ],
            ),
            Table(
                "How many labels, and which (Table 4)",
                TEXT_LABELS, "eval/miou_9", ours, paper=paper,
                rows=[
                    Row("Random start", names("seg_random"), "35.1"),
                    *(Row(label, names(f"seg_labels_{name}", labels_seeds(name)), number)
                      for label, name, _, _, number in LABELS),
                ],
                seen=SEEN_LABELS,
            ),
            Table(
                "How much is fine-tuned (Table 6)",
                "The head is always trained. All rows of a start have the same schedule.",
                "eval/miou_9", ours, paper=paper,
                rows=[
                    Row("Random, none", names("seg_random_head", SEEDS[:1]), "3.6"),
                    Row("Random, fc6, fc7", names("seg_random_fc", SEEDS[:1])),
                    Row("Random, conv4_1 and above", names("seg_random_conv4", SEEDS[:1])),
                    Row("Random, all", names("seg_random"), "35.1"),
                    Row("Colorization, none", names("seg_col_head", SEEDS[:1]), "36.5"),
                    Row("Colorization, fc6, fc7", names("seg_col_fc", SEEDS[:1]), "42.6"),
                    Row("Colorization, conv4_1 and above",
                        names("seg_col_conv4", SEEDS[:1]), "53.6"),
                    Row("Colorization, all", names("seg_col"), "56.0"),
                ],
                seen=SEEN_LAYERS,
            ),
            Table(
                "Other pretrainings",
                "These are not in the paper. They are transferred as in the first table.",
                "eval/miou_9", ours,
                rows=[
                    Row("Random start", names("seg_random")),
                    Row("Rate 0.004", names("seg_col_slow", SEEDS[:1])),
                    Row("100,000 crops of 96 pixels, scaled to 96 to 128",
                        names("seg_col_large", SEEDS[:1])),
                    Row("Rate 0.01, 200,000 crops of 64 pixels, scaled to 64 to 96",
                        names("seg_col")),
                    Row("The same with another seed", names("seg_col_second")),
                    Row("The same with a warm-up of 312 steps", names("seg_col_warm")),
                ],
                seen=SEEN_OTHERS,
            ),
            Plot(
                "Rate drops, and the worth of snapshots (Figure 4)",
                "Dotted lines: the rate drops tenfold. The paper's numbers are the mean IoU of 21\n"
                "classes of VOC 2012: random 35.1; about 41 after 0.2 epochs; 52.9 after 3 epochs\n"
                "with drops, 49.1 without any; 56.0 after 10 epochs.",
                "figure4.png",
                curves={
                    "drops": "col", "no drop": "col_no_drop",
                    "drops, second pretraining": "col_second",
                    "no drop, second pretraining": "col_second_no_drop",
                },
                score="eval/miou_9",
                points={
                    "drops": {0: names("seg_random")}
                    | {photos: names(f"seg_col_at_{photos}", SEEDS[:1]) for photos in SNAPSHOTS}
                    | {200000: names("seg_col")},
                    "no drop": {200000: names("seg_no_drop", SEEDS[:1])},
                    "drops, second pretraining": {
                        photos: names(f"seg_col_second_at_{photos}") for photos in SNAPSHOTS
                    }
                    | {200000: names("seg_col_second")},
                    "no drop, second pretraining": {200000: names("seg_second_no_drop")},
                },
                seen=SEEN_SNAPSHOTS,
            ),
        ],
    )  # fmt: skip


TEXT = """
This page repeats the paper's comparisons on two CPU cores. The network is a VGG-16 with a quarter
of the width (fc6 3x3, hidden layer of 256). It is pretrained by colorization on 200,000 crops of
64 pixels, from 50,000 photos of Tiny ImageNet without their labels (its validation photos are
left out), and then transferred. The results show directions, not levels: the network, the photos
and the runs are far smaller than the paper's. The paper's numbers stand in a column of their own;
they are for full VOC 2012 and full-width networks.

The score of segmentation is the "VOC 2012 animal subset, mIoU-9": the mean IoU of background,
cat, chair, cow, dog, horse, person, sheep and sofa on 445 photos of VOC 2012 val with a long side
of 128 pixels, after training on 3,131. It is not comparable with published VOC numbers.
Predicting background everywhere scores 7.9.

"±" is the standard deviation over seeds of the transfer, from one pretraining; "one run" means one
seed. "not run" says that a row was not reached.

The plan came from runs that were timed first. Two runs went at a time, each on a core of its own:
a pretraining took 48 minutes, a search 8, a segmentation 8, a classification 4. The order was:

1. one pretraining, four searches, two times three seeds of segmentation, four classifications (3
   hours of one core);
2. Table 6 and the snapshots of Figure 4 (1 hour);
3. the run without drops, which branches off at half of the first pretraining (half an hour);
4. the two other pretrainings of Table 2 with their transfers (2 hours).

The times below are longer where other work shared the cores.

Every search has two candidates: rates of 0.01 and 0.003, with batch norm kept. It is scored on
313 training photos that are held out, with running averages of batch norm. The runs in the tables
are scored with averages over 600 crops (`config.eval.norm_batches`). With batch norm absorbed, as
in the paper, earlier searches reached 13.4 (colorization, rate 0.003) and 8.6 (random, rate
0.01): runs of 1,600 steps are too short for it.

Settings and results of every run are in [small/](small/), without checkpoints. With this folder
as --workdir, and with --only=nothing, the command above writes this page again.
"""

SEEN_SEGMENTATION = """
Colorization is better with every seed, by 2.1 to 3.4 points, which is several times the spread of
either start. From a second pretraining, with another seed, it is better by 2.4 to 2.6 points: two
pretrainings differ no more than two transfers. The direction is the paper's. The gain is a sixth of
the paper's 17.9, and less than the 4 points that this study aimed at.

The start makes the difference, not the schedule. The held-out photos of the searches show the
same (18.6 against 15.3), and so does each start with the other's schedule (one run each).

We think that size is what is missing: 200,000 crops of 64 pixels instead of the paper's 11
million of 352 (in its runs of three epochs), and 5.7 epochs of 3,131 small photos to fine-tune.
"Other pretrainings" below has the other causes that we looked for.

Four of the nine classes (chair, cow, person, sofa) are hardly ever predicted from either start.
The gain comes from sheep (12.8 against 0.9), cat (31.2 against 25.0) and horse (21.1 against
15.3), means of three seeds.
"""
SEEN_CLASSES = """
After 900 steps, the pretrained network is right on three times as many photos as the random
start, which is close to chance. As in the paper, pretraining helps most where training is short.

With batch norm absorbed, nothing of this gain is left. A network without batch norm needs the
smaller rate of 0.003, and 900 steps are too few for that, as they were for segmentation. There is
one seed, and schedules were not searched for.
"""
SEEN_LOSSES = """
At the rate of the histograms, 0.01, the regression loss killed all 256 hidden units of its head.
The answer was the same for every photo (loss 0.1121; the constant's is 0.1122), so the encoder
that was transferred is a random one. At a rate of 0.001, 9 % of the units are left, and the
network learns a little (0.1068). But the transfer is no better than from a random start (15.2)
either.

With the histograms, 26 % of the units are left at the end, and as many after 309 steps
(`eval/active_units`, [running.md](running.md)). A smaller rate keeps more units, and the transfer
is no better ("Other pretrainings").

The order is that of the paper; the distances are not (4.9 and 0.2 points there, with a gain of
17.9). Without hypercolumn, only fc7 is read, which has 2 x 2 cells in a crop of 64 pixels. The
loss then ends at 2.60 instead of 2.54 (the constant's: 2.72). Every row has one run, except the
last.
"""
TEXT_LABELS = """
Every start is a classifier of the 200 classes of Tiny ImageNet (C200), trained in gray from a
random start on as many crops as the colorization, 200,000, with Adam. Of E10 and E50, 10 % and 50 %
of the photos have one random label each. In H16 and H2 WordNet joins the classes to 16 and 2
buckets, in R16 chance does ([transfer.md](transfer.md#other-labels)). All starts are fine-tuned by
the schedule that was found for the random start. The paper's numbers are those of ImageNet's 1000
classes after 20 epochs (R16 also 40); 100 and 10 photos a class have 250 epochs there.
"""
SEEN_LABELS = """
The classifier of all labels is right on 15.2 % of 2,000 test photos (chance: 0.5). Its transfer is
better than from a random start with every seed, and no better than from colorization. E10 and H16
are as good (one run each, as all rows but the first two). As in the paper, a tenth of wrong labels
costs little, 16 buckets of WordNet are nearly as good as all classes, half of wrong labels costs
more, and two buckets and random buckets are the worst.

Not as in the paper, E50, H2 and R16 are worse than a random start, and R16 gains nothing by twice
as many steps (there 10.9 points). Four epochs, eight of R16, are too few for these labels. The
table has how much the labels tell at most (their entropy), the training loss over the last 500
steps, and the difference, which is what the network has learned of them:

| row | labels, nats | loss at the end | learned | transfer |
| --- | --- | --- | --- | --- |
| C200, 10 photos a class | 5.30 | 0.11 | 5.19 | 16.5 |
| C200, 100 photos a class | 5.30 | 3.70 | 1.60 | 16.4 |
| C200, 250 photos a class | 5.30 | 3.78 | 1.51 | 18.1 |
| E10 | 5.30 | 4.21 | 1.09 | 17.3 |
| H16 | 2.72 | 2.05 | 0.68 | 18.0 |
| R16, twice as long | 2.77 | 2.52 | 0.25 | 13.5 |
| H2 | 0.68 | 0.45 | 0.22 | 13.1 |
| E50 | 5.30 | 5.10 | 0.19 | 14.5 |
| R16 | 2.77 | 2.61 | 0.16 | 13.5 |

All that learned a quarter of a nat or less are worse than a random start, and all others better.
The harm is in the upper layers: with the convolutions of R16 up to conv5_3 and random fc6 and fc7,
the same transfer scores 15.4, as from a random start (one run, outside of the study). It is not
that few directions are left in fc7: by the eigenvalues of the channels' covariance (their sum
squared over the sum of their squares, 120 photos) there are 3.6 after R16, and 4.2 after H16, which
transfers as well as all classes. 10 and 100 photos a class, between which the paper has 12.7
points, do not differ here: the 2,000 photos are learned by heart in 100 epochs, and the 20,000 are
seen ten times.

The classifiers have no dropout here. With VGG-16's own, of one half in fc6 and fc7, 200,000 crops
teach them less: 9.2 % for all labels, a loss of 4.26 at the end instead of 3.8, and a transfer no
better than from a random start (15.5, one run). With it 10 photos a class transferred better
(18.0; their loss fell to 0.9), and R16 worse (12.6). At this length, the loss that a training
reaches counts more than its labels.

## Which layers move (Figure 3)

How far the transfer moves the features, from 1 (a channel answers as before) to 0, in the second
pretraining and in the classifier of all labels (`python -m colorize_jax.analysis shift` with
--shortest=128, --crop=96, --border=16 and 300 of the 445 photos; [analysis.md](analysis.md)):

![Correlation of features before and after the transfer, layer by layer](shift.png)

As in the paper, colorization's features move more than the classifier's, most in conv4 and conv5,
and in both the lowest layers move least. The two transfers have different schedules, those of the
tables above.

`analysis top` shows what units of conv5_3 in the second pretraining answer (Figure 5). Of sixteen
units, chosen by the mean chroma of their patches, those of the least color answer to white skies,
windows and other overexposed areas, and those of the most color to grass, fur, wood and blue
skies. The nearest neighbors by conv4_3 are photos of similar light and composition, from
colorization as from labels; they are seldom of the same animal.
"""
SEEN_LAYERS = """
The order is that of the paper: the more layers are fine-tuned, the better. With a frozen random
encoder, with or without its fc layers, only background is predicted (7.9). The frozen encoder of
colorization reaches 11.4, a third of the way from there to fine-tuning all layers (in the paper:
two thirds).

Frozen layers normalize by the averages that they have. After pretraining these are from other
photos and other crops; in a random encoder they are from no photos. This may be why fc6 and fc7
alone add so little here.
"""
SEEN_OTHERS = """
None of these changes made the transfer better:

- A smaller rate. At a rate of 0.01, three quarters of the head's hidden units die in the first
  steps. At 0.004, 34 % are left instead of 26 %, but the loss ends at 2.565 instead of 2.544.
- Larger crops. They show objects at about the size that these have in the photos of VOC. In the
  same time there are half as many crops.
- A head of the segmentation whose hidden layer starts 250 times as large (a constant that was
  changed in the code; it is not in the table). It scored 18.5 from colorization and 14.1 from a
  random start. The method's own head scores 18.3 and 15.5 with the same seed.

There is one run of each of these. The last kind was pretrained twice (17.7 and 18.0), so a
difference of half a point means nothing.

The hidden units that die can be spared in part by a linear warm-up. These are the first 500 steps
of the pretraining above without and with one of 312 steps (`schedule.warmup=0.05`), on 96 held-out
photos, one run each. The plot has the training loss with its running average, the
table the loss of the held-out photos:

![Units that respond, and the loss, in the first 500 steps](warmup.png)

| step | 50 | 100 | 200 | 300 | 400 | 500 |
| --- | --- | --- | --- | --- | --- | --- |
| units that respond, no warm-up, % | 31 | 25 | 25 | 25 | 25 | 26 |
| units that respond, warm-up, % | 51 | 43 | 40 | 35 | 32 | 33 |
| loss, no warm-up | 2.709 | 2.647 | 2.646 | 2.612 | 2.632 | 2.586 |
| loss, warm-up | 2.790 | 2.706 | 2.652 | 2.640 | 2.644 | 2.584 |

A third of the units is left then, and not a quarter, and so it stays: 35 instead of 26 % at the
end. The loss of the held-out photos ends at 2.553 instead of 2.544. The transfers score 18.0 ± 0.6,
and 18.0 ± 0.4 and 17.7 ± 0.4 without a warm-up. One pretraining with it and two without do not
tell more than that it does little, so the recipes stay as they are.
"""
SEEN_SNAPSHOTS = """
The transfer grows with the photos that were seen. After 9,888 and 49,504 it is hardly better than
from a random start, in both pretrainings. Half of the photos, before any drop of the rate, give two
thirds of the gain in the second pretraining, and all of it in the first, which has one run there.

Runs without drops transfer no worse than those with them (18.0 and 17.7 in the second pretraining),
although their losses end at 2.65 and 2.60 instead of 2.54 and 2.57. In the paper, drops gain 3.8
points, but its pretraining is fifty times as long. What is gained here after the first drop comes
from the photos, with drops or without.
"""
